//! Scaled dot-product attention over many heads, and its masks.

use candle_core::{D, Device, Result, Tensor};

use crate::norm::{fusable, wide};

/// `[B, T, H * D]` to `[B, H, T, D]`.
pub(crate) fn split_heads(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (batch, len, width) = x.dims3()?;
    x.reshape((batch, len, heads, width / heads))?.transpose(1, 2)
}

/// `softmax(q k^T / sqrt(D) + mask) v` for queries `[B, H, T, D]` and keys and
/// values `[B, H', S, D]`, H a multiple of H'. The mask, if any, holds 0 or
/// minus infinity and broadcasts to `[B, H, T, S]`. Result `[B, T, H * D]`.
/// Keys and values are contiguous, or views of the first positions of a cache.
pub(crate) fn attend(
    queries: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    mask: Option<&Tensor>,
) -> Result<Tensor> {
    let (batch, heads, len, dim) = queries.dims4()?;
    let dtype = queries.dtype();
    let keys = repeat_heads(keys, heads)?;
    let values = repeat_heads(values, heads)?;
    let queries = (queries.contiguous()? * (dim as f64).powf(-0.5))?;
    let scores = queries.matmul(&keys.t()?)?.to_dtype(wide(dtype))?;
    let scores = match mask {
        Some(mask) => scores.broadcast_add(&mask.to_dtype(scores.dtype())?)?,
        None => scores,
    };
    let weights = if fusable(&scores, &[]) {
        candle_nn::ops::softmax_last_dim(&scores)?
    } else {
        candle_nn::ops::softmax(&scores, D::Minus1)?
    };
    weights.to_dtype(dtype)?.matmul(&values)?.transpose(1, 2)?.reshape((batch, len, heads * dim))
}

/// Lets `heads / H'` neighbouring query heads share each of the H' heads of `x`.
fn repeat_heads(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (batch, have, len, dim) = x.dims4()?;
    if have == heads {
        return Ok(x.clone());
    }
    x.unsqueeze(2)?
        .broadcast_as((batch, have, heads / have, len, dim))?
        .reshape((batch, heads, len, dim))
}

/// An additive mask `[B, 1, T, S]`, f32: 0 where `visible(sample, query, key)`.
pub(crate) fn mask(
    (batch, queries, keys): (usize, usize, usize),
    device: &Device,
    visible: impl Fn(usize, usize, usize) -> bool,
) -> Result<Tensor> {
    let mut values = Vec::with_capacity(batch * queries * keys);
    for b in 0..batch {
        for q in 0..queries {
            values
                .extend((0..keys).map(|k| if visible(b, q, k) { 0.0 } else { f32::NEG_INFINITY }));
        }
    }
    Tensor::from_vec(values, (batch, 1, queries, keys), device)
}
