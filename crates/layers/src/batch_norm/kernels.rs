//! Batch norm on f32 slices: one task per channel, sums in f64.

use rayon::prelude::*;

use crate::isa::Isa;
use crate::reduce::{sum, sum_of};
use crate::shared_mut::SharedMut;
use crate::vector::{self, Kernel, Vector};

/// Of a contiguous `[batch, channels, pixels]` input.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub batch: usize,
    pub channels: usize,
    pub pixels: usize,
}

impl Shape {
    /// Where the planes of a channel start.
    fn planes(self, channel: usize) -> impl Iterator<Item = usize> {
        (0..self.batch).map(move |picture| (picture * self.channels + channel) * self.pixels)
    }

    fn len(self) -> usize {
        self.batch * self.channels * self.pixels
    }

    /// Values of a channel.
    fn count(self) -> f64 {
        (self.batch * self.pixels) as f64
    }
}

/// What a kernel computes with the vectors of an instruction set: a closure that is
/// compiled for each.
struct Compiled<F>(F);

impl<F: FnOnce()> Kernel for Compiled<F> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        (self.0)()
    }
}

/// Mean and variance of every channel.
pub(super) fn moments(shape: Shape, x: &[f32]) -> Vec<(f64, f64)> {
    let isa = Isa::detect();
    let of_channel = |channel: usize| {
        let mut moments = (0.0, 0.0);
        vector::run(
            isa,
            Compiled(
                #[inline(always)]
                || {
                    let planes = || shape.planes(channel).map(|at| &x[at..at + shape.pixels]);
                    let mean = planes().map(sum).sum::<f64>() / shape.count();
                    let centre = mean as f32;
                    let squares =
                        planes().map(|x| sum_of(x, x, |x, _| (x - centre) * (x - centre)));
                    moments = (mean, squares.sum::<f64>() / shape.count());
                },
            ),
        );
        moments
    };
    (0..shape.channels).into_par_iter().map(of_channel).collect()
}

/// `leaky(weight * (x - mean) * scale + bias)` with mean and scale per channel.
pub(super) fn forward(
    shape: Shape,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    scales: &[(f32, f32)],
    slope: f32,
) -> Vec<f32> {
    let isa = Isa::detect();
    let mut y = Vec::with_capacity(shape.len());
    let target = SharedMut::new_spare(&mut y);
    (0..shape.channels).into_par_iter().for_each(|channel| {
        let ((mean, scale), weight, bias) = (scales[channel], weight[channel], bias[channel]);
        vector::run(
            isa,
            Compiled(
                #[inline(always)]
                || {
                    for at in shape.planes(channel) {
                        let values = x[at..at + shape.pixels].iter().map(|x| {
                            let z = (x - mean) * scale * weight + bias;
                            if z > 0.0 { z } else { z * slope }
                        });
                        // SAFETY: a plane of this channel, which no other task has, and as many values.
                        unsafe { target.write(at, shape.pixels, values) };
                    }
                },
            ),
        );
    });
    // SAFETY: there is room for all planes, and all were written.
    unsafe { y.set_len(shape.len()) }
    y
}

/// The gradients to input, to which `plus` is added, weight and bias.
#[allow(clippy::too_many_arguments)]
pub(super) fn backward(
    shape: Shape,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    scales: &[(f32, f32)],
    slope: f32,
    dy: &[f32],
    plus: Option<&[f32]>,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let isa = Isa::detect();
    let mut dx = Vec::with_capacity(shape.len());
    let target = SharedMut::new_spare(&mut dx);
    let of_channel = |channel: usize| {
        let ((mean, scale), weight, bias) = (scales[channel], weight[channel], bias[channel]);
        let mut sums = (0.0_f64, 0.0_f64);
        vector::run(
            isa,
            Compiled(
                #[inline(always)]
                || {
                    // The gradient in front of the activation.
                    let before = |x: f32, dy: f32| {
                        let z = (x - mean) * scale * weight + bias;
                        if z > 0.0 { dy } else { dy * slope }
                    };
                    for at in shape.planes(channel) {
                        let (x, dy) = (&x[at..at + shape.pixels], &dy[at..at + shape.pixels]);
                        sums.0 += sum_of(x, dy, before);
                        sums.1 += sum_of(x, dy, |x, dy| before(x, dy) * ((x - mean) * scale));
                    }
                    // What passes through mean and variance.
                    let a = (sums.0 / shape.count()) as f32;
                    let b = (sums.1 / shape.count()) as f32;
                    let through = |x: f32, dy: f32| {
                        weight * scale * (before(x, dy) - a - (x - mean) * scale * b)
                    };
                    for at in shape.planes(channel) {
                        let plane = at..at + shape.pixels;
                        let values = x[plane.clone()].iter().zip(&dy[plane.clone()]);
                        let values = values.map(|(&x, &dy)| through(x, dy));
                        // SAFETY: a plane of this channel, which no other task has, and as many values.
                        unsafe {
                            match plus {
                                Some(plus) => {
                                    let values =
                                        values.zip(&plus[plane]).map(|(dx, plus)| dx + plus);
                                    target.write(at, shape.pixels, values);
                                }
                                None => target.write(at, shape.pixels, values),
                            }
                        }
                    }
                },
            ),
        );
        (sums.1 as f32, sums.0 as f32)
    };
    let (dweight, dbias) =
        (0..shape.channels).into_par_iter().map(of_channel).collect::<Vec<_>>().into_iter().unzip();
    // SAFETY: there is room for all planes, and all were written.
    unsafe { dx.set_len(shape.len()) }
    (dx, dweight, dbias)
}
