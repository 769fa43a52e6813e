//! Attention on NVIDIA GPUs: products by cuBLAS, soft-max by a kernel of ours. In f32
//! whatever the storage: scores may be large, and their rounding errors are those of
//! weights.

use candle_core::{DType, Result, Tensor};

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
    let dtype = queries.dtype();
    let [queries, keys, values] = [prepare(queries)?, prepare(keys)?, prepare(values)?];
    values.matmul(&weigh(&queries, &keys)?.transpose(1, 2)?)?.to_dtype(dtype)
}

/// The gradients to queries, keys and values for that of [`attend`]'s output.
pub(super) fn gradients(
    queries: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    mixed: &Tensor,
) -> Result<[Tensor; 3]> {
    let dtype = queries.dtype();
    let [queries, keys, values] = [prepare(queries)?, prepare(keys)?, prepare(values)?];
    let mixed = prepare(mixed)?;
    let weights = weigh(&queries, &keys)?;
    let dv = mixed.matmul(&weights)?;
    let gradients = mixed.transpose(1, 2)?.matmul(&values)?;
    let gradients = attention_weights_back(&weights, &gradients, scale(&queries)?)?;
    let dq = keys.matmul(&gradients.transpose(1, 2)?)?;
    let dk = queries.matmul(&gradients)?;
    Ok([dq.to_dtype(dtype)?, dk.to_dtype(dtype)?, dv.to_dtype(dtype)?])
}

/// What cuBLAS takes, without a graph.
fn prepare(x: &Tensor) -> Result<Tensor> {
    x.detach().contiguous()?.to_dtype(DType::F32)
}
