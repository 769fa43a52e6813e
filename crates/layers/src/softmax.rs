//! Softmax over rows of attention scores, and the way back through it.

use crate::elementary::exp;
use crate::reduce::{sum, sum_of};
use crate::vector::{Kernel, Vector};

/// Turns rows of `keys` scores, times `scale`, into weights that add up to 1. Row `r` sees
/// its first `visible(r)` keys; the others get 0.
pub(crate) struct Softmax<'a, F> {
    pub scores: &'a mut [f32],
    pub keys: usize,
    pub scale: f32,
    pub visible: F,
}

impl<F: Fn(usize) -> usize> Kernel for Softmax<'_, F> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        for (row, scores) in self.scores.chunks_exact_mut(self.keys).enumerate() {
            let (scores, hidden) = scores.split_at_mut((self.visible)(row));
            hidden.fill(0.0);
            let mut most = [f32::NEG_INFINITY; 16];
            for chunk in scores.chunks_mut(16) {
                for (most, score) in most.iter_mut().zip(chunk) {
                    *score *= self.scale;
                    *most = if *score > *most { *score } else { *most };
                }
            }
            let most = most.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
            for score in scores.iter_mut() {
                *score = exp(*score - most);
            }
            let share = (1.0 / sum(scores)) as f32;
            for score in scores.iter_mut() {
                *score *= share;
            }
        }
    }
}

/// Turns gradients of weights into those of scores before they were scaled:
/// `w (g - sum(w g)) scale` in every row of `keys`.
pub(crate) struct ThroughSoftmax<'a> {
    pub weights: &'a [f32],
    pub scores: &'a mut [f32],
    pub keys: usize,
    pub scale: f32,
}

impl Kernel for ThroughSoftmax<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let rows = self.weights.chunks_exact(self.keys);
        for (weights, scores) in rows.zip(self.scores.chunks_exact_mut(self.keys)) {
            let mean = sum_of(weights, scores, |w, g| w * g) as f32;
            for (weight, score) in weights.iter().zip(scores) {
                *score = weight * (*score - mean) * self.scale;
            }
        }
    }
}
