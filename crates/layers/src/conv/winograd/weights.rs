//! Weights to their transform, and its gradient back to weights. Output channels
//! come in blocks of two vectors, as registers hold them.

use std::ops;

use super::super::weight::Weight;
use super::form::Form;
use crate::shared_mut::SharedMut;
use crate::vector::{Kernel, MAX_LANES, Vector};

/// Transformed kernels of some blocks of outputs: element `e` of block `b`,
/// `[channels, two vectors]`, is at `e * element + b * block`, so that what is multiplied one
/// after the other lies so.
#[derive(Clone, Copy)]
pub struct Transformed {
    pub data: SharedMut,
    pub element: usize,
    pub block: usize,
    pub blocks: usize,
}

impl Transformed {
    /// Floats from one element to the next: a line more than it has, so that they do not fall
    /// into one set of the cache.
    fn element((channels, blocks): (usize, usize), lanes: usize) -> usize {
        blocks * channels * 2 * lanes + 16
    }

    /// Floats of kernels of `channels` input channels and `blocks` blocks.
    pub fn len<F: Form>(sizes: (usize, usize), lanes: usize) -> usize {
        F::ELEMENTS * Self::element(sizes, lanes)
    }

    /// Those in `data`, which holds [`Transformed::len`].
    pub fn new<F: Form>(
        _form: F,
        (channels, blocks): (usize, usize),
        lanes: usize,
        data: &mut [f32],
    ) -> Self {
        let len = Self::len::<F>((channels, blocks), lanes);
        assert!(data.len() >= len, "too few floats for {blocks} blocks of kernels");
        let element = Self::element((channels, blocks), lanes);
        Self { data: SharedMut::new(data), element, block: channels * 2 * lanes, blocks }
    }
}

/// Transforms the weights of one block of outputs and a range of inputs.
pub struct Transform<'a, F> {
    pub form: F,
    pub weight: Weight<'a>,
    pub in_channels: usize,
    pub out_channels: usize,
    pub block: usize,
    pub inputs: ops::Range<usize>,
    /// Of which no other task writes block `at`.
    pub to: Transformed,
    pub at: usize,
}

impl<F: Form> Kernel for Transform<'_, F> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let row_len = 9 * self.in_channels;
        assert!(self.to.block >= self.inputs.len() * 2 * S::LANES && self.at < self.to.blocks);
        assert!(self.weight.data.len() >= self.out_channels * row_len);
        if self.weight.flipped {
            // SAFETY: this function's contract.
            return unsafe { self.run_flipped::<S>() };
        }
        let weight = self.weight.data;
        let element = self.to.element;
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
                        self.form.weight::<S>(
                            from,
                            self.to.data.at(self.at * self.to.block + at),
                            element,
                        );
                    }
                }
            }
        }
    }
}

impl<F: Form> Transform<'_, F> {
    /// The same for weights `[in, out, 3, 3]` whose kernels are the other way round.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`.
    #[inline(always)]
    unsafe fn run_flipped<S: Vector>(self) {
        let element = self.to.element;
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
                    self.form.weight::<S>(
                        taps.as_ptr(),
                        self.to.data.at(self.at * self.to.block + at),
                        element,
                    );
                }
            }
        }
    }
}

/// The gradient to the weights `[out, in, 3, 3]` of one block of outputs from that
/// to their transform.
pub struct Back<'a, F> {
    pub form: F,
    /// Of this block and all inputs, elements `element` floats apart.
    pub from: &'a [f32],
    pub element: usize,
    pub in_channels: usize,
    pub out_channels: usize,
    pub block: usize,
    /// The whole gradient, of which no other task writes these outputs.
    pub to: SharedMut,
}

impl<F: Form> Kernel for Back<'_, F> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let row_len = 9 * self.in_channels;
        let needed = (F::ELEMENTS - 1) * self.element + self.in_channels * 2 * S::LANES;
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
                        self.form.weight_gradient::<S>(
                            self.from.as_ptr().add(at),
                            self.element,
                            to,
                        );
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
