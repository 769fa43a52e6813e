//! The kernels, on f32 slices.

use rayon::prelude::*;

use super::Sizes;
use crate::isa::Isa;
use crate::matrix::{View, add_to};
use crate::scratch::with_scratch;
use crate::sequence::Dropout;
use crate::shared_mut::SharedMut;
use crate::softmax::{Softmax, ThroughSoftmax};
use crate::vector;

/// Queries of a block: fixed, so that sums do not depend on the threads.
const QUERIES: usize = 64;

impl Sizes {
    /// Numbers from one position to the next, of queries and of keys.
    fn strides(&self) -> (usize, usize) {
        (self.dim * self.heads.heads, self.dim * self.heads.shared)
    }

    /// Where a head of sample `b` begins among queries, and the head that serves it
    /// among keys.
    fn start(&self, b: usize, head: usize) -> (usize, usize) {
        let (queries, keys) = self.strides();
        let shared = head / (self.heads.heads / self.heads.shared);
        (b * self.len * queries + head * self.dim, b * self.len * keys + shared * self.dim)
    }

    /// The block of queries from `first` on, and how many keys it sees.
    fn block(&self, first: usize) -> (usize, usize) {
        let count = QUERIES.min(self.len - first);
        (count, self.visible(first + count - 1).max(self.visible(first)))
    }

    fn scale(&self) -> f32 {
        (self.dim as f32).powf(-0.5)
    }

    /// See [`add_to`].
    ///
    /// # Safety
    /// As there.
    unsafe fn add(
        &self,
        sizes: (usize, usize, usize),
        target: (SharedMut, usize),
        row_stride: usize,
        left: View,
        right: View,
    ) {
        // SAFETY: this function's contract.
        unsafe { add_to(self.heads.factors, sizes, target, row_stride, left, right) }
    }
}

/// The weights `[count, keys]` of a block of queries, before dropout.
fn weigh(
    sizes: &Sizes,
    queries: View,
    keys: View,
    (first, count, seen): (usize, usize, usize),
    weights: &mut [f32],
) {
    weights.fill(0.0);
    let (rows, stride, _) = keys;
    // SAFETY: `weights` is this task's own, `count` rows of `seen` floats.
    unsafe {
        let right = (rows, 1, stride);
        let to = (SharedMut::new(weights), 0);
        sizes.add((count, seen, sizes.dim), to, seen, queries, right);
    }
    let visible = |row: usize| sizes.visible(first + row);
    vector::run(
        Isa::detect(),
        Softmax { scores: weights, keys: seen, scale: sizes.scale(), visible },
    );
}

/// What the heads read, `[B, T, H D]`.
pub(super) fn forward(
    sizes: Sizes,
    [queries, keys, values]: [&[f32]; 3],
    dropout: &Dropout,
) -> Vec<f32> {
    let (stride, shared_stride) = sizes.strides();
    let mut read = vec![0f32; queries.len()];
    let target = SharedMut::new(&mut read);
    let blocks = sizes.len.div_ceil(QUERIES);
    let heads = sizes.heads.heads;
    (0..sizes.batch * heads * blocks).into_par_iter().for_each(|task| {
        let (pair, first) = (task / blocks, task % blocks * QUERIES);
        let (count, seen) = sizes.block(first);
        let (at, shared) = sizes.start(pair / heads, pair % heads);
        let at = at + first * stride;
        let (keys, values) = (&keys[shared..], &values[shared..]);
        with_scratch(count * seen, |weights| {
            let queries = (&queries[at..], stride, 1);
            weigh(&sizes, queries, (keys, shared_stride, 1), (first, count, seen), weights);
            leave_out(&sizes, pair, first, seen, dropout, weights);
            let right = (values, shared_stride, 1);
            // SAFETY: this head of these queries, which no other task has.
            unsafe {
                let left = (&*weights, seen, 1);
                sizes.add((count, sizes.dim, seen), (target, at), stride, left, right);
            }
        });
    });
    read
}

/// Multiplies rows of weights by those of the dropout's mask.
fn leave_out(
    sizes: &Sizes,
    pair: usize,
    first: usize,
    seen: usize,
    dropout: &Dropout,
    weights: &mut [f32],
) {
    if !dropout.is_on() {
        return;
    }
    let mut mask = dropout.mask();
    // The mask has a whole row for each query.
    let mut whole = vec![0f32; sizes.len];
    for (row, weights) in weights.chunks_exact_mut(seen).enumerate() {
        whole.fill(0.0);
        whole[..seen].copy_from_slice(weights);
        mask.multiply(pair * sizes.len + first + row, &mut whole);
        weights.copy_from_slice(&whole[..seen]);
    }
}

/// The gradients to queries, keys and values.
pub(super) fn backward(
    sizes: Sizes,
    [queries, keys, values, read]: [&[f32]; 4],
    dropout: &Dropout,
) -> [Vec<f32>; 3] {
    let (stride, shared_stride) = sizes.strides();
    let mut dq = vec![0f32; queries.len()];
    let (mut dk, mut dv) = (vec![0f32; keys.len()], vec![0f32; values.len()]);
    let to_queries = SharedMut::new(&mut dq);
    let (to_keys, to_values) = (SharedMut::new(&mut dk), SharedMut::new(&mut dv));
    let heads = sizes.heads.heads;
    let together = heads / sizes.heads.shared;
    // Heads that share keys belong to one task, which adds up their gradients in order.
    (0..sizes.batch * sizes.heads.shared).into_par_iter().for_each(|task| {
        let (b, group) = (task / sizes.heads.shared, task % sizes.heads.shared);
        for head in group * together..(group + 1) * together {
            let (start, shared) = sizes.start(b, head);
            let (keys, values) = (&keys[shared..], &values[shared..]);
            for first in (0..sizes.len).step_by(QUERIES) {
                let (count, seen) = sizes.block(first);
                let at = start + first * stride;
                let own = (&queries[at..], stride, 1);
                let upstream = (&read[at..], stride, 1);
                with_scratch(2 * count * seen, |scratch| {
                    let (weights, scores) = scratch.split_at_mut(count * seen);
                    let which = (first, count, seen);
                    weigh(&sizes, own, (keys, shared_stride, 1), which, weights);
                    scores.fill(0.0);
                    let dim = sizes.dim;
                    // SAFETY: `scores` is this task's own; the gradients are those of this
                    // head's queries and this group's keys and values.
                    unsafe {
                        let right = (values, 1, shared_stride);
                        let to = (SharedMut::new(scores), 0);
                        sizes.add((count, seen, dim), to, seen, upstream, right);
                    }
                    let pair = b * heads + head;
                    leave_out(&sizes, pair, first, seen, dropout, scores);
                    let scale = sizes.scale();
                    let through = ThroughSoftmax { weights, scores, keys: seen, scale };
                    vector::run(Isa::detect(), through);
                    leave_out(&sizes, pair, first, seen, dropout, weights);
                    let (weights, scores) = (&*weights, &*scores);
                    // SAFETY: as above.
                    unsafe {
                        let (left, right) = ((scores, seen, 1), (keys, shared_stride, 1));
                        sizes.add((count, dim, seen), (to_queries, at), stride, left, right);
                        let (left, to) = ((scores, 1, seen), (to_keys, shared));
                        sizes.add((seen, dim, count), to, shared_stride, left, own);
                        let (left, to) = ((weights, 1, seen), (to_values, shared));
                        sizes.add((seen, dim, count), to, shared_stride, left, upstream);
                    }
                });
            }
        }
    });
    [dq, dk, dv]
}
