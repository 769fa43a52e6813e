//! Products on all threads in tiles of bf16 ([`simd::tiles`]): of factors that are rounded, or of
//! their three parts, which makes products of f32 at twice the speed of f32. Sums are f32, and so
//! is what is read and written.
//!
//! Both factors are packed as tiles. Four registers hold the sums of a block of 32 by 32, so that
//! of two tiles of each factor every one is multiplied twice; some hundred terms of 32 columns
//! stay in the first-level cache while the rows of a task, which stay in the second, pass by. An
//! element is one sum over all terms in order, whatever the threads and other rows or columns.

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;
use simd::tiles::{SIDE, Tiles};

use self::registers::{BLOCK, SUMS, Words};
use self::tiles::{GROUP, Pack, Side, TERMS, TILE};
use super::Start;
use super::block::{self, Out};
use super::blocked::ranges;
use super::pack::Factor;
use super::place::write;
use crate::isa::Isa;
use crate::scratch::with_scratch;
use crate::shared_mut::SharedMut;
use crate::vector::{self, Kernel, Vector};

pub(crate) mod registers;
pub(crate) mod tiles;

/// Columns, and terms, of the right factor that are packed at a time: 24 MiB at most.
const PACKED: usize = 2048;
/// Tiles of terms of a range: 32 columns of all parts take 32 KiB.
const RANGE: usize = 16;
/// Rows and columns of a task: the first that makes enough of them.
const TASKS: [(usize, usize); 5] = [(128, PACKED), (64, PACKED), (64, 512), (32, 512), (32, 128)];
/// What enough tasks are, for each thread.
const ENOUGH: usize = 4;
/// Tiles of terms that a task packs of the right factor.
const TILES: usize = 2;

/// Whether tiles are mostly full, and packing is worth its while.
pub(super) fn suits(n: usize, k: usize) -> bool {
    n >= BLOCK && k >= TERMS
}

/// As [`super::products_into`], one product.
///
/// # Safety
/// As there, and the machine must have the registers of `T`.
pub(super) unsafe fn multiply<T: Tiles, const PARTS: usize>(
    isa: Option<Isa>,
    terms: usize,
    target: SharedMut,
    start: Start,
    left: Factor,
    right: Factor,
) {
    let (stride, all) = (right.lines, terms);
    for columns in ranges(stride, PACKED) {
        for some in ranges(terms, PACKED) {
            let (terms, count) = (some.len(), columns.len());
            let right = right.part(columns.clone(), some.start);
            let per_group = terms.div_ceil(TERMS);
            with_scratch(PARTS * count.div_ceil(BLOCK) * 2 * per_group * TILE, |panels| {
                pack::<PARTS>(isa, right, Side::Right, terms, panels);
                // Each line is written once.
                let once = terms == all && matches!(start, Start::Sum { .. });
                let streams = once && block::streams(left.lines * stride, stride, target);
                let part = Part::<T, PARTS> {
                    left: left.part(0..left.lines, some.start),
                    terms,
                    per_group,
                    panels,
                    columns: count,
                    target,
                    at: columns.start,
                    stride,
                    start: if some.start > 0 { Start::Target } else { start },
                    streams,
                    tiles: PhantomData,
                };
                part.multiply(isa);
            });
        }
    }
}

/// Adds a product to rows that begin with element `at` of a target and lie `stride` apart, all
/// in this thread. There is one range of columns and terms.
///
/// # Safety
/// Rows and columns of the product must be there and this thread's alone; the machine must have
/// the registers of `T`.
pub(super) unsafe fn add_alone<T: Tiles, const PARTS: usize>(
    isa: Option<Isa>,
    terms: usize,
    (target, at, stride): (SharedMut, usize, usize),
    left: Factor,
    right: Factor,
) {
    let per_group = terms.div_ceil(TERMS);
    let [down, across] = [left.lines, right.lines].map(|lines| lines.div_ceil(BLOCK));
    let [words, panels] = [down, across].map(|blocks| PARTS * 2 * blocks * per_group * TILE);
    with_scratch(words + panels + down * SUMS, |room| {
        let (panels, room) = room.split_at_mut(panels);
        let (words, sums) = room.split_at_mut(words);
        for (factor, side, words) in
            [(left, Side::Left, &mut *words), (right, Side::Right, &mut *panels)]
        {
            let apart = words.len() / PARTS;
            let (groups, tiles) = (0..apart / (per_group * TILE), 0..per_group);
            let (to, at) = (SharedMut::new(words), 0);
            vector::run(isa, Pack::<PARTS> { factor, terms, side, groups, tiles, to, at, apart });
        }
        let (rows, columns) = (0..left.lines, 0..right.lines);
        let part = Part::<T, PARTS> {
            left,
            terms,
            per_group,
            panels,
            columns: columns.len(),
            target,
            at,
            stride,
            start: Start::Target,
            streams: false,
            tiles: PhantomData,
        };
        let (words, apart) = (&*words, words.len() / PARTS);
        vector::run(isa, Task { part: &part, rows, columns, words, apart, sums });
    });
}

/// Packs a factor whole.
fn pack<const PARTS: usize>(
    isa: Option<Isa>,
    factor: Factor,
    side: Side,
    terms: usize,
    words: &mut [f32],
) {
    let (per_group, apart) = (terms.div_ceil(TERMS), words.len() / PARTS);
    let groups = apart / (per_group * TILE);
    let (to, at) = (SharedMut::new(words), 0);
    // What lies side by side in memory is one task's.
    let (of_groups, of_tiles) =
        if factor.term_stride == 1 { (2, per_group) } else { (groups, TILES) };
    let across = groups.div_ceil(of_groups);
    (0..across * per_group.div_ceil(of_tiles)).into_par_iter().for_each(|task| {
        let (group, tile) = (task % across * of_groups, task / across * of_tiles);
        let groups = group..groups.min(group + of_groups);
        let tiles = tile..per_group.min(tile + of_tiles);
        vector::run(isa, Pack::<PARTS> { factor, terms, side, groups, tiles, to, at, apart });
    });
}

/// A product with a packed right factor.
struct Part<'a, T, const PARTS: usize> {
    left: Factor<'a>,
    terms: usize,
    /// Tiles of a group's terms.
    per_group: usize,
    panels: &'a [f32],
    columns: usize,
    target: SharedMut,
    /// Its first column, and how far its rows are apart.
    at: usize,
    stride: usize,
    start: Start<'a>,
    /// Whether it is written past the caches.
    streams: bool,
    tiles: PhantomData<fn() -> T>,
}

impl<T: Tiles, const PARTS: usize> Part<'_, T, PARTS> {
    fn multiply(&self, isa: Option<Isa>) {
        let count =
            |(rows, columns)| (self.left.lines.div_ceil(rows), self.columns.div_ceil(columns));
        let enough = |&size: &(usize, usize)| {
            let (down, across) = count(size);
            down * across >= ENOUGH * rayon::current_num_threads()
        };
        let size = TASKS.into_iter().find(enough).unwrap_or(TASKS[TASKS.len() - 1]);
        let (down, across) = count(size);
        let of_rows = PARTS * size.0 / GROUP * self.per_group * TILE;
        let task = |task: usize, words: &[f32], apart: usize| {
            let (row, column) = (task / across * size.0, task % across * size.1);
            let rows = row..self.left.lines.min(row + size.0);
            let columns = column..self.columns.min(column + size.1);
            with_scratch(size.0 / BLOCK * SUMS, |sums| {
                vector::run(isa, Task { part: self, rows, columns, words, apart, sums });
            });
        };
        if across > 1 || self.left.term_stride > 1 {
            // Rows are for several tasks, or lie across those of memory.
            with_scratch(down * of_rows, |words| {
                pack::<PARTS>(isa, self.left, Side::Left, self.terms, words);
                let (words, of_part) = (&*words, of_rows / PARTS);
                (0..down * across).into_par_iter().for_each(|number| {
                    task(number, &words[number / across * of_part..], words.len() / PARTS);
                });
            });
            return;
        }
        (0..down).into_par_iter().for_each(|number| {
            with_scratch(of_rows, |words| {
                let first = number * size.0;
                let lines = first..self.left.lines.min(first + size.0);
                let (groups, tiles) = (0..size.0 / GROUP, 0..self.per_group);
                let (factor, terms) = (self.left.part(lines, 0), self.terms);
                let (side, to, at) = (Side::Left, SharedMut::new(words), 0);
                let apart = of_rows / PARTS;
                vector::run(
                    isa,
                    Pack::<PARTS> { factor, terms, side, groups, tiles, to, at, apart },
                );
                task(number, words, apart);
            });
        });
    }
}

/// Some rows and columns of a product, which no other task has.
struct Task<'a, T, const PARTS: usize> {
    part: &'a Part<'a, T, PARTS>,
    rows: Range<usize>,
    columns: Range<usize>,
    /// The tiles of its rows.
    words: &'a [f32],
    /// How far parts are apart there.
    apart: usize,
    /// Room for a block of sums of each 32 rows.
    sums: &'a mut [f32],
}

impl<T: Tiles, const PARTS: usize> Kernel for Task<'_, T, PARTS> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let Part { per_group, panels, .. } = *self.part;
        let blocks = self.rows.len().div_ceil(BLOCK);
        // SAFETY: the machine has the registers (the contract of `multiply`).
        let mut registers = unsafe { T::configure() };
        let apart = per_group * TILE;
        let of_panels = panels.len() / PARTS;
        assert!(self.words.len() >= (PARTS - 1) * self.apart + 2 * blocks * apart);
        let mut unread = [0.0_f32; TILE];
        let mut before: Option<Block> = None;
        for column in self.columns.clone().step_by(BLOCK) {
            let columns = BLOCK.min(self.columns.end - column);
            let panel = &panels[column / GROUP * apart..];
            assert!(panel.len() >= (PARTS - 1) * of_panels + 2 * apart);
            for range in ranges(per_group, RANGE / PARTS) {
                let goes_on = range.start > 0;
                let at = range.start * TILE;
                for block in 0..blocks {
                    let sums = &mut self.sums[block * SUMS..][..SUMS];
                    // SAFETY: two groups of each factor have these tiles; a block of sums.
                    unsafe {
                        let sums = goes_on.then_some(&*sums);
                        registers::begin(&mut registers, sums);
                        let first = self.words.as_ptr().add(2 * block * apart + at);
                        let tiles = [first, first.add(apart)];
                        let left = Words { tiles, part: self.apart, row: SIDE };
                        let first = panel.as_ptr().add(at);
                        let tiles = [first, first.add(apart)];
                        let right = Words { tiles, part: of_panels, row: SIDE };
                        let count = range.len();
                        registers::add::<T, PARTS>(&mut registers, left, right, count, &mut unread);
                    }
                    // While tiles are multiplied: what comes next waits for them.
                    if let Some(before) = before.take() {
                        // SAFETY: rows and columns of this task's.
                        unsafe { before.write::<S, PARTS>(self.part, self.sums) }
                    }
                    // SAFETY: a block of sums.
                    unsafe { registers::end(&registers, &mut self.sums[block * SUMS..][..SUMS]) }
                    if range.end == per_group {
                        let row = self.rows.start + block * BLOCK;
                        let rows = BLOCK.min(self.rows.end - row);
                        before = Some(Block { sums: block * SUMS, row, rows, column, columns });
                    }
                }
            }
        }
        if let Some(last) = before {
            // SAFETY: as above.
            unsafe { last.write::<S, PARTS>(self.part, self.sums) }
        }
        if self.part.streams {
            S::fence();
        }
    }
}

/// A block whose sums are there.
struct Block {
    /// Where they are.
    sums: usize,
    row: usize,
    rows: usize,
    column: usize,
    columns: usize,
}

impl Block {
    /// Writes it, with what is added to it.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`; nobody else may use this part of the
    /// target.
    #[inline(always)]
    unsafe fn write<S: Vector, const PARTS: usize>(
        self,
        part: &Part<'_, impl Tiles, PARTS>,
        sums: &[f32],
    ) {
        let Self { row, rows, column, columns, .. } = self;
        let Part { target, stride, start, streams, .. } = *part;
        let at = part.at + row * stride + column;
        let to = target.range(at, (rows - 1) * stride + columns);
        let addends = start.addends((at, stride), (row, rows), columns, to);
        let out = Out { data: to, row: stride, streams };
        // SAFETY: this function's contract.
        unsafe { write::<S>((&sums[self.sums..][..SUMS], BLOCK), out, addends, (rows, columns)) }
    }
}

#[cfg(test)]
mod tests;
