//! Rotary positions, for training.

#[cfg(feature = "cuda")]
use candle_core::DType;
use candle_core::{D, Result, Tensor};
use rayon::prelude::*;

use crate::cpu;
use crate::shared_mut::SharedMut;
use crate::wide::wide;

/// Turns neighbouring pairs of every head of `x` `[B, T, H D]` by the angles whose
/// cosine and sine are `[T, D / 2]`, f32 where `x` is in half precision (Su et al. 2021);
/// `back` applies the transposed matrices, which is the way gradients go. Without a graph
/// for f32 on the CPU.
///
/// # Errors
/// When the shapes do not fit.
pub fn rotate(x: &Tensor, cosine: &Tensor, sine: &Tensor, back: bool) -> Result<Tensor> {
    let (batch, len, width) = x.dims3()?;
    let (positions, half) = cosine.dims2()?;
    if positions != len || sine.dims() != cosine.dims() || half == 0 || width % (2 * half) != 0 {
        candle_core::bail!("rotary: angles {:?} for {:?}", cosine.shape(), x.shape())
    }
    #[cfg(feature = "cuda")]
    if crate::cuda::supports(&[x]) && !x.track_op() {
        let angles = [cosine, sine].map(|table| table.to_dtype(DType::F32));
        let [cosine, sine] = angles;
        return super::cuda::rotate(x, &cosine?, &sine?, back);
    }
    if !cpu::supports(x) || !cpu::supports(cosine) {
        return formula(x, cosine, sine, back);
    }
    let sign = if back { -1f32 } else { 1.0 };
    let turned = cpu::with_slices([x, cosine, sine], |[x, cosine, sine]| {
        let mut turned = Vec::with_capacity(x.len());
        let spare = SharedMut::new_spare(&mut turned);
        x.par_chunks(width).enumerate().for_each(|(row, x)| {
            let at = row % len * half;
            let (cosine, sine) = (&cosine[at..at + half], &sine[at..at + half]);
            for (head, x) in x.chunks_exact(2 * half).enumerate() {
                let pairs = x.chunks_exact(2).zip(cosine.iter().zip(sine));
                let pairs = pairs.flat_map(|(x, (c, s))| {
                    let s = sign * s;
                    [x[0] * c - x[1] * s, x[1] * c + x[0] * s]
                });
                // SAFETY: this head of this row, which no other task has.
                unsafe { spare.write(row * width + head * 2 * half, 2 * half, pairs) };
            }
        });
        // SAFETY: every head of every row was written.
        unsafe { turned.set_len(batch * len * width) };
        turned
    })?;
    Tensor::from_vec(turned, x.shape(), x.device())
}

/// The same in candle's graph; of half precision in f32.
fn formula(x: &Tensor, cosine: &Tensor, sine: &Tensor, back: bool) -> Result<Tensor> {
    let (batch, len, width) = x.dims3()?;
    let half = cosine.dim(1)?;
    let dtype = x.dtype();
    let x = wide(x)?;
    let angles = |table: &Tensor| table.reshape((1, len, 1, half))?.to_dtype(x.dtype());
    let (cosine, sine) = (angles(cosine)?, angles(sine)?);
    let sine = if back { sine.neg()? } else { sine };
    let pairs = x.reshape((batch, len, width / (2 * half), half, 2))?;
    let part = |i: usize| pairs.narrow(D::Minus1, i, 1)?.squeeze(D::Minus1);
    let (even, odd) = (part(0)?, part(1)?);
    let turned_even = (even.broadcast_mul(&cosine)? - odd.broadcast_mul(&sine)?)?;
    let turned_odd = (odd.broadcast_mul(&cosine)? + even.broadcast_mul(&sine)?)?;
    let turned = Tensor::stack(&[turned_even, turned_odd], D::Minus1)?;
    turned.reshape((batch, len, width))?.to_dtype(dtype)
}
