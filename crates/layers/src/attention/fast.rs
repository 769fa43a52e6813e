//! Attention of tokens where there are kernels; of f32 on the CPU a block of queries at a
//! time, so that its scores stay in the cache.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use crate::cpu;
use crate::isa::Isa;
use crate::matrix::add_product;
use crate::scratch::with_scratch;
use crate::shared_mut::SharedMut;
use crate::softmax::{Softmax, ThroughSoftmax};
use crate::vector;

/// Queries of a block: fixed, so that sums do not depend on the threads.
const QUERIES: usize = 64;

/// `[B, C, N]` of queries, `[B, C, M]` of keys and values.
#[derive(Clone, Copy)]
struct Shape {
    batch: usize,
    channels: usize,
    queries: usize,
    keys: usize,
}

impl Shape {
    fn new(queries: &Tensor, keys: &Tensor, values: &Tensor) -> Result<Self> {
        let (batch, channels, n) = queries.dims3()?;
        let (_, _, m) = keys.dims3()?;
        if keys.dims() != [batch, channels, m] || values.dims() != keys.dims() {
            candle_core::bail!(
                "attention: queries {:?}, keys {:?} and values {:?} do not fit",
                queries.shape(),
                keys.shape(),
                values.shape()
            )
        }
        Ok(Self { batch, channels, queries: n, keys: m })
    }

    fn scale(self) -> f32 {
        (self.channels as f32).powf(-0.5)
    }

    /// Blocks of queries of one picture.
    fn blocks(self) -> usize {
        self.queries.div_ceil(QUERIES)
    }

    /// Picture, first query and number of queries of a task.
    fn block(self, task: usize) -> (usize, usize, usize) {
        let (picture, first) = (task / self.blocks(), task % self.blocks() * QUERIES);
        (picture, first, QUERIES.min(self.queries - first))
    }

    /// The queries of a picture, or something of their shape.
    fn of_queries(self, data: &[f32], picture: usize) -> &[f32] {
        let len = self.channels * self.queries;
        &data[picture * len..(picture + 1) * len]
    }

    /// The keys of a picture, or something of their shape.
    fn of_keys(self, data: &[f32], picture: usize) -> &[f32] {
        let len = self.channels * self.keys;
        &data[picture * len..(picture + 1) * len]
    }
}

/// The weights `[count, M]` of a block of queries.
fn weigh(shape: Shape, queries: &[f32], keys: &[f32], first: usize, weights: &mut [f32]) {
    let count = weights.len() / shape.keys.max(1);
    weights.fill(0.0);
    let sizes = (count, shape.keys, shape.channels);
    let left = (&queries[first..], 1, shape.queries);
    // SAFETY: `weights` is this task's own, `count` rows of M floats.
    unsafe { add_product(sizes, weights.as_mut_ptr(), shape.keys, left, (keys, shape.keys, 1)) }
    let (keys, scale) = (shape.keys, shape.scale());
    vector::run(Isa::detect(), Softmax { scores: weights, keys, scale, visible: |_| keys });
}

/// `values softmax(queries^T keys C^-1/2)^T`: `[B, C, N]`.
pub(super) fn attend(queries: &Tensor, keys: &Tensor, values: &Tensor) -> Result<Tensor> {
    let shape = Shape::new(queries, keys, values)?;
    #[cfg(feature = "cuda")]
    if queries.device().is_cuda() {
        return super::cuda::attend(queries, keys, values);
    }
    let mixed = cpu::with_slices([queries, keys, values], |[queries, keys, values]| {
        let mut mixed = vec![0.0; shape.batch * shape.channels * shape.queries];
        let target = SharedMut::new(&mut mixed);
        (0..shape.batch * shape.blocks()).into_par_iter().for_each(|task| {
            let (picture, first, count) = shape.block(task);
            let queries = shape.of_queries(queries, picture);
            let (keys, values) = (shape.of_keys(keys, picture), shape.of_keys(values, picture));
            with_scratch(count * shape.keys, |weights| {
                weigh(shape, queries, keys, first, weights);
                let sizes = (shape.channels, count, shape.keys);
                let left = (values, shape.keys, 1);
                let right = (&*weights, 1, shape.keys);
                let at = picture * shape.channels * shape.queries + first;
                // SAFETY: these queries of every channel, which no other task has.
                unsafe { add_product(sizes, target.at(at), shape.queries, left, right) }
            });
        });
        mixed
    })?;
    Tensor::from_vec(mixed, queries.shape(), queries.device())
}

/// The gradients to queries, keys and values for that of [`attend`]'s output.
pub(super) fn gradients(
    queries: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    mixed: &Tensor,
) -> Result<[Tensor; 3]> {
    let shape = Shape::new(queries, keys, values)?;
    if mixed.dims() != queries.dims() {
        candle_core::bail!("attention: a gradient {:?} for {:?}", mixed.shape(), queries.shape())
    }
    #[cfg(feature = "cuda")]
    if queries.device().is_cuda() {
        return super::cuda::gradients(queries, keys, values, mixed);
    }
    let tensors = [queries, keys, values, mixed];
    let [dq, dk, dv] = cpu::with_slices(tensors, |slices| backward(shape, slices))?;
    Ok([
        Tensor::from_vec(dq, queries.shape(), queries.device())?,
        Tensor::from_vec(dk, keys.shape(), keys.device())?,
        Tensor::from_vec(dv, values.shape(), values.device())?,
    ])
}

fn backward(shape: Shape, [queries, keys, values, mixed]: [&[f32]; 4]) -> [Vec<f32>; 3] {
    let Shape { batch, channels, queries: n, keys: m } = shape;
    let mut dq = vec![0.0; batch * channels * n];
    let (mut dk, mut dv) = (vec![0.0; batch * channels * m], vec![0.0; batch * channels * m]);
    with_scratch(2 * batch * n * m, |scratch| {
        let (weights, scores) = scratch.split_at_mut(batch * n * m);
        let (all_weights, all_scores) = (SharedMut::new(weights), SharedMut::new(scores));
        let to_queries = SharedMut::new(&mut dq);
        (0..batch * shape.blocks()).into_par_iter().for_each(|task| {
            let (picture, first, count) = shape.block(task);
            let at = (picture * n + first) * m;
            // SAFETY: the rows of this block's queries, which no other task has.
            let (weights, scores) =
                unsafe { (all_weights.slice(at, count * m), all_scores.slice(at, count * m)) };
            let keys = shape.of_keys(keys, picture);
            weigh(shape, shape.of_queries(queries, picture), keys, first, weights);
            scores.fill(0.0);
            let left = (&shape.of_queries(mixed, picture)[first..], 1, n);
            let right = (shape.of_keys(values, picture), m, 1);
            // SAFETY: as above, `count` rows of `m` floats.
            unsafe { add_product((count, m, channels), scores.as_mut_ptr(), m, left, right) }
            let scale = shape.scale();
            vector::run(Isa::detect(), ThroughSoftmax { weights, scores, keys: m, scale });
            let at = picture * channels * n + first;
            // SAFETY: these queries of every channel, which no other task has.
            unsafe {
                let right = (&*scores, 1, m);
                add_product((channels, count, m), to_queries.at(at), n, (keys, m, 1), right);
            }
        });
        // Sums over all queries.
        let (to_keys, to_values) = (SharedMut::new(&mut dk), SharedMut::new(&mut dv));
        let (weights, scores) = (&*weights, &*scores);
        (0..2 * batch).into_par_iter().for_each(|task| {
            let picture = task / 2;
            let (left, right, to) = if task % 2 == 0 {
                (queries, scores, to_keys)
            } else {
                (mixed, weights, to_values)
            };
            let left = (shape.of_queries(left, picture), n, 1);
            let right = (&right[picture * n * m..], m, 1);
            // SAFETY: one picture's keys or values, which no other task has.
            unsafe { add_product((channels, m, n), to.at(picture * channels * m), m, left, right) }
        });
    });
    [dq, dk, dv]
}

#[cfg(test)]
mod tests;
