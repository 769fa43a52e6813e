//! Attention of many heads on NVIDIA GPUs. [`flash`] never has a matrix of weights; what
//! it does not take, dropout of weights and heads of more than 128 dimensions, is here:
//! products by cuBLAS, soft-max by a kernel that knows the mask, weights computed anew on
//! the way back. That is also what the kernels are compared with.

mod flash;

use candle_core::{Result, Tensor};

use super::Sizes;
use crate::sequence::{Dropout, scores};

/// `[B, T, H D]` as `[B, H, T, D]`, where `heads` of them serve `groups` each as many.
fn split(x: &Tensor, sizes: &Sizes, heads: usize) -> Result<Tensor> {
    let Sizes { batch, len, dim, .. } = *sizes;
    let all = sizes.heads.heads;
    let x = x.contiguous()?.reshape((batch, len, heads, dim))?.transpose(1, 2)?;
    if heads == all {
        return x.contiguous();
    }
    let x = x.unsqueeze(2)?.broadcast_as((batch, heads, all / heads, len, dim))?;
    x.contiguous()?.reshape((batch, all, len, dim))
}

/// The way back of [`split`]: sums over heads that one serves.
fn join(x: &Tensor, sizes: &Sizes, heads: usize) -> Result<Tensor> {
    let Sizes { batch, len, dim, .. } = *sizes;
    let all = sizes.heads.heads;
    let x = if heads == all {
        x.clone()
    } else {
        x.reshape((batch, heads, all / heads, len, dim))?.sum(2)?
    };
    x.transpose(1, 2)?.contiguous()?.reshape((batch, len, heads * dim))
}

fn scale(sizes: &Sizes) -> f32 {
    (sizes.dim as f32).powf(-0.5)
}

/// The weights `[B, H, T, T]`, before dropout.
fn weigh(sizes: &Sizes, queries: &Tensor, keys: &Tensor) -> Result<Tensor> {
    let products = queries.matmul(&keys.t()?)?;
    scores::attention_weights(&products, sizes.heads.unmasked, scale(sizes))
}

/// What the heads read.
pub(super) fn forward(
    sizes: Sizes,
    [queries, keys, values]: [&Tensor; 3],
    dropout: &Dropout,
) -> Result<Tensor> {
    if flash::takes(&sizes, queries, dropout)? {
        return flash::forward(&sizes, [queries, keys, values]);
    }
    let (heads, shared) = (sizes.heads.heads, sizes.heads.shared);
    let weights = weigh(&sizes, &split(queries, &sizes, heads)?, &split(keys, &sizes, shared)?)?;
    let weights = if dropout.is_on() { dropout.apply(&weights)? } else { weights };
    let read = weights.matmul(&split(values, &sizes, shared)?)?;
    join(&read, &sizes, heads)
}

/// The gradients to queries, keys and values.
pub(super) fn backward(
    sizes: Sizes,
    [queries, keys, values, read]: [&Tensor; 4],
    dropout: &Dropout,
) -> Result<[Tensor; 3]> {
    if flash::takes(&sizes, queries, dropout)? {
        return flash::backward(&sizes, [queries, keys, values, read]);
    }
    let (heads, shared) = (sizes.heads.heads, sizes.heads.shared);
    let (queries, keys) = (split(queries, &sizes, heads)?, split(keys, &sizes, shared)?);
    let (values, read) = (split(values, &sizes, shared)?, split(read, &sizes, heads)?);
    let weights = weigh(&sizes, &queries, &keys)?;
    let kept = if dropout.is_on() { dropout.apply(&weights)? } else { weights.clone() };
    let dv = kept.t()?.matmul(&read)?;
    drop(kept);
    let gradients = read.matmul(&values.t()?)?;
    let gradients = if dropout.is_on() { dropout.apply(&gradients)? } else { gradients };
    let gradients = scores::attention_weights_back(&weights, &gradients, scale(&sizes))?;
    drop(weights);
    let dq = gradients.matmul(&keys)?;
    let dk = gradients.t()?.matmul(&queries)?;
    Ok([join(&dq, &sizes, heads)?, join(&dk, &sizes, shared)?, join(&dv, &sizes, shared)?])
}
