//! Convolution of stride 1 to a few output channels, in two or three parts: a product of pixels, as
//! they lie, with up to 32 rows, one for each tap of each output channel. An output is the sum of
//! what its taps made of their pixels.
//!
//! There is little to multiply and much to read, and no patch of it. So numbers are read once, and
//! taken apart between products: 32 channels of 32 pixels while those before are multiplied. Tiles
//! of these two stay in the first-level cache beside the weights; sums come from the second level
//! and go back.

mod pixels;
mod sums;

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;
use simd::tiles::{AWAKE, SIDE, Tiles};

use self::pixels::{Ahead, Picture, Run};
use self::sums::{Shape, Sums};
use super::super::geometry::Geometry;
use super::super::narrow;
use super::super::weight::{Blocks, Weight};
use super::super::winograd::Extras;
use super::MIN_INPUTS;
use crate::isa::Isa;
use crate::matrix::pack::Factor;
use crate::matrix::tiled::registers::{BLOCK, Words, add_tile, add_tile_beside, products};
use crate::matrix::tiled::tiles::{Pack, Side, TERMS, TILE};
use crate::scratch::with_scratch;
use crate::shared_mut::SharedMut;
use crate::vector::{Kernel, Vector, run};

/// Words of 32 terms of 32 pixels.
const fn pixels(parts: usize) -> usize {
    2 * parts * TILE
}
/// Tasks for each thread, and output rows of a task, at least: those around it are read twice.
const TASKS: usize = 2;
const MIN_ROWS: usize = 8;

/// Whether rows are enough, and not too many.
pub fn suits(g: &Geometry) -> bool {
    let p = g.config.padding;
    let inside = p.top.max(p.bottom) < g.kh && p.left.max(p.right) < g.kw;
    let rows = g.taps() * g.out_channels;
    let fits = (BLOCK / 4..=BLOCK).contains(&rows);
    narrow::suits(g) && g.batch > 0 && g.in_channels >= MIN_INPUTS && inside && fits
}

/// `[B, in, H, W]` to `[B, out, H', W']`, of what [`suits`].
///
/// # Safety
/// The machine must have the registers of `T`.
pub unsafe fn forward<T: Tiles, const PARTS: usize>(
    isa: Option<Isa>,
    g: &Geometry,
    x: &[f32],
    weight: Weight,
    extras: Extras,
) -> Vec<f32> {
    assert!(suits(g) && !extras.upsample);
    let len = g.batch * g.out_channels * g.out_pixels();
    let mut y = Vec::with_capacity(len);
    let target = SharedMut::new_spare(&mut y);
    let tiles = g.in_channels.div_ceil(TERMS);
    let of_part = 2 * tiles * TILE;
    let of_picture = (TASKS * rayon::current_num_threads()).div_ceil(g.batch);
    let rows = g.oh.div_ceil(of_picture).max(MIN_ROWS);
    let bands = g.oh.div_ceil(rows);
    let shape = Shape::new(g);
    let of_weights = g.taps() * g.out_channels * g.in_channels;
    with_scratch(PARTS * of_part + of_weights + BLOCK * g.in_channels, |room| {
        let (words, room) = room.split_at_mut(PARTS * of_part);
        let (sorted, ordered) = room.split_at_mut(of_weights);
        // `[in, kh, kw, out]`.
        let all = Blocks { channels: g.out_channels, count: 1 };
        weight.pack(isa, g, all, g.out_channels, sorted);
        order(g, &shape, sorted, ordered);
        let factor = Factor { data: ordered, lines: BLOCK, line_stride: 1, term_stride: BLOCK };
        let pack = Pack::<PARTS> {
            factor,
            terms: g.in_channels,
            side: Side::Left,
            groups: 0..2,
            tiles: 0..tiles,
            to: SharedMut::new(words),
            at: 0,
            apart: of_part,
        };
        run(isa, pack);
        let words = &*words;
        (0..g.batch * bands).into_par_iter().for_each(|task| {
            let (picture, first) = (task / bands, task % bands * rows);
            let rows = first..g.oh.min(first + rows);
            let at = picture * g.out_channels * g.out_pixels();
            let of_picture = g.in_channels * g.in_pixels();
            let (image, first) = (&x[picture * of_picture..], picture * g.in_channels);
            let picture = Picture { g, image: &image[..of_picture], first, norm: extras.norm };
            with_scratch(2 * pixels(PARTS) + TILE + shape.floats(), |scratch| {
                let (y, tiles) = (target, PhantomData::<T>);
                let band = Band { picture, words, extras, rows, shape, scratch, y, at, tiles };
                run(isa, band as Band<T, PARTS>);
            });
        });
    });
    // SAFETY: there is room for `len`, and every row of every channel was written.
    unsafe { y.set_len(len) }
    y
}

/// Weights `[in, kh, kw, out]` as lines of two registers, `[in, 32]`.
fn order(g: &Geometry, shape: &Shape, sorted: &[f32], ordered: &mut [f32]) {
    let lines = g.taps() * g.out_channels;
    let (first, _) = halves(lines);
    ordered.fill(0.0);
    for (from, to) in sorted.chunks_exact(lines).zip(ordered.chunks_exact_mut(BLOCK)) {
        for (i, weight) in from.iter().enumerate() {
            let line = shape.line(i / g.out_channels, i % g.out_channels);
            to[if line < first { line } else { SIDE + line - first }] = *weight;
        }
    }
}

/// Some output rows of one picture.
struct Band<'a, T, const PARTS: usize> {
    picture: Picture<'a>,
    /// The weights: two groups of lines.
    words: &'a [f32],
    extras: Extras<'a>,
    rows: Range<usize>,
    shape: Shape<'a>,
    scratch: &'a mut [f32],
    /// The picture's outputs.
    y: SharedMut,
    at: usize,
    tiles: PhantomData<T>,
}

impl<T: Tiles, const PARTS: usize> Kernel for Band<'_, T, PARTS> {
    #[inline(always)]
    unsafe fn run<S: Vector>(mut self) {
        let (picture, g, pitch) = (self.picture, self.picture.g, self.shape.pitch);
        let scratch = std::mem::take(&mut self.scratch);
        let (parts, scratch) = scratch.split_at_mut(2 * pixels(PARTS));
        let (mut here, mut next) = parts.split_at_mut(pixels(PARTS));
        let (unread, scratch) = scratch.split_at_mut(TILE);
        let mut sums = Sums::new(self.shape, scratch);
        let lines = g.taps() * g.out_channels;
        let (first, second) = halves(lines);
        // SAFETY: the machine has the registers (the contract of `forward`).
        let mut registers = unsafe {
            let (first, second, all) = (first as u8, second as u8, SIDE as u8);
            T::with_rows([first, first, second, second, first, second, all, all])
        };
        let (top, end_row) = (g.config.padding.top, self.rows.end + g.kh - 1);
        let rows = self.rows.start.saturating_sub(top)..g.h.min(end_row - top);
        let (count, of_part) = (g.in_channels.div_ceil(TERMS), self.words.len() / PARTS);
        let tiles = [self.words.as_ptr(), self.words[count * TILE..].as_ptr()];
        let left = Words { tiles, part: of_part, row: SIDE };
        let often = AWAKE.div_ceil(products::<PARTS>());
        let mut done = 0;
        let mut ahead = Ahead::new(picture, rows.start);
        for _ in 0..g.in_channels / 2 * g.w.div_ceil(BLOCK) {
            ahead.step::<S>();
        }
        // SAFETY: this function's contract.
        unsafe {
            picture.split_edge::<S, PARTS>(
                Run { row: rows.start, column: 0, tile: 0 },
                here,
                &mut ahead,
            )
        }
        for row in rows.clone() {
            // Among the padded rows that the band reads.
            let read = row + top - self.rows.start;
            let window = sums.window(read);
            ahead = Ahead::new(picture, (row + 1).min(rows.end - 1));
            for column in (0..g.w).step_by(BLOCK) {
                let sums = &mut window[column..];
                assert!(sums.len() >= (lines - 1) * pitch + BLOCK);
                let [a, b] = [0, first * pitch].map(|line| sums[line..].as_mut_ptr());
                // SAFETY: this function's contract; as many lines of 32 sums (asserted); weights
                // have `count` tiles, `here` has the parts of two, and all else is made for this.
                unsafe {
                    registers.load::<0>(a, pitch);
                    registers.load::<1>(a.add(SIDE), pitch);
                    registers.load::<2>(b, pitch);
                    registers.load::<3>(b.add(SIDE), pitch);
                    for tile in 0..count {
                        let after = if tile + 1 < count {
                            Run { row, column, tile: tile + 1 }
                        } else if column + BLOCK < g.w {
                            Run { row, column: column + BLOCK, tile: 0 }
                        } else {
                            // Of the last row once more, for nothing.
                            Run { row: (row + 1).min(rows.end - 1), column: 0, tile: 0 }
                        };
                        let first = here.as_ptr();
                        let tiles = [first, first.add(PARTS * TILE)];
                        let right = Words { tiles, part: TILE, row: SIDE };
                        let left = left.after(tile * TILE);
                        let r = &mut registers;
                        if !picture.has(after) {
                            picture.split_edge::<S, PARTS>(after, next, &mut ahead);
                            add_tile::<T, PARTS>(r, left, right);
                        } else if picture.norm.is_none() {
                            let mut split =
                                picture.split::<S, PARTS, false>(after, next, &mut ahead);
                            add_tile_beside::<T, PARTS>(r, left, right, &mut split);
                            split.all();
                        } else {
                            let mut split =
                                picture.split::<S, PARTS, true>(after, next, &mut ahead);
                            add_tile_beside::<T, PARTS>(r, left, right, &mut split);
                            split.all();
                        }
                        if (tile + 1).is_multiple_of(often) {
                            registers.store::<5>(unread.as_mut_ptr(), SIDE);
                        }
                        std::mem::swap(&mut here, &mut next);
                    }
                    registers.store::<0>(a, pitch);
                    registers.store::<1>(a.add(SIDE), pitch);
                    registers.store::<2>(b, pitch);
                    registers.store::<3>(b.add(SIDE), pitch);
                }
            }
            while done + g.kh <= read + 1 {
                // SAFETY: this function's contract; rows of this task's.
                unsafe { self.write::<S>(done, &mut sums) }
                done += 1;
            }
        }
        for row in done..self.rows.len() {
            // SAFETY: as above.
            unsafe { self.write::<S>(row, &mut sums) }
        }
    }
}

impl<T, const PARTS: usize> Band<'_, T, PARTS> {
    /// Writes output row `row` of the band.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`; the row must be this task's.
    #[inline(always)]
    unsafe fn write<S: Vector>(&self, row: usize, sums: &mut Sums) {
        let g = self.picture.g;
        for channel in 0..g.out_channels {
            let bias = self.extras.bias.map_or(0.0, |bias| bias[channel]);
            let at = self.at + (channel * g.oh + self.rows.start + row) * g.ow;
            // SAFETY: this function's contract.
            unsafe {
                let sums = sums.finish::<S>(row, channel).iter().map(|sum| sum + bias);
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

/// Lines of either register.
fn halves(lines: usize) -> (usize, usize) {
    let first = lines.div_ceil(2);
    (first, lines - first)
}

#[cfg(test)]
mod tests;
