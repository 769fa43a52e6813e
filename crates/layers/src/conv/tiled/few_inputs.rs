//! Convolution of stride 1 of a few input channels, as pictures have, to many, f32 in three parts:
//! a product of the weights with the patches of 32 outputs of a row, which are made where they are
//! needed. There is little to multiply and much to write: sums go straight past the caches, while
//! the tiles of the next are multiplied.

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;
use simd::tiles::{SIDE, Tiles};

use super::super::geometry::Geometry;
use super::super::panels::planes::Planes;
use super::super::weight::Weight;
use super::super::winograd::Extras;
use crate::isa::Isa;
use crate::matrix::block::{self, Addend, Addends, Out, STREAMED_BYTES};
use crate::matrix::pack::Factor;
use crate::matrix::place::write;
use crate::matrix::tiled::registers::{BLOCK, SUMS, Words, add_tile, begin, end};
use crate::matrix::tiled::tiles::{Pack, Side, TERMS, TILE, pairs};
use crate::scratch::with_scratch;
use crate::shared_mut::SharedMut;
use crate::vector::{Kernel, MAX_LANES, Vector, run};

const PARTS: usize = 3;
/// Tiles of terms, at most: a patch stays in the first-level cache.
const TILES: usize = 2;

/// Whether this is the fastest way for `g`: where the output is written past the caches.
pub fn is_fastest(g: &Geometry) -> bool {
    let len = g.batch * g.out_channels * g.out_pixels();
    suits(g) && size_of::<f32>() * len >= STREAMED_BYTES
}

/// Whether a patch fills its tiles, and rows and output channels theirs.
fn suits(g: &Geometry) -> bool {
    let (depth, tiles) = (g.depth(), g.depth().div_ceil(TERMS));
    let fills = tiles <= TILES && 4 * depth >= 3 * tiles * TERMS;
    let several = g.taps() > 1 && g.config.stride == 1;
    g.batch > 0 && several && g.out_channels >= BLOCK && g.ow >= BLOCK && fills
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
    assert!(suits(g) && !extras.upsample && extras.norm.is_none());
    let len = g.batch * g.out_channels * g.out_pixels();
    let mut y = Vec::with_capacity(len);
    let target = SharedMut::new_spare(&mut y);
    let planes = Planes::new(g);
    let (depth, tiles) = (g.depth(), g.depth().div_ceil(TERMS));
    let groups = 2 * g.out_channels.div_ceil(BLOCK);
    let of_part = groups * tiles * TILE;
    let streams = block::streams(len, g.ow, target);
    with_scratch(PARTS * of_part + g.out_channels * depth, |room| {
        let (words, ordered) = room.split_at_mut(PARTS * of_part);
        weight.in_order(g, ordered);
        let factor =
            Factor { data: ordered, lines: g.out_channels, line_stride: depth, term_stride: 1 };
        let pack = Pack::<PARTS> {
            factor,
            terms: depth,
            side: Side::Left,
            groups: 0..groups,
            tiles: 0..tiles,
            to: SharedMut::new(words),
            at: 0,
            apart: of_part,
        };
        run(isa, pack);
        let (words, taps) = (&*words, &*planes.taps(g));
        let of_planes = if planes.is_picture { 0 } else { g.in_channels * planes.plane };
        (0..g.batch * planes.bands).into_par_iter().for_each(|task| {
            with_scratch(PARTS * 2 * tiles * TILE + 2 * SUMS + of_planes, |scratch| {
                let job = Job { g, planes, taps, words, extras, y: target, streams };
                run(isa, Band { job, x, task, scratch, tiles: PhantomData::<T> });
            });
        });
    });
    // SAFETY: there is room for `len`, and every pixel of every channel was written.
    unsafe { y.set_len(len) }
    y
}

/// One convolution under way.
struct Job<'a> {
    g: &'a Geometry,
    planes: Planes,
    /// See [`Planes::taps`].
    taps: &'a [usize],
    words: &'a [f32],
    extras: Extras<'a>,
    y: SharedMut,
    /// Whether it is written past the caches.
    streams: bool,
}

/// One band of one picture.
struct Band<'a, T> {
    job: Job<'a>,
    x: &'a [f32],
    /// Picture and band.
    task: usize,
    scratch: &'a mut [f32],
    tiles: PhantomData<T>,
}

impl<T: Tiles> Kernel for Band<'_, T> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let Job { g, planes, words, streams, .. } = self.job;
        let (picture, band) = (self.task / planes.bands, self.task % planes.bands);
        let rows = planes.range(g, band);
        let image = &self.x[picture * g.in_channels * g.in_pixels()..];
        let image = &image[..g.in_channels * g.in_pixels()];
        let tiles = g.depth().div_ceil(TERMS);
        let (patches, scratch) = self.scratch.split_at_mut(PARTS * 2 * tiles * TILE);
        let (sums, data) = scratch.split_at_mut(2 * SUMS);
        let (mut sums, mut others) = sums.split_at_mut(SUMS);
        let data = if planes.is_picture {
            &image[rows.start * g.w..]
        } else {
            planes.fill(g, image, &rows, data);
            &*data
        };
        // Terms that are not there stay so.
        patches.fill(0.0);
        let of_part = words.len() / PARTS;
        // SAFETY: the machine has the registers (the contract of `forward`).
        let mut registers = unsafe { T::configure() };
        let mut before: Option<Block> = None;
        for row in 0..rows.len() {
            for column in (0..g.ow).step_by(BLOCK) {
                let columns = BLOCK.min(g.ow - column);
                // SAFETY: this function's contract.
                unsafe { self.job.gather::<S>(data, row, column..column + columns, patches) }
                for channel in (0..g.out_channels).step_by(BLOCK) {
                    let first = words[channel / SIDE * tiles * TILE..].as_ptr();
                    let left = [first, first.wrapping_add(tiles * TILE)];
                    let left = Words { tiles: left, part: of_part, row: SIDE };
                    let first = patches.as_ptr();
                    let right = [first, first.wrapping_add(PARTS * tiles * TILE)];
                    let right = Words { tiles: right, part: TILE, row: SIDE };
                    // SAFETY: weights and patches have these tiles, all parts of them; what is
                    // written is this task's.
                    unsafe {
                        begin(&mut registers, None);
                        for tile in 0..tiles {
                            let (left, right) =
                                (left.after(tile * TILE), right.after(tile * PARTS * TILE));
                            add_tile::<T, PARTS>(&mut registers, left, right);
                        }
                        // While tiles are multiplied: what comes next waits for them.
                        if let Some(before) = before.take() {
                            self.job.write::<S>(before, others);
                        }
                        end(&registers, sums);
                    }
                    before =
                        Some(Block { picture, channel, row: rows.start + row, column, columns });
                    std::mem::swap(&mut sums, &mut others);
                }
            }
        }
        if let Some(last) = before {
            // SAFETY: as above.
            unsafe { self.job.write::<S>(last, others) }
        }
        if streams {
            S::fence();
        }
    }
}

/// 32 channels of up to 32 outputs of a row.
struct Block {
    picture: usize,
    channel: usize,
    row: usize,
    column: usize,
    columns: usize,
}

impl Job<'_> {
    /// Makes the patches of up to 32 outputs of a row of the band: tiles of a right factor, those
    /// of the first 16 before the others, `[tiles, parts]` of each.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`.
    #[inline(always)]
    unsafe fn gather<S: Vector>(
        &self,
        data: &[f32],
        row: usize,
        columns: Range<usize>,
        patches: &mut [f32],
    ) {
        let tiles = self.g.depth().div_ceil(TERMS);
        assert!(patches.len() >= 2 * tiles * PARTS * TILE && columns.len() <= BLOCK);
        let start = row * self.planes.pitch + columns.start;
        let furthest = self.taps.iter().fold(0, |furthest, tap| furthest.max(*tap));
        let whole = columns.len() == BLOCK;
        assert!(!whole || furthest + start + BLOCK <= data.len());
        for (pair, taps) in self.taps.chunks(2).enumerate() {
            let (tile, of_tile) = (pair / SIDE, pair % SIDE);
            for lane in (0..BLOCK).step_by(S::LANES) {
                let count = columns.len().saturating_sub(lane).min(S::LANES);
                let at = (lane / SIDE * tiles + tile) * PARTS * TILE + of_tile * SIDE + lane % SIDE;
                // SAFETY: this function's contract; what all of 32 outputs read is there
                // (asserted), and a vector of each part's tile.
                unsafe {
                    let of = |tap: usize| (tap + start + lane, count);
                    let (a, b) = match *taps {
                        [a, b] if whole => {
                            let from = data.as_ptr().add(start + lane);
                            (S::load(from.add(a)), S::load(from.add(b)))
                        }
                        [a, b] => (vector::<S>(data, of(a)), vector::<S>(data, of(b))),
                        _ => (vector::<S>(data, of(taps[0])), S::splat(0.0)),
                    };
                    let to = patches.as_mut_ptr().add(at);
                    let [first, second, third] = pairs::<S, PARTS>(a, b);
                    first.store(to);
                    second.store(to.add(TILE));
                    third.store(to.add(2 * TILE));
                }
            }
        }
    }

    /// Writes a block of sums with what is added to it.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`; the block must be this task's.
    #[inline(always)]
    unsafe fn write<S: Vector>(&self, block: Block, sums: &[f32]) {
        let (g, Extras { bias, residual, .. }) = (self.g, self.extras);
        let Block { picture, channel, row, column, columns } = block;
        let (rows, apart) = (BLOCK.min(g.out_channels - channel), g.out_pixels());
        let at = (picture * g.out_channels + channel) * apart + row * g.ow + column;
        let all = (rows - 1) * apart + columns;
        let to = self.y.range(at, all);
        if self.streams && residual.is_none() && columns == BLOCK {
            for (r, sums) in sums.as_chunks::<BLOCK>().0.iter().enumerate().take(rows) {
                // SAFETY: this function's contract; whole lines of a row of the block.
                unsafe {
                    let bias = S::splat(bias.map_or(0.0, |bias| bias[channel + r]));
                    for lane in (0..BLOCK).step_by(S::LANES) {
                        let sum = S::load(sums.as_ptr().add(lane)).plus(bias);
                        sum.stream(to.add(r * apart + lane));
                    }
                }
            }
            return;
        }
        let residual = residual.map(|residual| residual[at..at + all].as_ptr());
        let residual = residual.map(|data| Addend { data, row: apart });
        let column = bias.map(|bias| bias[channel..channel + rows].as_ptr());
        let addends = Addends { blocks: [residual, None], column };
        let out = Out { data: to, row: apart, streams: self.streams };
        // SAFETY: this function's contract; as many rows and columns of all, and where they are
        // streamed 32 columns from a multiple of 32 on in rows of whole lines.
        unsafe { write::<S>((sums, BLOCK), out, addends, (rows, columns)) }
    }
}

/// `count` numbers from `first` on, and zeros.
///
/// # Safety
/// The machine must have the instruction set of `S`.
#[inline(always)]
unsafe fn vector<S: Vector>(numbers: &[f32], (first, count): (usize, usize)) -> S {
    // SAFETY: this function's contract; a vector of both.
    unsafe {
        if count == S::LANES {
            return S::load(numbers[first..first + count].as_ptr());
        }
        let mut padded = [0.0_f32; MAX_LANES];
        if count > 0 {
            padded[..count].copy_from_slice(&numbers[first..first + count]);
        }
        S::load(padded.as_ptr())
    }
}

#[cfg(test)]
mod tests;
