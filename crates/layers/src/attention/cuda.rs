//! Attention on NVIDIA GPUs: products by cuBLAS, soft-max by a kernel of ours.

use candle_core::{Result, Tensor};

use crate::sequence::scores::{attention_weights, attention_weights_back};

fn scale(queries: &Tensor) -> Result<f32> {
    Ok((queries.dim(1)? as f32).powf(-0.5))
}

/// The weights `[B, N, M]` of queries `[B, C, N]` and keys `[B, C, M]`.
fn weigh(queries: &Tensor, keys: &Tensor) -> Result<Tensor> {
    let scores = queries.transpose(1, 2)?.matmul(keys)?;
    // Every position sees all keys.
    attention_weights(&scores, keys.dim(2)?, scale(queries)?)
}

/// `values softmax(queries^T keys C^-1/2)^T`: `[B, C, N]`.
pub(super) fn attend(queries: &Tensor, keys: &Tensor, values: &Tensor) -> Result<Tensor> {
    let [queries, keys, values] = contiguous([queries, keys, values])?;
    values.matmul(&weigh(&queries, &keys)?.transpose(1, 2)?)
}

/// The gradients to queries, keys and values for that of [`attend`]'s output.
pub(super) fn gradients(
    queries: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    mixed: &Tensor,
) -> Result<[Tensor; 3]> {
    let [queries, keys, values] = contiguous([queries, keys, values])?;
    let mixed = mixed.detach().contiguous()?;
    let weights = weigh(&queries, &keys)?;
    let dv = mixed.matmul(&weights)?;
    let gradients = mixed.transpose(1, 2)?.matmul(&values)?;
    let gradients = attention_weights_back(&weights, &gradients, scale(&queries)?)?;
    let dq = keys.matmul(&gradients.transpose(1, 2)?)?;
    let dk = queries.matmul(&gradients)?;
    Ok([dq, dk, dv])
}

/// What cuBLAS takes, without a graph.
fn contiguous(tensors: [&Tensor; 3]) -> Result<[Tensor; 3]> {
    let [a, b, c] = tensors.map(|t| t.detach().contiguous());
    Ok([a?, b?, c?])
}
