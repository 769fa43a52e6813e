//! Convolution of any kernel and stride by products of weights with panels of patches.
//!
//! A band of rows is copied into zero-padded planes, the columns of a row sorted by
//! their remainder by the stride: the inputs of neighbouring outputs are then
//! neighbours for every tap. A panel holds, for two vectors of outputs and a range of
//! (channel, tap), what each output reads: small enough for the first-level cache,
//! where all blocks of output channels meet it. An output is one sum over (channel,
//! tap) in that order, whatever the bands, panels and threads. Sums of one panel, as of a
//! picture's few channels, go straight to where they belong.

mod gradient;
pub(super) mod planes;

use std::ops::Range;

use rayon::prelude::*;

pub(super) use self::gradient::weight_gradient;
use self::planes::{Planes, gather};
use super::geometry::Geometry;
use super::weight::{Blocks, Weight};
use super::winograd::Extras;
use crate::isa::Isa;
use crate::matrix::block::{self, Addend, Addends, Out, product};
use crate::scratch::with_scratch;
use crate::shared_mut::SharedMut;
use crate::vector::{Kernel, Vector, lanes, pairs, run};

/// Floats of the padded planes of one band: a share of the second-level cache.
const BAND_FLOATS: usize = 128 << 10;
/// (Channel, tap) pairs of a panel: for two vectors of 16 it takes 24 KiB.
const PANEL_DEPTH: usize = 192;
/// Floats of sums that are kept while panels change, about.
const SUM_FLOATS: usize = 32 << 10;
/// Panels, each of other outputs, that meet the same weights one after the other: the
/// second-level cache keeps those.
const PANELS: usize = 8;
/// Tasks to cut a small input into, so that threads share it.
const MIN_TASKS: usize = 8;
/// Floats of panels that have all terms of their outputs: half of a first-level cache. Rows of
/// outputs of several panels are longer, which memory likes.
const STRAIGHT_FLOATS: usize = 4 << 10;

/// `[B, in, H, W]` to `[B, out, H', W']`.
pub(super) fn forward(
    isa: Option<Isa>,
    g: &Geometry,
    x: &[f32],
    weight: Weight,
    extras: Extras,
) -> Vec<f32> {
    let len = g.batch * g.out_channels * g.out_pixels();
    let mut y = Vec::with_capacity(len);
    if len > 0 && g.depth() > 0 {
        let target = SharedMut::new_spare(&mut y);
        // SAFETY: there is room for `len`, and nothing else uses it.
        unsafe { forward_into(isa, g, x, weight, extras, target) }
    } else {
        let bias = |channel: usize| extras.bias.map_or(0.0, |bias| bias[channel]);
        let pixels = g.out_pixels().max(1);
        y.extend(
            (0..len)
                .map(|i| bias(i / pixels % g.out_channels) + extras.residual.map_or(0.0, |r| r[i])),
        );
    }
    // SAFETY: every pixel of every channel was written.
    unsafe { y.set_len(len) }
    y
}

/// [`forward`] to `y`, whose numbers are all written. No size is 0.
///
/// # Safety
/// Nothing else may use `y` meanwhile.
pub(super) unsafe fn forward_into(
    isa: Option<Isa>,
    g: &Geometry,
    x: &[f32],
    weight: Weight,
    extras: Extras,
    y: SharedMut,
) {
    let planes = Planes::new(g);
    let rows = pairs(isa);
    let blocks = Blocks::of(g.out_channels, rows);
    let sizes = Sizes::new(g, &planes, 2 * lanes(isa));
    with_scratch(blocks.count * rows * g.depth(), |packed| {
        weight.pack(isa, g, blocks, rows, packed);
        let (packed, taps) = (&*packed, &*planes.taps(g));
        (0..g.batch * planes.bands).into_par_iter().for_each(|task| {
            with_scratch(sizes.all(), |scratch| {
                run(
                    isa,
                    Band { g, planes, sizes, x, packed, blocks, taps, extras, task, scratch, y },
                );
            });
        });
    });
}

/// The scratch of one task.
#[derive(Clone, Copy)]
struct Sizes {
    /// Outputs of a panel: two vectors.
    width: usize,
    /// Panels whose sums are kept.
    panels: usize,
    /// Floats of a panel, or of as many as have all terms.
    panel: usize,
    /// Floats of the sums of a panel's outputs.
    sums: usize,
    /// Floats of the planes.
    planes: usize,
}

impl Sizes {
    fn new(g: &Geometry, planes: &Planes, width: usize) -> Self {
        let sums = g.out_channels * width;
        let needed = (planes.rows * g.ow).div_ceil(width);
        Self {
            width,
            panels: (SUM_FLOATS / sums).clamp(1, PANELS).min(needed),
            panel: if g.depth() > PANEL_DEPTH {
                PANEL_DEPTH * width
            } else {
                let panel = g.depth() * width;
                (STRAIGHT_FLOATS / panel).clamp(1, PANELS) * panel
            },
            sums,
            planes: if planes.is_picture { 0 } else { g.in_channels * planes.plane },
        }
    }

    fn all(&self) -> usize {
        self.planes + self.panel + self.panels * self.sums
    }
}

/// One band of one picture.
struct Band<'a> {
    g: &'a Geometry,
    planes: Planes,
    sizes: Sizes,
    x: &'a [f32],
    packed: &'a [f32],
    /// Those of `packed`.
    blocks: Blocks,
    /// See [`Planes::taps`].
    taps: &'a [usize],
    extras: Extras<'a>,
    /// Picture and band.
    task: usize,
    scratch: &'a mut [f32],
    y: SharedMut,
}

impl Kernel for Band<'_> {
    // No closures around vectors: they would be compiled without the instruction set.
    #[inline(always)]
    unsafe fn run<S: Vector>(mut self) {
        let scratch = std::mem::take(&mut self.scratch);
        let Self { g, planes, sizes, blocks, .. } = self;
        let Sizes { width, panels, .. } = sizes;
        let (picture, rows) = (self.task / planes.bands, planes.range(g, self.task % planes.bands));
        let image = &self.x[picture * g.in_channels * g.in_pixels()..];
        let image = &image[..g.in_channels * g.in_pixels()];
        // Whole vectors first, so that they stay aligned.
        let (panel, scratch) = scratch.split_at_mut(sizes.panel);
        let (sums, data) = scratch.split_at_mut(panels * sizes.sums);
        // From what the band's first output reads.
        let data = if planes.is_picture {
            &image[rows.start * g.w..]
        } else {
            planes.fill(g, image, &rows, data);
            &*data
        };
        let (depth, pixels) = (g.depth(), rows.len() * g.ow);
        if depth <= PANEL_DEPTH && pixels >= width {
            // SAFETY: this function's contract.
            return unsafe { self.straight::<S>(picture, rows, data, panel, sums) };
        }
        for start in (0..pixels).step_by(panels * width) {
            let count = panels.min((pixels - start).div_ceil(width));
            for first in (0..depth).step_by(PANEL_DEPTH) {
                let range = first..(first + PANEL_DEPTH).min(depth);
                for (i, sums) in sums.chunks_exact_mut(sizes.sums).take(count).enumerate() {
                    let start = start + i * width;
                    let outputs = start..(start + width).min(pixels);
                    // SAFETY: this function's contract.
                    unsafe {
                        gather::<S>(g, &planes, data, outputs, &self.taps[range.clone()], panel)
                    }
                    let right = panel[..range.len() * width].as_ptr();
                    for (block, weights) in self.packed.chunks_exact(S::PAIRS * depth).enumerate() {
                        let channels = blocks.range(block);
                        let left = weights[first * S::PAIRS..][..range.len() * S::PAIRS].as_ptr();
                        let out = &mut sums[channels.start * width..];
                        let data = out[..channels.len() * width].as_mut_ptr();
                        let out = Out { data, row: width, streams: false };
                        let addend = Addend { data, row: width };
                        let blocks = [(first > 0).then_some(addend), None];
                        let addends = Addends { blocks, column: None };
                        // SAFETY: weights and panel have the terms of `range`, `out` all rows,
                        // which are at most `PAIRS`.
                        unsafe {
                            product::<S>(channels.len(), left, right, range.len(), out, addends);
                        }
                    }
                }
            }
            for (i, sums) in sums.chunks_exact(sizes.sums).take(count).enumerate() {
                let at = start + i * width;
                let target = Target { g, extras: self.extras, picture, y: self.y };
                let (first, len) = (rows.start * g.ow + at, width.min(pixels - at));
                // SAFETY: this function's contract; pixels of this band.
                unsafe { target.write::<S>(first, len, sums) }
            }
        }
    }
}

impl Band<'_> {
    /// The band where a panel has all terms of its outputs.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`; `data` must be the band's planes,
    /// `panel` panels of all terms.
    #[inline(always)]
    unsafe fn straight<S: Vector>(
        &self,
        picture: usize,
        rows: Range<usize>,
        data: &[f32],
        panel: &mut [f32],
        sums: &mut [f32],
    ) {
        let (g, width, depth) = (self.g, self.sizes.width, self.g.depth());
        let target = Target { g, extras: self.extras, picture, y: self.y };
        let (pixels, row) = (rows.len() * g.ow, g.out_pixels());
        // Lines that a panel fills.
        let streams = block::streams(g.batch * g.out_channels * row, g.ow, self.y)
            && block::streams(g.batch * g.out_channels * row, width, self.y);
        let len = depth * width;
        let count = panel.len() / len;
        for start in (0..pixels).step_by(count * width) {
            let whole = count.min((pixels - start) / width);
            for (i, panel) in panel.chunks_exact_mut(len).take(whole).enumerate() {
                let first = start + i * width;
                // SAFETY: this function's contract.
                unsafe {
                    let outputs = first..first + width;
                    gather::<S>(g, &self.planes, data, outputs, self.taps, panel);
                }
            }
            for (block, weights) in self.packed.chunks_exact(S::PAIRS * depth).enumerate() {
                let channels = self.blocks.range(block);
                let column = self.extras.bias.map(|bias| bias[channels.clone()].as_ptr());
                for (i, panel) in panel.chunks_exact(len).take(whole).enumerate() {
                    let first = rows.start * g.ow + start + i * width;
                    let at = (picture * g.out_channels + channels.start) * row + first;
                    let all = (channels.len() - 1) * row + width;
                    let residual = self.extras.residual.map(|residual| &residual[at..at + all]);
                    let residual = residual.map(|data| Addend { data: data.as_ptr(), row });
                    let addends = Addends { blocks: [residual, None], column };
                    let out = Out { data: self.y.range(at, all), row, streams };
                    let (left, right) = (weights.as_ptr(), panel.as_ptr());
                    // SAFETY: all terms of the block and the panel; `width` pixels of this
                    // band of the block's channels, at a multiple of a line where they are
                    // streamed.
                    unsafe { product::<S>(channels.len(), left, right, depth, out, addends) }
                }
            }
            let first = start + whole * width;
            if whole == count || first == pixels {
                continue;
            }
            // SAFETY: as above, with rows of sums for all channels.
            unsafe {
                gather::<S>(g, &self.planes, data, first..pixels, self.taps, panel);
                for (block, weights) in self.packed.chunks_exact(S::PAIRS * depth).enumerate() {
                    let channels = self.blocks.range(block);
                    let sums = &mut sums[channels.start * width..][..channels.len() * width];
                    let out = Out { data: sums.as_mut_ptr(), row: width, streams: false };
                    let (left, right) = (weights.as_ptr(), panel.as_ptr());
                    product::<S>(channels.len(), left, right, depth, out, Addends::NONE);
                }
                let sums = &sums[..g.out_channels * width];
                target.write::<S>(rows.start * g.ow + first, pixels - first, sums);
            }
        }
        if streams {
            S::fence();
        }
    }
}

/// Where a picture's outputs go.
struct Target<'a> {
    g: &'a Geometry,
    extras: Extras<'a>,
    picture: usize,
    y: SharedMut,
}

impl Target<'_> {
    /// `len` pixels of all channels from pixel `first` on; rows of `sums` are two
    /// vectors.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`; the pixels must be those of
    /// one task alone.
    #[inline(always)]
    unsafe fn write<S: Vector>(&self, first: usize, len: usize, sums: &[f32]) {
        let (g, width) = (self.g, 2 * S::LANES);
        for (channel, sums) in sums.chunks_exact(width).enumerate() {
            let bias = self.extras.bias.map_or(0.0, |bias| bias[channel]);
            let at = (self.picture * g.out_channels + channel) * g.out_pixels() + first;
            if len < width {
                let sums = sums[..len].iter().map(|sum| sum + bias);
                let residual = |i: usize| self.extras.residual.map_or(0.0, |r| r[at + i]);
                // SAFETY: as many pixels, which are this task's alone (contract).
                unsafe { self.y.write(at, len, sums.enumerate().map(|(i, sum)| sum + residual(i))) }
                continue;
            }
            // SAFETY: a row of `sums` and as many pixels of `y` and `residual`.
            unsafe {
                let bias = S::splat(bias);
                for vector in [0, S::LANES] {
                    let mut value = S::load(sums[vector..].as_ptr()).plus(bias);
                    if let Some(residual) = self.extras.residual {
                        let residual = &residual[at + vector..at + vector + S::LANES];
                        value = value.plus(S::load(residual.as_ptr()));
                    }
                    value.store(self.y.range(at + vector, S::LANES));
                }
            }
        }
    }
}
