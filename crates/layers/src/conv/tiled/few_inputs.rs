//! Convolution of stride 1 of a few input channels, as pictures have, to many, f32 in three parts:
//! a product of the weights with the patches of 32 outputs of a row, which are made where they are
//! needed. There is little to multiply and much to write: sums go straight past the caches, while
//! the tiles of the next are multiplied.

mod beside;

use std::marker::PhantomData;

use rayon::prelude::*;
use simd::tiles::{SIDE, Tiles};

use self::beside::{Both, Gather, Stream};
use super::super::geometry::Geometry;
use super::super::panels::planes::Planes;
use super::super::weight::Weight;
use super::super::winograd::Extras;
use crate::isa::Isa;
use crate::matrix::block::{self, Addend, Addends, Out, STREAMED_BYTES};
use crate::matrix::pack::Factor;
use crate::matrix::place::write;
use crate::matrix::tiled::registers::{BLOCK, SUMS, Words, add_tile, add_tile_beside, begin, end};
use crate::matrix::tiled::tiles::{Pack, Side, TERMS, TILE};
use crate::scratch::with_scratch;
use crate::shared_mut::SharedMut;
use crate::vector::{Kernel, Vector, run};

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
        let words = &*words;
        let mut taps = planes.taps(g);
        if !depth.is_multiple_of(2) {
            // A term with the last that counts for nothing: its weight is 0.
            taps.extend(taps.last().copied());
        }
        let none = vec![0.0; g.out_channels];
        let (taps, bias) = (&*taps, extras.bias.unwrap_or(&none));
        let of_planes = if planes.is_picture { 0 } else { g.in_channels * planes.plane };
        (0..g.batch * planes.bands).into_par_iter().for_each(|task| {
            with_scratch(2 * PARTS * 2 * tiles * TILE + 2 * SUMS + of_planes, |scratch| {
                let job = Job { g, planes, taps, words, extras, bias, y: target, streams };
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
    /// See [`Planes::taps`]; an even number.
    taps: &'a [usize],
    words: &'a [f32],
    extras: Extras<'a>,
    /// Of every channel, 0 where there is none.
    bias: &'a [f32],
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
        let Job { g, planes, words, taps, streams, .. } = self.job;
        let (picture, band) = (self.task / planes.bands, self.task % planes.bands);
        let rows = planes.range(g, band);
        let image = &self.x[picture * g.in_channels * g.in_pixels()..];
        let image = &image[..g.in_channels * g.in_pixels()];
        let tiles = g.depth().div_ceil(TERMS);
        let (patches, scratch) = self.scratch.split_at_mut(2 * PARTS * 2 * tiles * TILE);
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
        let (mut here, mut next) = patches.split_at_mut(PARTS * 2 * tiles * TILE);
        let of_part = words.len() / PARTS;
        let furthest = taps.iter().fold(0, |furthest, tap| furthest.max(*tap));
        let from = |(row, column): (usize, usize)| {
            ((&data[row * planes.pitch + column..], furthest), BLOCK.min(g.ow - column))
        };
        // SAFETY: the machine has the registers (the contract of `forward`).
        let mut registers = unsafe { T::configure() };
        let mut before: Option<Block> = None;
        let (first, columns) = from((0, 0));
        // SAFETY: this function's contract.
        unsafe { Gather::<S>::new(first, taps, columns, here).all() }
        for row in 0..rows.len() {
            for column in (0..g.ow).step_by(BLOCK) {
                let after = if column + BLOCK < g.ow {
                    (row, column + BLOCK)
                } else {
                    // Of the last row once more, for nothing.
                    ((row + 1).min(rows.len() - 1), 0)
                };
                let (first, columns) = from(after);
                let mut gather = Gather::<S>::new(first, taps, columns, next);
                for channel in (0..g.out_channels).step_by(BLOCK) {
                    let first = words[channel / SIDE * tiles * TILE..].as_ptr();
                    let left = [first, first.wrapping_add(tiles * TILE)];
                    let left = Words { tiles: left, part: of_part, row: SIDE };
                    let first = here.as_ptr();
                    let right = [first, first.wrapping_add(PARTS * tiles * TILE)];
                    let right = Words { tiles: right, part: TILE, row: SIDE };
                    let of = |tile| (left.after(tile * TILE), right.after(tile * PARTS * TILE));
                    let stream = before.as_ref().filter(|_| gather.is_whole());
                    // SAFETY: weights and patches have these tiles, all parts of them; what is
                    // written is this task's.
                    unsafe {
                        let stream = stream.and_then(|b| self.job.stream::<S>(b, others));
                        begin(&mut registers, None);
                        if let Some(stream) = stream {
                            let mut both = Both { stream, gather: &mut gather, calls: 0 };
                            for (left, right) in (0..tiles).map(of) {
                                let r = &mut registers;
                                add_tile_beside::<T, PARTS>(r, left, right, &mut both);
                            }
                            both.stream.all();
                        } else {
                            for (left, right) in (0..tiles).map(of) {
                                add_tile::<T, PARTS>(&mut registers, left, right);
                            }
                            if let Some(before) = &before {
                                self.job.write::<S>(before, others);
                            }
                        }
                        end(&registers, sums);
                    }
                    let columns = BLOCK.min(g.ow - column);
                    before =
                        Some(Block { picture, channel, row: rows.start + row, column, columns });
                    std::mem::swap(&mut sums, &mut others);
                }
                // SAFETY: this function's contract.
                unsafe { gather.all() }
                std::mem::swap(&mut here, &mut next);
            }
        }
        if let Some(last) = before {
            // SAFETY: as above.
            unsafe { self.job.write::<S>(&last, others) }
        }
        if streams {
            S::fence();
        }
    }
}

/// 32 channels of up to 32 outputs of a row.
#[derive(Clone, Copy)]
struct Block {
    picture: usize,
    channel: usize,
    row: usize,
    column: usize,
    columns: usize,
}

impl Block {
    /// Its first output.
    #[inline(always)]
    fn at(&self, g: &Geometry) -> usize {
        let first = (self.picture * g.out_channels + self.channel) * g.out_pixels();
        first + self.row * g.ow + self.column
    }
}

impl Job<'_> {
    /// A block to be written past the caches, if it may be and is whole.
    ///
    /// # Safety
    /// The block must be this task's.
    #[inline(always)]
    unsafe fn stream<'a, S: Vector>(
        &'a self,
        block: &Block,
        sums: &'a [f32],
    ) -> Option<Stream<'a, S>> {
        let (to, rows, apart) = self.place(block);
        let whole = self.extras.residual.is_none() && block.columns == BLOCK;
        if !self.streams || !whole {
            return None;
        }
        let bias = &self.bias[block.channel..block.channel + rows];
        // SAFETY: this function's contract; rows of whole lines (see `block::streams`).
        Some(unsafe { Stream::new(sums, bias, to, apart) })
    }

    /// Where a block goes, how many rows it has and how far they are apart.
    #[inline(always)]
    fn place(&self, block: &Block) -> (*mut f32, usize, usize) {
        let g = self.g;
        let (rows, apart) = (BLOCK.min(g.out_channels - block.channel), g.out_pixels());
        (self.y.range(block.at(g), (rows - 1) * apart + block.columns), rows, apart)
    }

    /// Writes a block of sums with what is added to it.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`; the block must be this task's.
    #[inline(always)]
    unsafe fn write<S: Vector>(&self, block: &Block, sums: &[f32]) {
        let ((to, rows, apart), Block { channel, columns, .. }) = (self.place(block), *block);
        let (at, all) = (block.at(self.g), (rows - 1) * apart + columns);
        let Extras { bias, residual, .. } = self.extras;
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

#[cfg(test)]
mod tests;
