//! Convolutions with many more weights than patches have numbers: products of the weight as it
//! lies, which would take longest to pack, with the matrix of all patches (im2col).

use rayon::prelude::*;

use super::geometry::Geometry;
use super::winograd::{self, Extras};
use crate::factors::Factors;
use crate::matrix::{Start, product};
use crate::scratch::with_scratch;

/// Weights from which on packing them is what takes time.
const MIN_WEIGHTS: usize = 256 << 10;
/// Weights for each number of the patches, at least. (At 2 and below it took 1.1 to 1.3 of the time.)
const MIN_RATIO: usize = 4;
/// Floats of the patches of the pictures that are done at a time, unless one has more.
const PATCHES: usize = 4 << 20;

/// Whether this is the fastest way: decided by one picture, so that batches do not change a result.
pub(super) fn suits(g: &Geometry) -> bool {
    g.batch > 0
        && g.out_channels * g.depth() >= MIN_WEIGHTS
        && MIN_RATIO * g.out_pixels() <= g.out_channels
        && !g.is_pointwise()
        && !winograd::suits(g)
}

/// Pictures that are done at a time.
fn together(g: &Geometry) -> usize {
    (PATCHES / (g.depth() * g.out_pixels())).clamp(1, g.batch)
}

/// `[B, in, H, W]` to `[B, out, H', W']` for `weight` `[out, in, kh, kw]`. No size is 0.
pub(super) fn forward(
    g: &Geometry,
    x: &[f32],
    weight: &[f32],
    extras: Extras,
    factors: Factors,
) -> Vec<f32> {
    let (depth, pixels, channels) = (g.depth(), g.out_pixels(), g.out_channels);
    let weight = (weight, depth, 1);
    if g.batch == 1 {
        let mut y = Vec::new();
        let start = Start::Sum { row: None, column: extras.bias, matrix: extras.residual };
        with_patches(g, x, |patches| {
            let sizes = (channels, pixels, depth);
            product(factors, sizes, &mut y, start, weight, (patches, pixels, 1));
        });
        return y;
    }
    let mut y = vec![0.0; g.batch * channels * pixels];
    let mut sums = Vec::new();
    for first in (0..g.batch).step_by(together(g)) {
        let part = Geometry { batch: together(g).min(g.batch - first), ..*g };
        let columns = part.batch * pixels;
        let start = Start::Sum { row: None, column: extras.bias, matrix: None };
        let x = &x[first * g.in_channels * g.in_pixels()..];
        with_patches(&part, x, |patches| {
            let sizes = (channels, columns, depth);
            product(factors, sizes, &mut sums, start, weight, (patches, columns, 1));
        });
        let from = first * channels * pixels;
        let y = &mut y[from..][..columns * channels];
        y.par_chunks_exact_mut(pixels).enumerate().for_each(|(plane, y)| {
            let (picture, channel) = (plane / channels, plane % channels);
            y.copy_from_slice(&sums[channel * columns + picture * pixels..][..pixels]);
            if let Some(residual) = extras.residual {
                let residual = &residual[from + plane * pixels..];
                y.iter_mut().zip(residual).for_each(|(y, residual)| *y += residual);
            }
        });
    }
    y
}

/// The gradient to the input, `[B, in, H, W]`, for `grad` `[B, out, H', W']`.
pub(super) fn input_gradient(
    g: &Geometry,
    weight: &[f32],
    grad: &[f32],
    factors: Factors,
) -> Vec<f32> {
    let (depth, pixels, taps) = (g.depth(), g.out_pixels(), g.taps());
    let mut dx = vec![0.0; g.batch * g.in_channels * g.in_pixels()];
    let mut patches = Vec::new();
    for first in (0..g.batch).step_by(together(g)) {
        let part = Geometry { batch: together(g).min(g.batch - first), ..*g };
        let columns = part.batch * pixels;
        with_planes(&part, &grad[first * g.out_channels * pixels..], g.out_channels, |grad| {
            let sizes = (depth, columns, g.out_channels);
            let weight = (weight, 1, depth);
            product(factors, sizes, &mut patches, Start::ZERO, weight, (grad, columns, 1));
        });
        let of_pictures = &mut dx[first * g.in_channels * g.in_pixels()..];
        let planes = of_pictures.par_chunks_exact_mut(g.in_pixels()).enumerate();
        planes.take(part.batch * g.in_channels).for_each(|(plane, dx)| {
            let (picture, channel) = (plane / g.in_channels, plane % g.in_channels);
            let patches = &patches[channel * taps * columns + picture * pixels..];
            g.scatter(patches, columns, 1, 0..pixels, dx);
        });
    }
    dx
}

/// The gradient to the weight, `[out, in, kh, kw]`, for `grad` `[B, out, H', W']`.
pub(super) fn weight_gradient(g: &Geometry, x: &[f32], grad: &[f32], factors: Factors) -> Vec<f32> {
    let (depth, pixels) = (g.depth(), g.out_pixels());
    let mut dw = Vec::new();
    for first in (0..g.batch).step_by(together(g)) {
        let part = Geometry { batch: together(g).min(g.batch - first), ..*g };
        let columns = part.batch * pixels;
        let start = if first == 0 { Start::ZERO } else { Start::Target };
        with_patches(&part, &x[first * g.in_channels * g.in_pixels()..], |patches| {
            with_planes(&part, &grad[first * g.out_channels * pixels..], g.out_channels, |grad| {
                let sizes = (g.out_channels, depth, columns);
                product(factors, sizes, &mut dw, start, (grad, columns, 1), (patches, 1, columns));
            });
        });
    }
    dw
}

/// Runs `f` with the patches of all pictures, `[in * kh * kw, B * pixels]`.
fn with_patches(g: &Geometry, x: &[f32], f: impl FnOnce(&[f32])) {
    let (pixels, of_picture) = (g.out_pixels(), g.in_channels * g.in_pixels());
    let pitch = g.batch * pixels;
    with_scratch(g.depth() * pitch, |patches| {
        let channels = patches.par_chunks_exact_mut(g.taps() * pitch).enumerate();
        channels.for_each(|(channel, patches)| {
            for (picture, image) in x.chunks_exact(of_picture).take(g.batch).enumerate() {
                let to = &mut patches[picture * pixels..];
                g.gather(image, channel..channel + 1, 0..pixels, to, pitch);
            }
        });
        f(patches);
    });
}

/// Runs `f` with maps of as many pixels as the output, `[C, B * pixels]`, of `[B, C, pixels]`.
fn with_planes(g: &Geometry, maps: &[f32], channels: usize, f: impl FnOnce(&[f32])) {
    let (pixels, len) = (g.out_pixels(), g.batch * channels * g.out_pixels());
    let maps = &maps[..len];
    if g.batch == 1 {
        return f(maps);
    }
    with_scratch(len, |planes| {
        planes.par_chunks_exact_mut(pixels).enumerate().for_each(|(plane, to)| {
            let (channel, picture) = (plane / g.batch, plane % g.batch);
            to.copy_from_slice(&maps[(picture * channels + channel) * pixels..][..pixels]);
        });
        f(planes);
    });
}

#[cfg(test)]
mod tests;
