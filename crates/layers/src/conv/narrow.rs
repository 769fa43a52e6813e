//! Convolution of stride 1 to a few output channels, as pictures have.
//!
//! With three outputs a copy of every patch costs more than the sums. So the inputs are read
//! where they lie, in padded rows of a few channels that stay in the first-level cache: a
//! ring of as many rows as the kernel is high goes down a band, and registers hold four
//! vectors of a row of all output channels.

mod gradient;

use rayon::prelude::*;

pub(super) use self::gradient::{suits_gradient, weight_gradient};
use super::geometry::Geometry;
use super::weight::{Blocks, Weight};
use super::winograd::Extras;
use crate::isa::Isa;
use crate::scratch::with_scratch;
use crate::shared_mut::SharedMut;
use crate::vector::{Kernel, Vector, lanes, run};

/// Output channels, at most.
const FEW: usize = 4;
/// Vectors of a row that registers hold sums of.
const VECTORS: usize = 4;
/// Floats of the ring: three quarters of a first-level cache of 32 KiB.
const RING_FLOATS: usize = 6 << 10;
/// Terms of a sum before it joins the others, at most: a long sum of shorter ones rounds less.
const TERMS: usize = 96;
/// Floats of a line of the cache.
const LINE: usize = 16;
/// Output rows of a band, at most: their sums stay in the second-level cache.
const BAND_ROWS: usize = 32;
/// Tasks to cut a small input into, so that threads share it.
const MIN_TASKS: usize = 8;

/// Whether this is the fastest way for `g`, where transforms do not suit.
pub(super) fn suits(g: &Geometry) -> bool {
    g.config.stride == 1 && g.out_channels <= FEW && g.taps() > 1
}

/// `[B, in, H, W]` to `[B, out, H', W']`, stride 1.
pub(super) fn forward(
    isa: Option<Isa>,
    g: &Geometry,
    x: &[f32],
    weight: Weight,
    extras: Extras,
) -> Vec<f32> {
    let len = g.batch * g.out_channels * g.out_pixels();
    let mut y = Vec::with_capacity(len);
    let sizes = Sizes::new(g, VECTORS * lanes(isa));
    let target = SharedMut::new_spare(&mut y);
    with_scratch(g.out_channels * g.depth(), |packed| {
        // One block: `[in, kh, kw, out]`.
        let all = Blocks { channels: g.out_channels, count: 1 };
        weight.pack(isa, g, all, g.out_channels, packed);
        let packed = &*packed;
        (0..g.batch * sizes.bands).into_par_iter().for_each(|task| {
            with_scratch(sizes.sums + sizes.ring, |scratch| {
                run(isa, Band { g, sizes, x, packed, extras, task, scratch, y: target });
            });
        });
    });
    // SAFETY: there is room for `len`, and every row of every channel was written.
    unsafe { y.set_len(len) }
    y
}

#[derive(Clone, Copy)]
struct Sizes {
    /// Output rows of a band, and bands of a picture.
    rows: usize,
    bands: usize,
    /// Floats of a row of sums: whole registers.
    width: usize,
    /// Floats of a padded input row, and of the rows of one channel.
    pitch: usize,
    plane: usize,
    /// Input channels at a time.
    channels: usize,
    ring: usize,
    /// Floats of the sums of a band, `[rows, out, width]`.
    sums: usize,
}

impl Sizes {
    /// `step` floats are in registers at a time.
    fn new(g: &Geometry, step: usize) -> Self {
        let shared = g.oh.div_ceil(MIN_TASKS.div_ceil(g.batch.max(1)));
        let rows = BAND_ROWS.min(shared).max(1);
        let width = g.ow.next_multiple_of(step);
        let pitch = width + g.kw - 1;
        let plane = g.kh * pitch;
        let channels = (RING_FLOATS / plane).min(TERMS / g.taps()).clamp(1, g.in_channels);
        Self {
            rows,
            bands: g.oh.div_ceil(rows),
            width,
            pitch,
            plane,
            channels,
            ring: channels * plane,
            sums: rows * g.out_channels * width,
        }
    }
}

/// Some output rows of one picture.
struct Band<'a> {
    g: &'a Geometry,
    sizes: Sizes,
    x: &'a [f32],
    packed: &'a [f32],
    extras: Extras<'a>,
    /// Picture and band.
    task: usize,
    scratch: &'a mut [f32],
    y: SharedMut,
}

impl Kernel for Band<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        // SAFETY: this function's contract.
        unsafe {
            match self.g.out_channels {
                1 => self.of::<S, 1>(),
                2 => self.of::<S, 2>(),
                3 => self.of::<S, 3>(),
                _ => self.of::<S, FEW>(),
            }
        }
    }
}

impl Band<'_> {
    /// The band, with `OUT` output channels.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`; `OUT` is what `g` has.
    #[inline(always)]
    unsafe fn of<S: Vector, const OUT: usize>(self) {
        let Self { g, sizes, .. } = self;
        let (picture, band) = (self.task / sizes.bands, self.task % sizes.bands);
        let rows = band * sizes.rows..((band + 1) * sizes.rows).min(g.oh);
        let image = &self.x[picture * g.in_channels * g.in_pixels()..];
        let (sums, ring) = self.scratch.split_at_mut(sizes.sums);
        let mut slots = vec![0; g.kh];
        for first in (0..g.in_channels).step_by(sizes.channels) {
            let channels = first..(first + sizes.channels).min(g.in_channels);
            let weights = &self.packed[first * g.taps() * OUT..][..channels.len() * g.taps() * OUT];
            for read in 0..rows.len() + g.kh - 1 {
                let slot = read % g.kh * sizes.pitch;
                for (channel, plane) in channels.clone().zip(ring.chunks_exact_mut(sizes.plane)) {
                    let row = (rows.start + read).checked_sub(g.config.padding.top);
                    let row = row
                        .filter(|&row| row < g.h)
                        .map(|row| &image[channel * g.in_pixels() + row * g.w..][..g.w]);
                    let target = &mut plane[slot..slot + sizes.pitch];
                    fill(row, g.config.padding.left, target);
                    if let (Some(row), Some(norm)) = (row, self.extras.norm) {
                        let target = &mut target[g.config.padding.left..][..row.len()];
                        // SAFETY: this function's contract.
                        unsafe { norm.row::<S>(picture * g.in_channels + channel, target) }
                    }
                }
                let Some(output) = (read + 1).checked_sub(g.kh) else { continue };
                let sums = &mut sums[output * OUT * sizes.width..][..OUT * sizes.width];
                for (ky, slot) in slots.iter_mut().enumerate() {
                    *slot = (output + ky) % g.kh * sizes.pitch;
                }
                // The next row of each channel is asked for in between, a line at a time: too short
                // and too far apart for the machine to guess.
                let next =
                    (rows.start + read + 1).saturating_sub(g.config.padding.top).min(g.h - 1);
                for column in (0..sizes.width).step_by(VECTORS * S::LANES) {
                    for channel in channels.clone() {
                        let row = image[channel * g.in_pixels() + next * g.w..].as_ptr();
                        for line in (0..VECTORS * S::LANES).step_by(LINE) {
                            S::prefetch(row.wrapping_add(column + line));
                        }
                    }
                    let tile = Tile { g, sizes, ring, weights, slots: &slots, column };
                    // SAFETY: this function's contract; whole registers of a row.
                    unsafe { tile.add::<S, OUT>(sums, first > 0) }
                }
            }
        }
        for (row, sums) in rows.zip(sums.chunks_exact(OUT * sizes.width)) {
            for (channel, sums) in sums.chunks_exact(sizes.width).enumerate() {
                let bias = self.extras.bias.map_or(0.0, |bias| bias[channel]);
                let at = ((picture * OUT + channel) * g.oh + row) * g.ow;
                let sums = sums[..g.ow].iter().map(|sum| sum + bias);
                // SAFETY: a row of `y`, which is this task's alone.
                unsafe {
                    match self.extras.residual {
                        None => self.y.write(at, g.ow, sums),
                        Some(residual) => {
                            let residual = &residual[at..at + g.ow];
                            self.y.write(at, g.ow, sums.zip(residual).map(|(sum, r)| sum + r));
                        }
                    }
                }
            }
        }
    }
}

/// `row`, or a row of padding, with zeros on both sides.
fn fill(row: Option<&[f32]>, left: usize, target: &mut [f32]) {
    let Some(row) = row else { return target.fill(0.0) };
    // Where the padding on the right is missing, what lies beyond is read by no output.
    let (before, rest) = target.split_at_mut(left);
    let inside = row.len().min(rest.len());
    before.fill(0.0);
    rest[..inside].copy_from_slice(&row[..inside]);
    rest[inside..].fill(0.0);
}

/// Four vectors of an output row.
struct Tile<'a> {
    g: &'a Geometry,
    sizes: Sizes,
    ring: &'a [f32],
    /// Of the channels in the ring.
    weights: &'a [f32],
    /// Where each of the rows that are read starts in a channel's ring.
    slots: &'a [usize],
    /// The first column.
    column: usize,
}

impl Tile<'_> {
    /// Writes to `sums`, `[out, width]`, or adds to them.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`; `column` and the vectors behind it
    /// are within a row of sums.
    #[inline(always)]
    unsafe fn add<S: Vector, const OUT: usize>(&self, sums: &mut [f32], adds: bool) {
        let Self { sizes, column, .. } = *self;
        // SAFETY: this function's contract.
        let totals = unsafe {
            match self.g.kw {
                3 => self.totals::<S, OUT, 3>(),
                _ => self.totals::<S, OUT, 0>(),
            }
        };
        for (channel, totals) in totals.into_iter().enumerate() {
            let sums = &mut sums[channel * sizes.width + column..][..VECTORS * S::LANES];
            for (vector, total) in totals.into_iter().enumerate() {
                let to = sums[vector * S::LANES..].as_mut_ptr();
                // SAFETY: a vector of `sums`.
                unsafe {
                    let total = if adds { S::load(to).plus(total) } else { total };
                    total.store(to);
                }
            }
        }
    }

    /// The sums over the channels in the ring. `KW` is the width of the kernel, or 0 for that
    /// of `g`: known beforehand, its steps need no loop.
    ///
    /// # Safety
    /// As for [`Tile::add`].
    #[inline(always)]
    unsafe fn totals<S: Vector, const OUT: usize, const KW: usize>(&self) -> [[S; VECTORS]; OUT] {
        let Self { g, sizes, ring, weights, slots, column } = *self;
        let kw = if KW > 0 { KW } else { g.kw };
        let channels = weights.len() / (slots.len() * kw * OUT);
        let furthest = slots.iter().fold(0, |furthest, slot| furthest.max(*slot));
        assert!(furthest + column + VECTORS * S::LANES + kw - 1 <= sizes.plane);
        assert!(channels * sizes.plane <= ring.len());
        let mut weight = weights.as_ptr();
        // SAFETY: of every channel in the ring the rows at `slots`, which hold the vectors and
        // `kw - 1` more (asserted), and its weights, of which there are as many.
        unsafe {
            let mut totals = [[S::splat(0.0); VECTORS]; OUT];
            for channel in 0..channels {
                let plane = ring.as_ptr().add(channel * sizes.plane + column);
                for slot in slots {
                    let row = plane.add(*slot);
                    for kx in 0..kw {
                        let from = row.add(kx);
                        let mut by = [S::splat(0.0); OUT];
                        for (i, by) in by.iter_mut().enumerate() {
                            *by = S::splat(*weight.add(i));
                        }
                        weight = weight.add(OUT);
                        for vector in 0..VECTORS {
                            let x = S::load(from.add(vector * S::LANES));
                            for (totals, by) in totals.iter_mut().zip(by) {
                                totals[vector] = x.mul_add(by, totals[vector]);
                            }
                        }
                    }
                }
            }
            totals
        }
    }
}
