//! Direct convolution of stride 1: bands of rows are copied once into zero-padded
//! planes, and the kernels of [`super::simd`] read every tap from there. An output
//! is one sum in a fixed order, so results depend neither on bands nor on threads.

use std::ops::Range;

use rayon::prelude::*;

use super::geometry::Geometry;
use crate::shared_mut::SharedMut;
use super::winograd::Extras;
use crate::isa::Isa;
use crate::scratch::with_scratch;

/// Bytes of the padded planes of one band: a share of the second-level cache.
const BAND_BYTES: usize = 512 << 10;
/// Positions of a band of the weight gradient: short enough that a few rows of the
/// output's gradient stay in the first-level cache.
const GRADIENT_POSITIONS: usize = 1024;
/// Tasks to cut a small input into, so that threads share it.
const MIN_TASKS: usize = 8;
/// Readable floats behind a plane: two of the widest vectors.
const SLACK: usize = 32;

/// How a stride 1 convolution is cut into bands of output rows.
struct Bands {
    rows: usize,
    per_picture: usize,
    /// Floats from one padded row to the next.
    pitch: usize,
    /// Floats from one padded channel to the next.
    plane: usize,
}

impl Bands {
    fn new(g: &Geometry, rows: usize) -> Self {
        let rows = rows.clamp(1, g.oh);
        let pitch = g.w + g.config.padding.left + g.config.padding.right;
        let plane = (rows + g.kh - 1) * pitch + g.kw + SLACK;
        Self { rows, per_picture: g.oh.div_ceil(rows), pitch, plane }
    }

    /// Output rows of band `index` of a picture.
    fn range(&self, g: &Geometry, index: usize) -> Range<usize> {
        index * self.rows..((index + 1) * self.rows).min(g.oh)
    }

    /// Positions from the first output of a band to its last.
    fn positions(&self, g: &Geometry, rows: usize) -> usize {
        (rows - 1) * self.pitch + g.ow
    }

    /// Copies what the output rows `rows` read of `channels` of one picture into
    /// padded planes.
    fn pad(
        &self,
        g: &Geometry,
        image: &[f32],
        channels: Range<usize>,
        rows: &Range<usize>,
        planes: &mut [f32],
    ) {
        let (top, left) = (g.config.padding.top, g.config.padding.left);
        for (channel, plane) in channels.zip(planes.chunks_exact_mut(self.plane)) {
            let source = &image[channel * g.in_pixels()..][..g.in_pixels()];
            for (row, target) in
                (rows.start..rows.end + g.kh - 1).zip(plane.chunks_exact_mut(self.pitch))
            {
                match row.checked_sub(top).filter(|&row| row < g.h) {
                    Some(row) => {
                        target[..left].fill(0.0);
                        target[left..left + g.w].copy_from_slice(&source[row * g.w..][..g.w]);
                        target[left + g.w..].fill(0.0);
                    }
                    None => target.fill(0.0),
                }
            }
            let used = (rows.len() + g.kh - 1) * self.pitch;
            plane[used..].fill(0.0);
        }
    }
}

/// The weight of a convolution of stride 1.
#[derive(Clone, Copy)]
pub(super) struct Weight<'a> {
    /// `[out, in, kh, kw]`, or where `flipped` `[in, out, kh, kw]` with both axes of
    /// the kernel the other way round: the gradient to the input is such a convolution
    /// of the gradient to the output.
    pub data: &'a [f32],
    /// See above.
    pub flipped: bool,
}

impl Weight<'_> {
    /// Blocks of `channels` outputs, each `[in, kh, kw, outputs]`.
    fn pack(self, g: &Geometry, channels: usize) -> Vec<f32> {
        let (depth, taps) = (g.depth(), g.taps());
        let mut packed = vec![0.0; g.out_channels * depth];
        packed.par_chunks_mut(channels * depth).enumerate().for_each(|(block, packed)| {
            let rows = packed.len() / depth;
            for m in 0..rows {
                let output = block * channels + m;
                let mut column = packed[m..].iter_mut().step_by(rows);
                for input in 0..g.in_channels {
                    let at = if self.flipped {
                        input * g.out_channels + output
                    } else {
                        output * g.in_channels + input
                    };
                    let kernel = &self.data[at * taps..][..taps];
                    let column = column.by_ref().take(taps);
                    if self.flipped {
                        column.zip(kernel.iter().rev()).for_each(|(to, from)| *to = *from);
                    } else {
                        column.zip(kernel).for_each(|(to, from)| *to = *from);
                    }
                }
            }
        });
        packed
    }
}

/// `[B, in, H, W]` to `[B, out, H', W']`, stride 1.
pub(super) fn forward(
    isa: Isa,
    g: &Geometry,
    x: &[f32],
    weight: Weight,
    extras: Extras,
) -> Vec<f32> {
    let pitch = g.w + g.config.padding.left + g.config.padding.right;
    let cached = (BAND_BYTES / (4 * pitch * g.in_channels)).saturating_sub(g.kh - 1);
    let bands = Bands::new(g, cached.max(2).min(g.oh.div_ceil(MIN_TASKS.div_ceil(g.batch.max(1)))));
    // Blocks of about the same size.
    let channels = g.out_channels.div_ceil(g.out_channels.div_ceil(isa.block_channels()).max(1));
    let packed = weight.pack(g, channels.max(1));
    let offsets: Vec<usize> = (0..g.depth())
        .map(|k| {
            let (channel, tap) = (k / g.taps(), k % g.taps());
            channel * bands.plane + tap / g.kw * pitch + tap % g.kw
        })
        .collect();
    let len = g.batch * g.out_channels * g.out_pixels();
    let mut y = Vec::with_capacity(len);
    let target = SharedMut::new_spare(&mut y);
    (0..g.batch * bands.per_picture).into_par_iter().for_each(|task| {
        let (picture, rows) = (task / bands.per_picture, bands.range(g, task % bands.per_picture));
        let image = &x[picture * g.in_channels * g.in_pixels()..][..g.in_channels * g.in_pixels()];
        with_scratch(g.in_channels * bands.plane, |planes| {
            bands.pad(g, image, 0..g.in_channels, &rows, planes);
            let step = isa.block_positions();
            let mut sums = vec![0.0; channels * step];
            for start in (0..bands.positions(g, rows.len())).step_by(step) {
                let runs = runs(g, pitch, &rows, start..start + step);
                let blocks = packed.chunks(channels * g.depth());
                for (block, weights) in blocks.enumerate() {
                    let first = block * channels;
                    let channels = channels.min(g.out_channels - first);
                    // SAFETY: the last load ends `step` behind position `start` of the last
                    // tap, at most `SLACK` behind its plane's last row.
                    unsafe {
                        let input = planes.as_ptr().add(start);
                        isa.block(channels, input, &offsets, weights, &mut sums);
                    }
                    for (channel, sums) in (first..first + channels).zip(sums.chunks_exact(step)) {
                        let bias = extras.bias.map_or(0.0, |bias| bias[channel]);
                        let plane = (picture * g.out_channels + channel) * g.out_pixels();
                        for &(at, pixel, len) in &runs {
                            let (first, sums) = (plane + pixel, &sums[at..at + len]);
                            let sums = sums.iter().map(|sum| sum + bias);
                            // SAFETY: as many pixels, of this band and channel; no other task has
                            // them.
                            unsafe {
                                match extras.residual {
                                    Some(residual) => {
                                        let residual = &residual[first..first + len];
                                        let sums = sums.zip(residual).map(|(sum, r)| sum + r);
                                        target.write(first, len, sums);
                                    }
                                    None => target.write(first, len, sums),
                                }
                            }
                        }
                    }
                }
            }
        });
    });
    // SAFETY: there is room for `len`, and every pixel of every channel was written.
    unsafe { y.set_len(len) }
    y
}

/// The pixels among `positions`, as runs within a row: `(offset in positions, first
/// pixel, length)`.
fn runs(
    g: &Geometry,
    pitch: usize,
    rows: &Range<usize>,
    positions: Range<usize>,
) -> Vec<(usize, usize, usize)> {
    let mut runs = Vec::with_capacity(positions.len() / pitch + 2);
    let mut position = positions.start;
    while position < positions.end && position / pitch < rows.len() {
        let (row, column) = (position / pitch, position % pitch);
        let len = g.ow.saturating_sub(column).min(positions.end - position);
        if len > 0 {
            runs.push((position - positions.start, (rows.start + row) * g.ow + column, len));
        }
        position = (row + 1) * pitch;
    }
    runs
}

/// The gradient to the weight of a convolution of stride 1 and kernel width 3.
pub(super) fn weight_gradient(isa: Isa, g: &Geometry, x: &[f32], grad: &[f32]) -> Vec<f32> {
    let depth = g.depth();
    let mut dw = vec![0.0; g.out_channels * depth];
    let pitch = g.w + g.config.padding.left + g.config.padding.right;
    let bands = Bands::new(g, GRADIENT_POSITIONS / pitch);
    let lanes = isa.lanes();
    let row_len = bands.positions(g, bands.rows).next_multiple_of(lanes);
    let group = g.in_channels.div_ceil(MIN_TASKS).clamp(4, 32).min(g.in_channels);
    let target = SharedMut::new(&mut dw);
    (0..g.in_channels.div_ceil(group)).into_par_iter().for_each(|task| {
        let inputs = task * group..((task + 1) * group).min(g.in_channels);
        let planes_len = inputs.len() * bands.plane;
        with_scratch(planes_len + g.out_channels * row_len, |scratch| {
            let (planes, grads) = scratch.split_at_mut(planes_len);
            for band in 0..g.batch * bands.per_picture {
                let (picture, rows) =
                    (band / bands.per_picture, bands.range(g, band % bands.per_picture));
                let image =
                    &x[picture * g.in_channels * g.in_pixels()..][..g.in_channels * g.in_pixels()];
                let grad = &grad[picture * g.out_channels * g.out_pixels()..]
                    [..g.out_channels * g.out_pixels()];
                bands.pad(g, image, inputs.clone(), &rows, planes);
                spread(g, pitch, grad, &rows, grads, row_len);
                let len = bands.positions(g, rows.len()).next_multiple_of(lanes);
                for first in (0..g.out_channels).step_by(isa.tap_channels()) {
                    let outputs = isa.tap_channels().min(g.out_channels - first);
                    for (input, plane) in inputs.clone().zip(planes.chunks_exact(bands.plane)) {
                        for ky in 0..g.kh {
                            let mut sums = [[0.0; 3]; 8];
                            // SAFETY: taps end at most `SLACK` behind the plane's last row; the rows
                            // of `grads` have `row_len >= len` floats.
                            unsafe {
                                let input = plane.as_ptr().add(ky * pitch);
                                let grads = grads.as_ptr().add(first * row_len);
                                isa.taps(outputs, input, grads, row_len, len, &mut sums);
                            }
                            for (output, sums) in (first..).zip(&sums[..outputs]) {
                                let at = output * depth + input * g.taps() + ky * g.kw;
                                // SAFETY: weights of this task's input channels, inside `dw`; no other
                                // task has them.
                                let weights = unsafe { target.slice(at, 3) };
                                weights.iter_mut().zip(sums).for_each(|(w, sum)| *w += sum);
                            }
                        }
                    }
                }
            }
        });
    });
    dw
}

/// Copies the gradient of the output rows `rows` to positions: rows of `row_len`
/// per channel, zeros between the picture's rows and behind them.
fn spread(
    g: &Geometry,
    pitch: usize,
    grad: &[f32],
    rows: &Range<usize>,
    grads: &mut [f32],
    row_len: usize,
) {
    let planes = grad.chunks_exact(g.out_pixels());
    for (target, plane) in grads.chunks_exact_mut(row_len).zip(planes) {
        let sources = plane[rows.start * g.ow..rows.end * g.ow].chunks_exact(g.ow);
        let mut used = 0;
        for (row, source) in sources.enumerate() {
            target[used..row * pitch].fill(0.0);
            used = row * pitch + g.ow;
            target[row * pitch..used].copy_from_slice(source);
        }
        target[used..].fill(0.0);
    }
}
