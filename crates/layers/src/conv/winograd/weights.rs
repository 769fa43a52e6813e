//! Weights to their transform, and its gradient back to weights. Output channels
//! come in blocks of two vectors, as registers hold them.

use std::ops;

use super::super::weight::Weight;
use super::transforms::{FREQUENCIES, weight_gradient_tile, weight_tile};
use crate::shared_mut::SharedMut;
use crate::vector::{Kernel, MAX_LANES, Vector};

/// Floats from one element to the next of the transformed weights of one block and
/// `channels` input channels: `[channels, two vectors]`, and a line, so that the
/// elements do not fall into one set of the cache.
pub fn element(channels: usize, lanes: usize) -> usize {
    channels * 2 * lanes + 16
}

/// Floats of the transformed weights of one block and `channels` input channels.
pub fn len(channels: usize, lanes: usize) -> usize {
    FREQUENCIES * element(channels, lanes)
}

/// Transforms the weights of one block of outputs and a range of inputs.
pub struct Transform<'a> {
    pub weight: Weight<'a>,
    pub in_channels: usize,
    pub out_channels: usize,
    pub block: usize,
    pub inputs: ops::Range<usize>,
    pub to: &'a mut [f32],
}

impl Kernel for Transform<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let row_len = 9 * self.in_channels;
        assert!(self.to.len() >= len(self.inputs.len(), S::LANES));
        assert!(self.weight.data.len() >= self.out_channels * row_len);
        if self.weight.flipped {
            // SAFETY: this function's contract.
            return unsafe { self.run_flipped::<S>() };
        }
        let weight = self.weight.data;
        let element = element(self.inputs.len(), S::LANES);
        let mut taps = [0.0_f32; 9 * MAX_LANES * MAX_LANES];
        for half in 0..2 {
            let first = (2 * self.block + half) * S::LANES;
            let rows = self.out_channels.saturating_sub(first).min(S::LANES);
            for channel in self.inputs.clone().step_by(S::LANES) {
                let channels = S::LANES.min(self.inputs.end - channel);
                let end = 9 * (channel + channels);
                for column in (9 * channel..end).step_by(S::LANES) {
                    let width = S::LANES.min(end - column);
                    let target = taps[(column - 9 * channel) * S::LANES..].as_mut_ptr();
                    if rows == S::LANES && width == S::LANES {
                        let from = weight[first * row_len + column..].as_ptr();
                        // SAFETY: `LANES` rows of the weight from `first`; `taps` has 9 `LANES` rows
                        // and a block starts at a multiple of `LANES` of them.
                        unsafe { S::transpose(from, row_len, target, S::LANES) }
                        continue;
                    }
                    let mut edge = [0.0_f32; MAX_LANES * MAX_LANES];
                    for (row, target) in edge.chunks_exact_mut(S::LANES).take(rows).enumerate() {
                        let source = &weight[(first + row) * row_len + column..][..width];
                        target[..width].copy_from_slice(source);
                    }
                    // SAFETY: as above; `edge` has `LANES` rows of `LANES`.
                    unsafe { S::transpose(edge.as_ptr(), S::LANES, target, S::LANES) }
                }
                for c in 0..channels {
                    let at = (channel - self.inputs.start + c) * 2 * S::LANES + half * S::LANES;
                    // SAFETY: nine vectors from `9 c`; `to` has a vector for every element,
                    // channel and half (asserted).
                    unsafe {
                        let from = taps.as_ptr().add(9 * c * S::LANES);
                        weight_tile::<S>(from, self.to.as_mut_ptr().add(at), element);
                    }
                }
            }
        }
    }
}

impl Transform<'_> {
    /// The same for weights `[in, out, 3, 3]` whose kernels are the other way round.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`.
    #[inline(always)]
    unsafe fn run_flipped<S: Vector>(self) {
        let element = element(self.inputs.len(), S::LANES);
        for half in 0..2 {
            let first = (2 * self.block + half) * S::LANES;
            let rows = self.out_channels.saturating_sub(first).min(S::LANES);
            for (i, channel) in self.inputs.clone().enumerate() {
                let mut taps = [0.0_f32; 9 * MAX_LANES];
                let at = 9 * (channel * self.out_channels + first).min(self.weight.data.len() / 9);
                let kernels = &self.weight.data[at..];
                for (lane, kernel) in kernels.chunks_exact(9).take(rows).enumerate() {
                    for (tap, value) in kernel.iter().rev().enumerate() {
                        taps[tap * S::LANES + lane] = *value;
                    }
                }
                let at = i * 2 * S::LANES + half * S::LANES;
                // SAFETY: nine vectors; `to` has a vector for every element, channel and half
                // (asserted in `run`).
                unsafe {
                    weight_tile::<S>(taps.as_ptr(), self.to.as_mut_ptr().add(at), element);
                }
            }
        }
    }
}

/// The gradient to the weights `[out, in, 3, 3]` of one block of outputs from that
/// to their transform.
pub struct Back<'a> {
    /// Of this block and all inputs, elements `element` floats apart.
    pub from: &'a [f32],
    pub element: usize,
    pub in_channels: usize,
    pub out_channels: usize,
    pub block: usize,
    /// The whole gradient, of which no other task writes these outputs.
    pub to: SharedMut,
}

impl Kernel for Back<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let row_len = 9 * self.in_channels;
        let needed = (FREQUENCIES - 1) * self.element + self.in_channels * 2 * S::LANES;
        assert!(self.from.len() >= needed);
        let mut taps = [0.0_f32; 9 * MAX_LANES * MAX_LANES];
        for half in 0..2 {
            let first = (2 * self.block + half) * S::LANES;
            let rows = self.out_channels.saturating_sub(first).min(S::LANES);
            for channel in (0..self.in_channels).step_by(S::LANES) {
                let channels = S::LANES.min(self.in_channels - channel);
                for c in 0..channels {
                    let at = (channel + c) * 2 * S::LANES + half * S::LANES;
                    // SAFETY: a vector for every element, channel and half (asserted); `taps`
                    // has nine vectors for each of `LANES` channels.
                    unsafe {
                        let to = taps.as_mut_ptr().add(9 * c * S::LANES);
                        weight_gradient_tile::<S>(self.from.as_ptr().add(at), self.element, to);
                    }
                }
                for column in (0..9 * channels).step_by(S::LANES) {
                    let mut block = [0.0_f32; MAX_LANES * MAX_LANES];
                    let from = taps[column * S::LANES..][..S::LANES * S::LANES].as_ptr();
                    // SAFETY: both are `LANES` rows of `LANES`.
                    unsafe { S::transpose(from, S::LANES, block.as_mut_ptr(), S::LANES) }
                    let width = S::LANES.min(9 * channels - column);
                    for (row, values) in block.chunks_exact(S::LANES).take(rows).enumerate() {
                        let at = (first + row) * row_len + 9 * channel + column;
                        // SAFETY: weights of this block's outputs, which only this task writes.
                        unsafe { self.to.slice(at, width) }.copy_from_slice(&values[..width]);
                    }
                }
            }
        }
    }
}
