//! Rotary positions on a grid (Su et al. 2021, in two dimensions).

use candle_core::{D, DType, Device, Tensor};

use super::LlamaConfig;
use crate::Result;
use crate::norm::wide;

/// Cosine and sine, `[prefix + grid^2, head_dim / 2]` each, f32: the first half of
/// the pairs turns with the row, the second with the column.
///
/// The reference's rows for the prefix are zeros, not the identity: queries and
/// keys of condition tokens vanish, so that every position reads them with the
/// weight of a score of 0.
pub(super) fn table(config: &LlamaConfig, device: &Device) -> Result<(Tensor, Tensor)> {
    let half = config.head_dim() / 2;
    let (grid, prefix) = (config.grid(), config.prefix_positions());
    let frequencies: Vec<f64> =
        (0..half / 2).map(|i| config.rope_base.powf(-((2 * i) as f64) / half as f64)).collect();
    let mut cosine = vec![0f32; prefix * half];
    let mut sine = vec![0f32; prefix * half];
    for position in 0..grid * grid {
        for along in [position / grid, position % grid] {
            for frequency in &frequencies {
                let angle = along as f64 * frequency;
                cosine.push(angle.cos() as f32);
                sine.push(angle.sin() as f32);
            }
        }
    }
    let shape = (prefix + grid * grid, half);
    Ok((Tensor::from_vec(cosine, shape, device)?, Tensor::from_vec(sine, shape, device)?))
}

/// Turns neighbouring pairs of `x: [B, H, T, D]` by the angles of `[T, D / 2]`, in
/// f32 for half-precision inputs.
pub(super) fn rotate(x: &Tensor, (cosine, sine): &(Tensor, Tensor)) -> candle_core::Result<Tensor> {
    let (batch, heads, len, dim) = x.dims4()?;
    let dtype = x.dtype();
    let angles = |table: &Tensor| -> candle_core::Result<Tensor> {
        table.reshape((1, 1, len, dim / 2))?.to_dtype(wide(dtype))
    };
    let (cosine, sine) = (angles(cosine)?, angles(sine)?);
    let pairs = x.to_dtype(wide(dtype))?.reshape((batch, heads, len, dim / 2, 2))?;
    let even = pairs.narrow(D::Minus1, 0, 1)?.squeeze(D::Minus1)?;
    let odd = pairs.narrow(D::Minus1, 1, 1)?.squeeze(D::Minus1)?;
    let turned_even = (even.broadcast_mul(&cosine)? - odd.broadcast_mul(&sine)?)?;
    let turned_odd = (odd.broadcast_mul(&cosine)? + even.broadcast_mul(&sine)?)?;
    let turned = Tensor::stack(&[turned_even, turned_odd], D::Minus1)?;
    turned.reshape((batch, heads, len, dim))?.to_dtype(dtype)
}

/// `[T, D / 2, 2]`, the reference's `freqs_cis`.
pub(super) fn stacked((cosine, sine): &(Tensor, Tensor)) -> Result<Tensor> {
    Ok(Tensor::stack(&[cosine, sine], D::Minus1)?.to_dtype(DType::F32)?)
}
