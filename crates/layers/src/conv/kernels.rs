//! Convolution on f32 slices: patches of a tile of pixels, then a matrix product
//! per tile, so that the patch matrix stays in the cache. Tiles are fixed by the
//! shapes alone, so results do not depend on the number of threads, nor those of
//! one picture on the batch around it.

use rayon::prelude::*;

use super::geometry::Geometry;
#[cfg(test)]
use super::winograd::Extras;
#[cfg(test)]
use crate::matrix::View;
use crate::matrix::add_product;
use crate::scratch::with_scratch;
use crate::shared_mut::SharedMut;

/// Bytes of the patch matrix of one tile: a share of the second-level cache.
const TILE_BYTES: usize = 640 << 10;
/// Output pixels of a tile, at least and at most.
const TILE_PIXELS: (usize, usize) = (128, 1024);
/// Rows of the patch matrix that one task of the weight gradient handles.
#[cfg(test)]
const WEIGHT_TASK_ROWS: usize = 288;

/// Output pixels of one tile for a patch matrix of `depth` rows.
fn tile_pixels(depth: usize) -> usize {
    let fitting = TILE_BYTES / (4 * depth.max(1));
    (fitting / 16 * 16).clamp(TILE_PIXELS.0, TILE_PIXELS.1)
}

/// `[B, in, H, W]` to `[B, out, H', W']`: the twin of the fast versions.
#[cfg(test)]
pub(super) fn forward(g: &Geometry, x: &[f32], weight: &[f32], extras: Extras) -> Vec<f32> {
    let (depth, pixels) = (g.depth(), g.out_pixels());
    let len = g.batch * g.out_channels * pixels;
    let mut y = Vec::with_capacity(len);
    let tile = tile_pixels(depth);
    let tiles = pixels.div_ceil(tile);
    let target = SharedMut::new_spare(&mut y);
    (0..g.batch * tiles).into_par_iter().for_each(|task| {
        let (picture, start) = (task / tiles, task % tiles * tile);
        let range = start..(start + tile).min(pixels);
        let n = range.len();
        let image = &x[picture * g.in_channels * g.in_pixels()..][..g.in_channels * g.in_pixels()];
        let first = picture * g.out_channels * pixels + start;
        for channel in 0..g.out_channels {
            let at = first + channel * pixels;
            let bias = extras.bias.map_or(0.0, |bias| bias[channel]);
            // SAFETY: `n` elements of this picture, channel and tile; no other task has them.
            unsafe {
                match extras.residual {
                    Some(residual) => {
                        target.write(at, n, residual[at..at + n].iter().map(|r| r + bias));
                    }
                    None => target.write(at, n, std::iter::repeat_n(bias, n)),
                }
            }
        }
        let multiply = |columns: View| {
            // SAFETY: the rows are this tile's pixels of every channel of this picture:
            // inside `y`, and no other task has them.
            unsafe {
                let target = target.at(first);
                add_product(
                    (g.out_channels, n, depth),
                    target,
                    pixels,
                    (weight, depth, 1),
                    columns,
                );
            }
        };
        with_scratch(depth * n, |columns| {
            g.gather(image, 0..g.in_channels, range, columns, n);
            multiply((columns, n, 1));
        });
    });
    // SAFETY: there is room for `len`, and every pixel of every channel was written.
    unsafe { y.set_len(len) }
    y
}

/// The gradient to the input, for any stride and padding: `[B, in, H, W]`.
pub(super) fn input_gradient(g: &Geometry, weight: &[f32], grad: &[f32]) -> Vec<f32> {
    let (depth, pixels) = (g.depth(), g.out_pixels());
    let mut dx = vec![0.0; g.batch * g.in_channels * g.in_pixels()];
    let group = g.in_channels.div_ceil(g.in_channels.div_ceil(32).max(1)).max(1);
    let groups = g.in_channels.div_ceil(group);
    let target = SharedMut::new(&mut dx);
    (0..g.batch * groups).into_par_iter().for_each(|task| {
        let (picture, first) = (task / groups, task % groups * group);
        let channels = group.min(g.in_channels - first);
        let rows = channels * g.taps();
        let grad = &grad[picture * g.out_channels * pixels..][..g.out_channels * pixels];
        // SAFETY: these channels of this picture, inside `dx`; no other task has them.
        let planes = unsafe {
            let offset = (picture * g.in_channels + first) * g.in_pixels();
            target.slice(offset, channels * g.in_pixels())
        };
        let left = (&weight[first * g.taps()..], 1, depth);
        let tile = tile_pixels(rows);
        for start in (0..pixels).step_by(tile) {
            let range = start..(start + tile).min(pixels);
            let n = range.len();
            with_scratch(rows * n, |columns| {
                columns.fill(0.0);
                let right = (&grad[start..], pixels, 1);
                // SAFETY: `columns` is this thread's scratch, `rows` rows of `n` floats.
                unsafe {
                    let target = columns.as_mut_ptr();
                    add_product((rows, n, g.out_channels), target, n, left, right);
                }
                g.scatter(columns, n, channels, range, planes);
            });
        }
    });
    dx
}

/// The gradient to the weight, `[out, in, kh, kw]`: the twin of the fast versions.
#[cfg(test)]
pub(super) fn weight_gradient(g: &Geometry, x: &[f32], grad: &[f32]) -> Vec<f32> {
    let (depth, pixels) = (g.depth(), g.out_pixels());
    let mut dw = vec![0.0; g.out_channels * depth];
    let group = (WEIGHT_TASK_ROWS / g.taps()).clamp(1, g.in_channels.max(1));
    let groups = g.in_channels.div_ceil(group);
    let target = SharedMut::new(&mut dw);
    (0..groups).into_par_iter().for_each(|task| {
        let first = task * group;
        let channels = first..(first + group).min(g.in_channels);
        let rows = channels.len() * g.taps();
        let tile = tile_pixels(rows);
        for picture in 0..g.batch {
            let image =
                &x[picture * g.in_channels * g.in_pixels()..][..g.in_channels * g.in_pixels()];
            let grad = &grad[picture * g.out_channels * pixels..][..g.out_channels * pixels];
            for start in (0..pixels).step_by(tile) {
                let range = start..(start + tile).min(pixels);
                let n = range.len();
                with_scratch(rows * n, |columns| {
                    g.gather(image, channels.clone(), range, columns, n);
                    let left = (&grad[start..], pixels, 1);
                    // SAFETY: these columns of every row of `dw`; no other task has them.
                    unsafe {
                        let target = target.at(first * g.taps());
                        let right: View = (columns, 1, n);
                        add_product((g.out_channels, rows, n), target, depth, left, right);
                    }
                });
            }
        }
    });
    dw
}

/// The gradient to the bias, `[out]`: the sum over pictures and pixels.
pub(super) fn bias_gradient(g: &Geometry, grad: &[f32]) -> Vec<f32> {
    let pixels = g.out_pixels();
    let plane = |picture: usize, channel: usize| {
        &grad[(picture * g.out_channels + channel) * pixels..][..pixels]
    };
    (0..g.out_channels)
        .into_par_iter()
        .map(|channel| {
            let sums = (0..g.batch).map(|picture| crate::reduce::sum(plane(picture, channel)));
            sums.sum::<f64>() as f32
        })
        .collect()
}
