//! The gradient to the weight of a convolution to a few output channels.
//!
//! `dw[o][c][ky][kx] = Σ grad[o][y][x] in[c][y + ky][x + kx]`: registers hold the sums of all
//! output channels and columns of the kernel, as vectors over x, while a padded plane of one
//! input channel and the gradient go by. A task has input channels of its own.

use rayon::prelude::*;

use super::super::geometry::Geometry;
use super::{FEW, fill};
use crate::isa::Isa;
use crate::scratch::with_scratch;
use crate::shared_mut::SharedMut;
use crate::vector::{Kernel, Vector, lanes, run};

/// Rows of the gradient whose products are added up before they join the others: a long sum
/// of shorter ones rounds less.
const ROWS: usize = 8;

/// Whether this is the fastest way for `g`.
pub(in super::super) fn suits_gradient(g: &Geometry) -> bool {
    super::suits(g) && matches!(g.kw, 3 | 4)
}

/// `[out, in, kh, kw]` for `x` `[B, in, H, W]` and `grad` `[B, out, H', W']`, stride 1.
pub(in super::super) fn weight_gradient(
    isa: Option<Isa>,
    g: &Geometry,
    x: &[f32],
    grad: &[f32],
) -> Vec<f32> {
    let mut dw = vec![0.0; g.out_channels * g.depth()];
    let target = SharedMut::new(&mut dw);
    let width = g.ow.next_multiple_of(lanes(isa));
    let pitch = width + g.kw - 1;
    with_scratch(g.batch * g.oh * g.out_channels * width, |padded| {
        // `[B, H', out, width]`: what is beyond a row adds nothing.
        padded.par_chunks_mut(g.out_channels * width).enumerate().for_each(|(row, to)| {
            let (picture, y) = (row / g.oh, row % g.oh);
            for (channel, to) in to.chunks_exact_mut(width).enumerate() {
                let at = ((picture * g.out_channels + channel) * g.oh + y) * g.ow;
                to[..g.ow].copy_from_slice(&grad[at..at + g.ow]);
                to[g.ow..].fill(0.0);
            }
        });
        let grad = &*padded;
        (0..g.in_channels).into_par_iter().for_each(|channel| {
            with_scratch((g.oh + g.kh - 1) * pitch, |plane| {
                run(isa, Channel { g, x, grad, width, pitch, channel, plane, dw: target });
            });
        });
    });
    dw
}

/// One input channel.
struct Channel<'a> {
    g: &'a Geometry,
    x: &'a [f32],
    /// `[B, H', out, width]`.
    grad: &'a [f32],
    width: usize,
    pitch: usize,
    channel: usize,
    /// Room for its padded plane, rows of `pitch`.
    plane: &'a mut [f32],
    dw: SharedMut,
}

impl Kernel for Channel<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        // SAFETY: this function's contract.
        unsafe {
            match (self.g.out_channels, self.g.kw) {
                (1, 3) => self.of::<S, 1, 3>(),
                (2, 3) => self.of::<S, 2, 3>(),
                (3, 3) => self.of::<S, 3, 3>(),
                (_, 3) => self.of::<S, FEW, 3>(),
                (1, _) => self.of::<S, 1, 4>(),
                (2, _) => self.of::<S, 2, 4>(),
                (3, _) => self.of::<S, 3, 4>(),
                _ => self.of::<S, FEW, 4>(),
            }
        }
    }
}

impl Channel<'_> {
    /// # Safety
    /// The machine must have the instruction set of `S`; `OUT` and `KW` are what `g` has.
    #[inline(always)]
    unsafe fn of<S: Vector, const OUT: usize, const KW: usize>(self) {
        let Self { g, width, pitch, .. } = self;
        for picture in 0..g.batch {
            let image = &self.x[(picture * g.in_channels + self.channel) * g.in_pixels()..];
            for (row, target) in self.plane.chunks_exact_mut(pitch).enumerate() {
                let row = row.checked_sub(g.config.padding.top).filter(|&row| row < g.h);
                let row = row.map(|row| &image[row * g.w..][..g.w]);
                fill(row, g.config.padding.left, target);
            }
            let grad = &self.grad[picture * g.oh * OUT * width..][..g.oh * OUT * width];
            for ky in 0..g.kh {
                // SAFETY: this function's contract.
                let sums = unsafe {
                    products::<S, OUT, KW>(&self.plane[ky * pitch..], grad, (g.oh, width, pitch))
                };
                for (output, sums) in sums.into_iter().enumerate() {
                    let at = ((output * g.in_channels + self.channel) * g.kh + ky) * KW;
                    // SAFETY: weights of this channel, which are this task's alone.
                    let dw = unsafe { self.dw.slice(at, KW) };
                    dw.iter_mut().zip(sums).for_each(|(dw, sum)| *dw += sum);
                }
            }
        }
    }
}

/// `Σ grad[y][o][x] plane[y][x + kx]`, by output channel and column of the kernel; `plane` has
/// `rows` rows of `pitch` (the last may end with what is read), `grad` as many of `OUT` times
/// `width`, whole vectors.
///
/// # Safety
/// The machine must have the instruction set of `S`.
#[inline(always)]
unsafe fn products<S: Vector, const OUT: usize, const KW: usize>(
    plane: &[f32],
    grad: &[f32],
    (rows, width, pitch): (usize, usize, usize),
) -> [[f32; KW]; OUT] {
    // SAFETY: loads go through slices that hold them.
    unsafe {
        let mut totals = [[S::splat(0.0); KW]; OUT];
        for first in (0..rows).step_by(ROWS) {
            let mut sums = [[S::splat(0.0); KW]; OUT];
            for row in first..(first + ROWS).min(rows) {
                let input = &plane[row * pitch..][..width + KW - 1];
                let grad = &grad[row * OUT * width..][..OUT * width];
                for column in (0..width).step_by(S::LANES) {
                    let input = &input[column..][..S::LANES + KW - 1];
                    let mut x = [S::splat(0.0); KW];
                    for (kx, x) in x.iter_mut().enumerate() {
                        *x = S::load(input[kx..].as_ptr());
                    }
                    for (output, sums) in sums.iter_mut().enumerate() {
                        let grad = &grad[output * width + column..][..S::LANES];
                        let by = S::load(grad.as_ptr());
                        for (sum, x) in sums.iter_mut().zip(x) {
                            *sum = x.mul_add(by, *sum);
                        }
                    }
                }
            }
            for (totals, sums) in totals.iter_mut().zip(sums) {
                for (total, sum) in totals.iter_mut().zip(sums) {
                    *total = total.plus(sum);
                }
            }
        }
        let mut result = [[0.0; KW]; OUT];
        for (result, totals) in result.iter_mut().zip(totals) {
            for (result, total) in result.iter_mut().zip(totals) {
                *result = total.sum();
            }
        }
        result
    }
}
