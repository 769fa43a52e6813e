//! Group norm, with or without SiLU, on f32 slices: one task per picture and
//! group, every pass over data that is still in the cache.

use rayon::prelude::*;

use crate::elementary::sigmoid;
use crate::isa::Isa;
use crate::reduce::{sum, sum_of};
use crate::shared_mut::SharedMut;
use crate::vector::{self, Kernel, MAX_LANES, Vector, functions};

/// Shapes of one group norm of a contiguous `[batch, channels, pixels]` input.
#[derive(Clone, Copy)]
pub(super) struct Geometry {
    pub batch: usize,
    pub channels: usize,
    pub pixels: usize,
    pub groups: usize,
    pub eps: f64,
}

impl Geometry {
    pub fn group_channels(&self) -> usize {
        self.channels / self.groups
    }

    pub fn group_len(&self) -> usize {
        self.group_channels() * self.pixels
    }

    /// That groups are all of a map of `len` numbers, so that each of them is written.
    fn check(&self, len: usize) {
        assert_eq!(self.batch * self.groups * self.group_len(), len, "groups of {len} numbers");
    }
}

/// Mean and variance of one group.
#[inline(always)]
fn moments(x: &[f32]) -> (f32, f64) {
    let n = x.len() as f64;
    let mean = (sum(x) / n) as f32;
    (mean, sum_of(x, x, |x, _| (x - mean) * (x - mean)) / n)
}

/// What a group is shifted and scaled by: mean and reciprocal standard deviation.
pub(super) fn shift_and_scale((mean, variance): (f32, f64), eps: f64) -> (f32, f32) {
    (mean, (1.0 / (variance + eps).sqrt()) as f32)
}

/// Factor and offset of a channel: norm, by its [`shift_and_scale`], weight and bias in one.
pub(super) fn affine((mean, scale): (f32, f32), weight: f32, bias: f32) -> (f32, f32) {
    let factor = scale * weight;
    (factor, bias - mean * factor)
}

/// `x` as [`affine`] says, then SiLU.
///
/// # Safety
/// The machine must have the instruction set of `S`.
#[inline(always)]
pub(super) unsafe fn silu_of_affine<S: Vector>(x: S, factor: S, offset: S) -> S {
    // SAFETY: this function's contract.
    unsafe { functions::silu(x.mul_add(factor, offset)) }
}

/// Mean and variance of every group of `len` elements.
pub(super) fn all_moments(x: &[f32], len: usize) -> Vec<(f32, f64)> {
    let isa = Isa::detect();
    let of_group = |x| {
        let mut moments = (0.0, 0.0);
        vector::run(isa, MomentsOf(x, &mut moments));
        moments
    };
    x.par_chunks_exact(len.max(1)).map(of_group).collect()
}

/// [`moments`], compiled for every instruction set.
struct MomentsOf<'a>(&'a [f32], &'a mut (f32, f64));

impl Kernel for MomentsOf<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        *self.1 = moments(self.0);
    }
}

/// `[B, C, H, W]` to the same shape; every picture by its own moments, or all by
/// the [`shift_and_scale`] of each group that is `given`.
pub(super) fn forward<const SILU: bool>(
    g: &Geometry,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    given: Option<&[(f32, f32)]>,
) -> Vec<f32> {
    g.check(x.len());
    let mut y = Vec::with_capacity(x.len());
    if x.is_empty() {
        return y;
    }
    let (isa, target) = (Isa::detect(), SharedMut::new_spare(&mut y));
    x.par_chunks_exact(g.group_len()).enumerate().for_each(|(task, x)| {
        let (group, channels) = (task % g.groups, g.group_channels());
        let channels = group * channels..(group + 1) * channels;
        let (weight, bias) = (&weight[channels.clone()], &bias[channels]);
        let given = given.map(|groups| groups[group]);
        let y = (target, task * g.group_len());
        vector::run(isa, Forward::<SILU> { g, x, weight, bias, given, y });
    });
    // SAFETY: every group was written.
    unsafe { y.set_len(x.len()) }
    y
}

/// One group of one picture.
struct Forward<'a, const SILU: bool> {
    g: &'a Geometry,
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    given: Option<(f32, f32)>,
    /// Where the group goes, which no other task has.
    y: (SharedMut, usize),
}

impl<const SILU: bool> Kernel for Forward<'_, SILU> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let pixels = self.g.pixels;
        let (mean, scale) =
            self.given.unwrap_or_else(|| shift_and_scale(moments(self.x), self.g.eps));
        let planes = self.x.chunks_exact(pixels).zip(self.weight.iter().zip(self.bias));
        for (channel, (x, (&weight, &bias))) in planes.enumerate() {
            let (factor, offset) = affine((mean, scale), weight, bias);
            let y = self.y.0.range(self.y.1 + channel * pixels, pixels);
            // SAFETY: this function's contract; a plane of this group, which is this task's
            // alone.
            unsafe {
                let (factor, offset) = (S::splat(factor), S::splat(offset));
                let whole = pixels - pixels % S::LANES;
                for at in (0..whole).step_by(S::LANES) {
                    map::<S, SILU>(S::load(x.as_ptr().add(at)), factor, offset).store(y.add(at));
                }
                let mut rest = [0.0_f32; MAX_LANES];
                rest[..pixels - whole].copy_from_slice(&x[whole..]);
                map::<S, SILU>(S::load(rest.as_ptr()), factor, offset).store(rest.as_mut_ptr());
                y.add(whole).copy_from_nonoverlapping(rest.as_ptr(), pixels - whole);
            }
        }
    }
}

/// [`silu_of_affine`], or that without SiLU.
///
/// # Safety
/// As for that.
#[inline(always)]
unsafe fn map<S: Vector, const SILU: bool>(x: S, factor: S, offset: S) -> S {
    // SAFETY: this function's contract.
    unsafe { if SILU { silu_of_affine(x, factor, offset) } else { x.mul_add(factor, offset) } }
}

/// Gradients of [`forward`], see [`backward`].
pub(super) struct Gradients {
    /// To the input, `[B, C, H, W]`.
    pub x: Vec<f32>,
    /// To the weight, `[C]`.
    pub weight: Vec<f32>,
    /// To the bias, `[C]`.
    pub bias: Vec<f32>,
}

/// From the gradient `dy` of the output to those of input, to which `plus` is added,
/// and parameters.
pub(super) fn backward<const SILU: bool>(
    g: &Geometry,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    dy: &[f32],
    plus: Option<&[f32]>,
) -> Gradients {
    g.check(x.len());
    let mut dx = Vec::with_capacity(x.len());
    // Per picture and channel: the gradients to weight and bias.
    let mut sums = vec![(0.0_f64, 0.0_f64); g.batch * g.channels];
    if !x.is_empty() {
        let (isa, len) = (Isa::detect(), g.group_len());
        let target = SharedMut::new_spare(&mut dx);
        let inputs = x.par_chunks_exact(len).zip(dy.par_chunks_exact(len));
        let tasks = inputs.zip(sums.par_chunks_exact_mut(g.group_channels()));
        tasks.enumerate().for_each(|(task, ((x, dy), sums))| {
            let first = task % g.groups * g.group_channels();
            let channels = first..first + g.group_channels();
            let (weight, bias) = (&weight[channels.clone()], &bias[channels]);
            let plus = plus.map(|plus| &plus[task * len..(task + 1) * len]);
            let dx = (target, task * len);
            vector::run(isa, Backward::<SILU> { g, x, weight, bias, dy, plus, dx, sums });
        });
    }
    // SAFETY: every group was written.
    unsafe { dx.set_len(x.len()) }
    let total = |channel: usize| {
        let pictures = (0..g.batch).map(|picture| sums[picture * g.channels + channel]);
        pictures.fold((0.0, 0.0), |total, sum| (total.0 + sum.0, total.1 + sum.1))
    };
    let (weight, bias) =
        (0..g.channels).map(total).map(|(weight, bias)| (weight as f32, bias as f32)).unzip();
    Gradients { x: dx, weight, bias }
}

/// The gradients of one group of one picture.
struct Backward<'a, const SILU: bool> {
    g: &'a Geometry,
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    dy: &'a [f32],
    /// Added to the gradient of the input.
    plus: Option<&'a [f32]>,
    /// Where the gradients go, which no other task has.
    dx: (SharedMut, usize),
    /// Per channel, to weight and bias.
    sums: &'a mut [(f64, f64)],
}

impl<const SILU: bool> Kernel for Backward<'_, SILU> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let Self { g, x, weight, bias, dy, plus, dx, sums } = self;
        let (mean, scale) = shift_and_scale(moments(x), g.eps);
        // Sums over the group of the gradient to the normalised input, and of the same
        // times that input: what mean and variance pass on.
        let (mut through_mean, mut through_variance) = (0.0_f64, 0.0_f64);
        for (channel, sums) in sums.iter_mut().enumerate() {
            let plane = channel * g.pixels..(channel + 1) * g.pixels;
            let (x, dy) = (&x[plane.clone()], &dy[plane.clone()]);
            let (weight, bias) = (weight[channel], bias[channel]);
            let through_silu = |(&x, &dy): (&f32, &f32)| {
                if !SILU {
                    return dy;
                }
                let z = (x - mean) * scale * weight + bias;
                let s = sigmoid(z);
                dy * s * (1.0 + z * (1.0 - s))
            };
            let at = dx.1 + plane.start;
            // SAFETY: a plane of this group, which is this task's alone; there once written.
            let dz = unsafe {
                dx.0.write(at, g.pixels, x.iter().zip(dy).map(through_silu));
                &*dx.0.slice(at, g.pixels)
            };
            *sums = (sum_of(dz, x, |dz, x| dz * (x - mean)) * f64::from(scale), sum(dz));
            through_variance += f64::from(weight) * sums.0;
            through_mean += f64::from(weight) * sums.1;
        }
        // SAFETY: this group, all of which was written.
        let dx = unsafe { dx.0.slice(dx.1, x.len()) };
        let n = x.len() as f64;
        let (a, b) = ((through_mean / n) as f32, (through_variance / n) as f32);
        let planes = dx.chunks_exact_mut(g.pixels).zip(x.chunks_exact(g.pixels));
        for (channel, ((dx, x), &weight)) in planes.zip(weight).enumerate() {
            let through = |dz: f32, x: f32| scale * (dz * weight - a - (x - mean) * scale * b);
            match plus {
                Some(plus) => {
                    let plus = &plus[channel * g.pixels..(channel + 1) * g.pixels];
                    for ((dx, &x), plus) in dx.iter_mut().zip(x).zip(plus) {
                        *dx = through(*dx, x) + plus;
                    }
                }
                None => dx.iter_mut().zip(x).for_each(|(dx, &x)| *dx = through(*dx, x)),
            }
        }
    }
}
