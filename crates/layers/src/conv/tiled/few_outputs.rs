//! Convolution of stride 1 to a few output channels, f32 in three parts: a product of pixels, as
//! they lie, with up to 32 rows, one for each tap of each output channel. An output is the sum of
//! what its taps made of their pixels.
//!
//! There is little to multiply and much to read, and no patch of it. So numbers are read once, and
//! taken apart between products: 32 channels of 32 pixels while those before are multiplied. Tiles
//! of these two stay in the first-level cache beside the weights.

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;
use simd::tiles::{AWAKE, SIDE, Tiles};

use super::super::geometry::Geometry;
use super::super::narrow;
use super::super::weight::{Blocks, Weight};
use super::super::winograd::Extras;
use super::MIN_INPUTS;
use super::maps::Row;
use crate::isa::Isa;
use crate::matrix::pack::Factor;
use crate::matrix::tiled::registers::{
    BLOCK, Beside, SUMS, Words, add_tile_beside, begin, end, products,
};
use crate::matrix::tiled::tiles::{Pack, Side, TERMS, TILE, pairs};
use crate::scratch::with_scratch;
use crate::shared_mut::SharedMut;
use crate::vector::{Kernel, Vector, run};

const PARTS: usize = 3;
/// Words of 32 terms of 32 pixels.
const PIXELS: usize = 2 * PARTS * TILE;
/// Pairs of channels that are asked for ahead.
const AHEAD: usize = 8;
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
pub unsafe fn forward<T: Tiles>(
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
    let lines = g.taps() * g.out_channels;
    let tiles = g.in_channels.div_ceil(TERMS);
    let of_part = 2 * tiles * TILE;
    let of_picture = (TASKS * rayon::current_num_threads()).div_ceil(g.batch);
    let rows = g.oh.div_ceil(of_picture).max(MIN_ROWS);
    let bands = g.oh.div_ceil(rows);
    with_scratch(PARTS * of_part + lines * g.in_channels, |room| {
        let (words, sorted) = room.split_at_mut(PARTS * of_part);
        // `[in, kh, kw, out]`.
        let all = Blocks { channels: g.out_channels, count: 1 };
        weight.pack(isa, g, all, g.out_channels, sorted);
        let factor = Factor { data: sorted, lines, line_stride: 1, term_stride: lines };
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
            let pitch = g.w.next_multiple_of(BLOCK) + g.kw - 1;
            with_scratch(2 * PIXELS + SUMS + TILE + g.kh * g.out_channels * pitch, |scratch| {
                let y = target;
                let tiles = PhantomData::<T>;
                run(isa, Band { g, x, words, extras, picture, rows, pitch, scratch, y, tiles });
            });
        });
    });
    // SAFETY: there is room for `len`, and every row of every channel was written.
    unsafe { y.set_len(len) }
    y
}

/// Some output rows of one picture.
struct Band<'a, T> {
    g: &'a Geometry,
    x: &'a [f32],
    /// The weights: two groups of lines.
    words: &'a [f32],
    extras: Extras<'a>,
    picture: usize,
    rows: Range<usize>,
    /// Floats of a row of sums: what 32 pixels at a time reach.
    pitch: usize,
    scratch: &'a mut [f32],
    y: SharedMut,
    tiles: PhantomData<T>,
}

impl<T: Tiles> Kernel for Band<'_, T> {
    #[inline(always)]
    unsafe fn run<S: Vector>(mut self) {
        let g = self.g;
        let scratch = std::mem::take(&mut self.scratch);
        let (pixels, scratch) = scratch.split_at_mut(2 * PIXELS);
        let (mut here, mut next) = pixels.split_at_mut(PIXELS);
        let (sums, scratch) = scratch.split_at_mut(SUMS);
        let (unread, ring) = scratch.split_at_mut(TILE);
        ring.fill(0.0);
        // SAFETY: the machine has the registers (the contract of `forward`).
        let mut registers = unsafe { T::configure() };
        let (top, end_row) = (g.config.padding.top, self.rows.end + g.kh - 1);
        let rows = self.rows.start.saturating_sub(top)..g.h.min(end_row - top);
        let (count, of_part) = (g.in_channels.div_ceil(TERMS), self.words.len() / PARTS);
        let tiles = [self.words.as_ptr(), self.words[count * TILE..].as_ptr()];
        let left = Words { tiles, part: of_part, row: SIDE };
        let often = AWAKE.div_ceil(products::<PARTS>());
        let mut done = 0;
        if !rows.is_empty() {
            // SAFETY: this function's contract.
            unsafe { self.split::<S>((rows.start, 0, 0), here).all() }
        }
        for row in rows.clone() {
            // Among the padded rows that the band reads.
            let read = row + top - self.rows.start;
            let targets = self.targets(read);
            for column in (0..g.w).step_by(BLOCK) {
                // SAFETY: this function's contract; weights have `count` tiles, `here` has the
                // parts of two, and all else is made for this.
                unsafe {
                    begin(&mut registers, None);
                    for tile in 0..count {
                        let after = if tile + 1 < count {
                            (row, column, tile + 1)
                        } else if column + BLOCK < g.w {
                            (row, column + BLOCK, 0)
                        } else {
                            // Of the last row once more, for nothing.
                            ((row + 1).min(rows.end - 1), 0, 0)
                        };
                        let first = here.as_ptr();
                        let tiles = [first, first.add(PARTS * TILE)];
                        let right = Words { tiles, part: TILE, row: SIDE };
                        let left = left.after(tile * TILE);
                        let mut split = self.split::<S>(after, next);
                        add_tile_beside::<T, PARTS>(&mut registers, left, right, &mut split);
                        split.all();
                        if (tile + 1).is_multiple_of(often) {
                            registers.store::<5>(unread.as_mut_ptr(), SIDE);
                        }
                        std::mem::swap(&mut here, &mut next);
                    }
                    end(&registers, sums);
                    Self::add::<S>(sums, &targets, column, ring);
                }
            }
            while done + g.kh <= read + 1 {
                // SAFETY: rows of this task's.
                unsafe { self.write(done, ring) }
                done += 1;
            }
        }
        for row in done..self.rows.len() {
            // SAFETY: as above.
            unsafe { self.write(row, ring) }
        }
    }
}

impl<T> Band<'_, T> {
    /// The parts of a tile of channels of 32 pixels of a row, `(row, column, tile)`, to be made.
    #[inline(always)]
    fn split<'a, S>(
        &'a self,
        (row, column, tile): (usize, usize, usize),
        to: &'a mut [f32],
    ) -> Split<'a, S> {
        let (g, pixels) = (self.g, self.g.in_pixels());
        let image = &self.x[self.picture * g.in_channels * pixels..][..g.in_channels * pixels];
        let first = self.picture * g.in_channels;
        let image = &image[row * g.w..];
        let row = Row { image, pixels, width: g.w, first, norm: self.extras.norm };
        let channel = tile * TERMS;
        let last = (channel + TERMS - 1) * pixels + column + BLOCK;
        let plain = row.norm.is_none() && column + BLOCK <= g.w && last <= image.len();
        assert!(to.len() >= PIXELS);
        Split { row, column, channel, plain, to, calls: 0, done: 0, vectors: PhantomData }
    }

    /// Where in the ring what each tap made of the first pixel of a padded row belongs, if to an
    /// output of the band.
    fn targets(&self, read: usize) -> [Option<usize>; BLOCK] {
        let (g, pitch) = (self.g, self.pitch);
        std::array::from_fn(|line| {
            let (tap, channel) = (line / g.out_channels, line % g.out_channels);
            let (ky, kx) = (tap / g.kw, tap % g.kw);
            let row = read.checked_sub(ky).filter(|&row| ky < g.kh && row < self.rows.len())?;
            Some((row % g.kh * g.out_channels + channel) * pitch + g.kw - 1 - kx)
        })
    }

    /// Adds what the taps made of 32 pixels of a padded row to the outputs that read it.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`.
    #[inline(always)]
    unsafe fn add<S: Vector>(
        sums: &[f32],
        targets: &[Option<usize>; BLOCK],
        column: usize,
        ring: &mut [f32],
    ) {
        for (sums, target) in sums.as_chunks::<BLOCK>().0.iter().zip(targets) {
            let Some(target) = target else { continue };
            let to = ring[target + column..][..BLOCK].as_mut_ptr();
            for lane in (0..BLOCK).step_by(S::LANES) {
                // SAFETY: this function's contract; vectors of 32 floats of both.
                unsafe {
                    let to = to.add(lane);
                    S::load(to).plus(S::load(sums.as_ptr().add(lane))).store(to);
                }
            }
        }
    }

    /// Writes output row `row` of the band, and clears its place in the ring.
    ///
    /// # Safety
    /// The row must be this task's.
    #[inline(always)]
    unsafe fn write(&self, row: usize, ring: &mut [f32]) {
        let (g, pitch) = (self.g, self.pitch);
        let of_row = g.out_channels * pitch;
        let sums = &mut ring[row % g.kh * of_row..][..of_row];
        for (channel, sums) in sums.chunks_exact(pitch).enumerate() {
            let bias = self.extras.bias.map_or(0.0, |bias| bias[channel]);
            let channel = self.picture * g.out_channels + channel;
            let at = (channel * g.oh + self.rows.start + row) * g.ow;
            let sums = &sums[g.kw - 1 - g.config.padding.left..][..g.ow];
            let sums = sums.iter().map(|sum| sum + bias);
            // SAFETY: this function's contract.
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
        sums.fill(0.0);
    }
}

/// Takes numbers apart: 32 channels of 32 pixels to tiles of a right factor, those of the first 16
/// pixels before the others.
struct Split<'a, S> {
    row: Row<'a>,
    column: usize,
    channel: usize,
    /// Whether all channels and pixels are there, and none is normed.
    plain: bool,
    to: &'a mut [f32],
    /// Of [`Beside::step`].
    calls: usize,
    /// Pairs of channels.
    done: usize,
    vectors: PhantomData<S>,
}

impl<S: Vector> Split<'_, S> {
    /// Takes the next pair of channels apart.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`; there must be a next pair.
    #[inline(always)]
    unsafe fn pair(&mut self) {
        let Self { row, plain, done, .. } = *self;
        let (channel, ahead) = (self.channel + 2 * done, 2 * AHEAD * row.pixels);
        for lane in (0..BLOCK).step_by(S::LANES) {
            let column = self.column + lane;
            let at = (lane / SIDE * PARTS * SIDE + done) * SIDE + lane % SIDE;
            // SAFETY: this function's contract; pixels that are there, or are looked for; a vector
            // of each part's tile, as `to` has room for (see `Band::split`).
            unsafe {
                let (a, b) = if plain {
                    let from = row.image.as_ptr().add(channel * row.pixels + column);
                    S::prefetch(from.wrapping_add(ahead));
                    S::prefetch(from.wrapping_add(ahead + row.pixels));
                    (S::load(from), S::load(from.add(row.pixels)))
                } else {
                    let a = row.vector::<S>(channel, column, ahead);
                    (a, row.vector::<S>(channel + 1, column, ahead))
                };
                let to = self.to.as_mut_ptr().add(at);
                let [first, second, third] = pairs::<S, PARTS>(a, b);
                first.store(to);
                second.store(to.add(TILE));
                third.store(to.add(2 * TILE));
            }
        }
        self.done += 1;
    }

    /// All pairs that are left.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`.
    #[inline(always)]
    unsafe fn all(&mut self) {
        while self.done < SIDE {
            // SAFETY: this function's contract.
            unsafe { self.pair() }
        }
    }
}

impl<S: Vector> Beside for Split<'_, S> {
    #[inline(always)]
    unsafe fn step(&mut self) {
        // Of 24 steps 16, evenly.
        if self.calls % 3 < 2 && self.done < SIDE {
            // SAFETY: this function's contract.
            unsafe { self.pair() }
        }
        self.calls += 1;
    }
}

#[cfg(test)]
mod tests;
