//! The gradient to the weight: for each tap a product of the gradient to the output, by the
//! transpose of what the tap reads, over all pixels.
//!
//! Planes are lines of pixels, row after row, each with as many columns as taps reach, and the
//! gradient has zeros where it has no pixel: then a tap is a distance along the line. With a
//! stride there is a plane for each remainder of rows and columns. Words are pairs of neighbouring
//! pixels, so planes are there twice, in pairs from an even and from an odd pixel on.

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;
use simd::tiles::{Native, SIDE, Tiles};

use super::super::geometry::Geometry;
use crate::isa::Isa;
use crate::matrix::Factor;
use crate::matrix::tiled::registers::{self, BLOCK, SUMS, Words};
use crate::matrix::tiled::tiles::{GROUP, Pack, Side, TERMS, TILE};
use crate::scratch::with_scratch;
use crate::shared_mut::SharedMut;
use crate::vector::{Kernel, Vector, run};

/// Words of the planes and the gradient of a band: a share of the second-level cache.
const BAND: usize = 384 << 10;
/// Words of the bands that are multiplied one after the other.
const CHUNK: usize = 2 << 20;
/// Tiles of terms of a range, which the first-level cache keeps for one tap after the other.
const RANGE: usize = 16;

/// `[out, in, kh, kw]`, of rounded factors, on a machine that has tiles.
pub fn weight_gradient(g: &Geometry, x: &[f32], grad: &[f32]) -> Vec<f32> {
    assert!(simd::tiles::are_available());
    // SAFETY: the machine has the registers.
    unsafe { with::<Native>(Isa::detect(), g, x, grad) }
}

/// The same with other registers.
///
/// # Safety
/// The machine must have them.
pub unsafe fn with<T: Tiles>(isa: Option<Isa>, g: &Geometry, x: &[f32], grad: &[f32]) -> Vec<f32> {
    let lines = Lines::new(g);
    let [down, across] = [g.out_channels, g.in_channels].map(|channels| channels.div_ceil(BLOCK));
    let (taps, bands) = (g.taps(), g.batch * lines.bands);
    let together = (CHUNK / lines.words()).clamp(1, bands);
    with_scratch(down * across * taps * SUMS + together * lines.words(), |scratch| {
        let (sums, words) = scratch.split_at_mut(down * across * taps * SUMS);
        for first in (0..bands).step_by(together) {
            let bands = first..bands.min(first + together);
            let to = SharedMut::new(words);
            let groups = lines.groups();
            (0..bands.len() * groups).into_par_iter().for_each(|task| {
                let (band, group) = (task / groups, task % groups);
                let (band, at) = (bands.start + band, band * lines.words());
                with_scratch(GROUP * lines.len(), |numbers| {
                    run(isa, Fill { g, lines, x, grad, band, group, numbers, to, at });
                });
            });
            let words = &*words;
            // A task has the taps of a row of the kernel.
            sums.par_chunks_exact_mut(g.kw * SUMS).enumerate().for_each(|(task, sums)| {
                let (block, ky) = (task / g.kh, task % g.kh);
                let block = (block / across, block % across);
                let bands = bands.clone();
                let tiles = PhantomData::<fn() -> T>;
                run(isa, Multiply { g, lines, words, bands, block, ky, sums, tiles });
            });
        }
        let mut dw = vec![0.0; g.out_channels * g.depth()];
        let sums = &*sums;
        dw.par_chunks_exact_mut(g.depth()).enumerate().for_each(|(output, dw)| {
            for (input, dw) in dw.chunks_exact_mut(taps).enumerate() {
                let block = output / BLOCK * across + input / BLOCK;
                let at = output % BLOCK * BLOCK + input % BLOCK;
                for (tap, dw) in dw.iter_mut().enumerate() {
                    *dw = sums[(block * taps + tap) * SUMS + at];
                }
            }
        });
        dw
    })
}

/// Where the words of a band are.
#[derive(Clone, Copy)]
struct Lines {
    /// Output rows of a band, at most.
    rows: usize,
    /// Bands of a picture.
    bands: usize,
    /// Pixels from one row of a plane to the next: even.
    pitch: usize,
    /// Pixels from an output to the last that it reads in any plane.
    reach: usize,
    /// Planes: remainders of rows and columns by the stride.
    phases: usize,
    /// Whether there are taps at an odd distance.
    pairings: usize,
    /// Groups of channels, of the gradient and of planes: whole blocks.
    outputs: usize,
    inputs: usize,
}

impl Lines {
    fn new(g: &Geometry) -> Self {
        let stride = g.config.stride;
        let further = |kernel: usize| (kernel - 1) / stride;
        let pitch = (g.ow + further(g.kw)).next_multiple_of(2);
        let phases = stride.min(g.kh) * stride.min(g.kw);
        let pairings = if further(g.kw) > 0 { 2 } else { 1 };
        let groups = |channels: usize| channels.div_ceil(BLOCK) * (BLOCK / GROUP);
        let (outputs, inputs) = (groups(g.out_channels), groups(g.in_channels));
        let row = pitch / 2 * GROUP * (outputs + phases * pairings * inputs);
        let rows = (BAND / row).clamp(1, g.oh);
        let reach = further(g.kh) * pitch + further(g.kw);
        let bands = g.oh.div_ceil(rows);
        Self { rows, bands, pitch, reach, phases, pairings, outputs, inputs }
    }

    /// Tiles of terms of so many rows, in the gradient.
    fn tiles(&self, rows: usize) -> usize {
        (rows * self.pitch).div_ceil(TERMS)
    }

    /// Tiles of a group of the gradient, and of a plane, which ends with what the last tile reads.
    fn widths(&self) -> (usize, usize) {
        let tiles = self.tiles(self.rows);
        (tiles, tiles + self.reach.div_ceil(TERMS))
    }

    /// Pixels of a line that is packed: that of a plane, from its second pixel on, too.
    fn len(&self) -> usize {
        self.widths().1 * TERMS + 1
    }

    /// Groups of channels of the gradient and of all planes.
    fn groups(&self) -> usize {
        self.outputs + self.phases * self.inputs
    }

    /// Words of a band.
    fn words(&self) -> usize {
        let (outputs, plane) = self.widths();
        (self.outputs * outputs + self.phases * self.pairings * self.inputs * plane) * TILE
    }

    /// Where the words of a group of a plane begin.
    fn plane(&self, phase: usize, pairing: usize, group: usize) -> usize {
        let (outputs, plane) = self.widths();
        let groups = (phase * self.pairings + pairing) * self.inputs + group;
        (self.outputs * outputs + groups * plane) * TILE
    }

    /// Picture and output rows of a band.
    fn place(&self, g: &Geometry, band: usize) -> (usize, Range<usize>) {
        let first = band % self.bands * self.rows;
        (band / self.bands, first..g.oh.min(first + self.rows))
    }
}

/// Makes the words of a group of channels: of the gradient, or of a plane.
struct Fill<'a> {
    g: &'a Geometry,
    lines: Lines,
    x: &'a [f32],
    grad: &'a [f32],
    band: usize,
    group: usize,
    /// Room for its lines.
    numbers: &'a mut [f32],
    /// All words, those of the band from `at` on.
    to: SharedMut,
    at: usize,
}

impl Kernel for Fill<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(mut self) {
        let Self { g, lines, at, .. } = self;
        let numbers = std::mem::take(&mut self.numbers);
        let (picture, rows) = lines.place(g, self.band);
        let (of_gradient, of_plane) = lines.widths();
        numbers.fill(0.0);
        if let Some(plane) = self.group.checked_sub(lines.outputs) {
            let (phase, group) = (plane / lines.inputs, plane % lines.inputs);
            self.plane(picture, &rows, (phase, group), numbers);
            for pairing in 0..lines.pairings {
                let at = at + lines.plane(phase, pairing, group);
                // SAFETY: this function's contract; words of this group.
                unsafe { self.pack::<S>(Side::Right, &numbers[pairing..], of_plane, at) }
            }
            return;
        }
        let channels = self.group * GROUP..g.out_channels.min((self.group + 1) * GROUP);
        for (channel, line) in channels.zip(numbers.chunks_exact_mut(lines.len())) {
            let from = (picture * g.out_channels + channel) * g.out_pixels();
            let from = &self.grad[from + rows.start * g.ow..][..rows.len() * g.ow];
            for (from, to) in from.chunks_exact(g.ow).zip(line.chunks_exact_mut(lines.pitch)) {
                to[..g.ow].copy_from_slice(from);
            }
        }
        let at = at + self.group * of_gradient * TILE;
        // SAFETY: as above.
        unsafe { self.pack::<S>(Side::Left, numbers, of_gradient, at) }
    }
}

impl Fill<'_> {
    /// Packs some tiles of the lines to `at` and behind.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`; these words must be this task's.
    #[inline(always)]
    unsafe fn pack<S: Vector>(&self, side: Side, data: &[f32], tiles: usize, at: usize) {
        let line_stride = self.lines.len();
        let factor = Factor { data, lines: GROUP, line_stride, term_stride: 1 };
        let (terms, to, groups, tiles) = (tiles * TERMS, self.to, 0..1, 0..tiles);
        // SAFETY: this function's contract.
        unsafe { Pack::<1> { factor, terms, side, groups, tiles, to, at, apart: 0 }.run::<S>() }
    }

    /// The pixels of a group of channels in one plane, a line for each channel.
    fn plane(
        &self,
        picture: usize,
        rows: &Range<usize>,
        (phase, group): (usize, usize),
        numbers: &mut [f32],
    ) {
        let Self { g, lines, .. } = self;
        let (stride, padding) = (g.config.stride, g.config.padding);
        let across = stride.min(g.kw);
        let (down, along) = (phase / across, phase % across);
        // Columns `first..end` of the plane are in the picture.
        let first = padding.left.saturating_sub(along).div_ceil(stride);
        let end = (g.w + padding.left).saturating_sub(along).div_ceil(stride).min(lines.pitch);
        let count = rows.len() + (g.kh - 1) / stride;
        let channels = group * GROUP..g.in_channels.min((group + 1) * GROUP);
        for (channel, line) in channels.zip(numbers.chunks_exact_mut(lines.len())) {
            let from = &self.x[(picture * g.in_channels + channel) * g.in_pixels()..];
            for (row, to) in line.chunks_exact_mut(lines.pitch).take(count).enumerate() {
                let row = (rows.start + row) * stride + down;
                let Some(row) = row.checked_sub(padding.top).filter(|&row| row < g.h) else {
                    continue;
                };
                if first >= end {
                    continue;
                }
                let column = first * stride + along - padding.left;
                let from = &from[row * g.w..][..g.w][column..];
                let to = &mut to[first..end];
                match stride {
                    1 => to.copy_from_slice(&from[..end - first]),
                    _ => {
                        to.iter_mut().zip(from.iter().step_by(stride)).for_each(|(to, x)| *to = *x)
                    }
                }
            }
        }
    }
}

/// Adds some bands to the sums of a block of channels, for the taps of a row of the kernel.
struct Multiply<'a, T> {
    g: &'a Geometry,
    lines: Lines,
    words: &'a [f32],
    bands: Range<usize>,
    block: (usize, usize),
    ky: usize,
    /// Blocks, one for each tap.
    sums: &'a mut [f32],
    tiles: PhantomData<fn() -> T>,
}

impl<T: Tiles> Kernel for Multiply<'_, T> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let Self { g, lines, ky, .. } = self;
        let stride = g.config.stride;
        let (of_gradient, of_plane) = lines.widths();
        // SAFETY: the machine has the registers (the contract of `with`).
        let mut registers = unsafe { T::configure() };
        let mut unread = [0.0_f32; TILE];
        for (number, band) in self.bands.clone().enumerate() {
            let words = &self.words[number * lines.words()..][..lines.words()];
            let count = lines.tiles(lines.place(g, band).1.len());
            for first in (0..count).step_by(RANGE) {
                let goes_on = band > 0 || first > 0;
                let left = &words[(2 * self.block.0 * of_gradient + first) * TILE..];
                for (kx, sums) in self.sums.chunks_exact_mut(SUMS).enumerate() {
                    let phase = ky % stride * stride.min(g.kw) + kx % stride;
                    let distance = ky / stride * lines.pitch + kx / stride;
                    let at = lines.plane(phase, distance % 2, 2 * self.block.1);
                    let right = &words[at + first * TILE + distance / 2 * GROUP..];
                    let tiles = RANGE.min(count - first);
                    assert!(left.len() >= (of_gradient + tiles) * TILE);
                    assert!(right.len() >= (of_plane + tiles) * TILE);
                    // SAFETY: so many tiles of two groups are there (asserted).
                    unsafe {
                        registers::begin(&mut registers, goes_on.then_some(&*sums));
                        let first = left.as_ptr();
                        let tiles_of_gradient = [first, first.add(of_gradient * TILE)];
                        let left = Words { tiles: tiles_of_gradient, part: 0, row: SIDE };
                        let first = right.as_ptr();
                        let tiles_of_plane = [first, first.add(of_plane * TILE)];
                        let right = Words { tiles: tiles_of_plane, part: 0, row: SIDE };
                        registers::add::<T, 1>(&mut registers, left, right, tiles, &mut unread);
                        registers::end(&registers, sums);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
