//! Products on all threads, in blocks (Goto and van de Geijn 2008).
//!
//! Both factors are packed, so that a block of the product reads them front to back: some
//! hundred terms of a panel of the right one stay in the first-level cache while a group of
//! rows of the left one, which stays in the second, passes by. An element is one sum over
//! ranges of terms in order, and the ranges depend on the number of terms alone: neither on
//! threads nor on other rows or columns.

use std::ops::Range;

use rayon::prelude::*;

use super::Start;
use super::pack::{Factor, Pack, TERMS};
use super::place::Place;
use crate::isa::Isa;
use crate::scratch::with_scratch;
use crate::shared_mut::SharedMut;
use crate::vector::{self, Kernel, Vector, lanes};

/// Columns and terms of the right factor that are packed at a time: 16 MiB at most.
pub(super) const PACKED: usize = 2048;
/// Terms of a range: a panel of two vectors of 8 takes 32 KiB at most.
pub(super) const DEPTH: usize = 512;
/// Rows, a multiple of those of every block, and columns of a task: the first that makes
/// enough of them. Of a range the rows take 192 KiB at most.
const TASKS: [(usize, usize); 5] = [(96, PACKED), (96, 512), (48, 512), (24, 512), (24, 128)];
/// Lines, a multiple of those of every block and panel, that a task packs where there
/// are few tasks.
const LINES: usize = 192;
/// What enough tasks are, for each thread.
const ENOUGH: usize = 8;

/// Products of one size, and how many floats it is from one to the next.
#[derive(Clone, Copy)]
pub(crate) struct Batch {
    pub count: usize,
    pub left: usize,
    pub right: usize,
    /// 0: they are added up, in order.
    pub target: usize,
}

impl Batch {
    /// A single product.
    pub const ONE: Self = Self { count: 1, left: 0, right: 0, target: 0 };
}

/// As [`super::products_into`], whatever the sizes.
///
/// # Safety
/// As there.
pub(super) unsafe fn multiply(
    isa: Option<Isa>,
    terms: usize,
    batch: Batch,
    target: SharedMut,
    start: Start,
    left: Factor,
    right: Factor,
) {
    let width = 2 * lanes(isa);
    let stride = right.lines;
    for columns in ranges(stride, PACKED) {
        for terms in ranges(terms, PACKED) {
            let (depth, count) = (terms.len(), columns.len());
            let factor = right.part(columns.clone(), terms.start);
            let left = left.part(0..left.lines, terms.start);
            let one = count.next_multiple_of(width) * depth;
            for some in ranges(batch.count, (PACKED * PACKED / one).max(1)) {
                with_scratch(some.len() * one, |panels| {
                    let right = (factor.moved(some.start * batch.right), batch.right);
                    pack(isa, right, (width, depth), panels);
                    let goes_on = terms.start > 0 || batch.target == 0 && some.start > 0;
                    let part = Part {
                        left: left.moved(some.start * batch.left),
                        columns: count,
                        depth,
                        panels,
                        one,
                        batch: Batch { count: some.len(), ..batch },
                        target,
                        at: some.start * batch.target + columns.start,
                        stride,
                        start: if goes_on { Start::Target } else { start },
                    };
                    part.multiply(isa);
                });
            }
        }
    }
}

/// Packs as many right factors as there is room for in `panels`, the given number of floats
/// apart, into panels of `width` lines of `depth` terms: `[depth, width]`, zeros where there are
/// no more lines.
pub(crate) fn pack(
    isa: Option<Isa>,
    (factor, apart): (Factor, usize),
    (width, depth): (usize, usize),
    panels: &mut [f32],
) {
    let lines = factor.lines;
    let one = lines.next_multiple_of(width) * depth;
    let (count, chunks) = (panels.len() / one, depth.div_ceil(TERMS));
    // All lines go by for the same terms, unless that is too few tasks.
    let enough = count * chunks >= ENOUGH * rayon::current_num_threads();
    debug_assert!(LINES.is_multiple_of(width));
    let step = if enough { lines } else { LINES };
    let pieces = lines.div_ceil(step);
    let to = SharedMut::new(panels);
    (0..count * chunks * pieces).into_par_iter().for_each(|task| {
        let (index, chunk, piece) = (task / pieces / chunks, task / pieces % chunks, task % pieces);
        let terms = chunk * TERMS..depth.min((chunk + 1) * TERMS);
        let lines = piece * step..lines.min((piece + 1) * step);
        let at = index * one + lines.start * depth;
        let factor = factor.moved(index * apart).part(lines, 0);
        vector::run(isa, Pack { factor, width, depth, terms, panels: to, at });
    });
}

/// `0..count` in steps.
pub(super) fn ranges(count: usize, step: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count).step_by(step).map(move |first| first..count.min(first + step))
}

/// The ranges in which `terms` terms, at most [`PACKED`], are added up: about alike, so that none
/// is short.
pub(super) fn term_ranges(terms: usize) -> impl Iterator<Item = Range<usize>> {
    ranges(terms, terms.div_ceil(terms.div_ceil(DEPTH)))
}

/// Products of left factors with packed right ones.
struct Part<'a> {
    /// The first.
    left: Factor<'a>,
    columns: usize,
    depth: usize,
    panels: &'a [f32],
    /// Floats of the panels of one right factor.
    one: usize,
    batch: Batch,
    target: SharedMut,
    /// Its first column, and how far its rows are apart.
    at: usize,
    stride: usize,
    start: Start<'a>,
}

impl Part<'_> {
    fn multiply(&self, isa: Option<Isa>) {
        // Products that are added up are one task's.
        let together = if self.batch.target == 0 { self.batch.count } else { 1 };
        let apart = self.batch.count / together;
        let count =
            |(rows, columns)| (self.left.lines.div_ceil(rows), self.columns.div_ceil(columns));
        let enough = |&size: &(usize, usize)| {
            let (down, across) = count(size);
            apart * down * across >= ENOUGH * rayon::current_num_threads()
        };
        let size = TASKS.into_iter().find(enough).unwrap_or(TASKS[TASKS.len() - 1]);
        let (down, across) = count(size);
        (0..apart * down * across).into_par_iter().for_each(|task| {
            let first = task / (down * across) * together;
            let (row, column) = (task / across % down * size.0, task % across * size.1);
            let products = first..first + together;
            let rows = row..self.left.lines.min(row + size.0);
            let columns = column..self.columns.min(column + size.1);
            with_scratch(size.0 * DEPTH, |blocks| {
                vector::run(isa, Task { part: self, products, rows, columns, blocks });
            });
        });
    }
}

/// Some rows and columns of products, which no other task has.
struct Task<'a> {
    part: &'a Part<'a>,
    products: Range<usize>,
    rows: Range<usize>,
    columns: Range<usize>,
    /// Room for a range of terms of its rows.
    blocks: &'a mut [f32],
}

impl Kernel for Task<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(mut self) {
        for product in self.products.clone() {
            for terms in term_ranges(self.part.depth) {
                let goes_on = product > self.products.start || terms.start > 0;
                let start = if goes_on { Start::Target } else { self.part.start };
                // SAFETY: this function's contract.
                unsafe { self.add::<S>(product, terms, start) }
            }
        }
    }
}

impl Task<'_> {
    /// Some `terms` of one product, and what they are added to.
    ///
    /// # Safety
    /// As for [`Kernel::run`].
    #[inline(always)]
    unsafe fn add<S: Vector>(&mut self, index: usize, terms: Range<usize>, start: Start) {
        let Part { left, depth, target, stride, .. } = *self.part;
        let width = 2 * S::LANES;
        let (first, count) = (terms.start, terms.len());
        let factor = left.moved(index * self.part.batch.left).part(self.rows.clone(), first);
        for terms in ranges(count, TERMS) {
            let panels = SharedMut::new(self.blocks);
            let pack = Pack { factor, width: S::PAIRS, depth: count, terms, panels, at: 0 };
            // SAFETY: this function's contract.
            unsafe { pack.run::<S>() }
        }
        let panels = &self.part.panels[index * self.part.one..][..self.part.one];
        let origin = self.part.at + index * self.part.batch.target;
        let blocks = self.blocks.chunks_exact(S::PAIRS * count);
        for column in self.columns.clone().step_by(width) {
            let right = &panels[column * depth..][first * width..][..count * width];
            let columns = width.min(self.part.columns - column);
            for (row, left) in self.rows.clone().step_by(S::PAIRS).zip(blocks.clone()) {
                let rows = S::PAIRS.min(self.rows.end - row);
                let at = origin + row * stride + column;
                let place = Place { target, at, stride, row, rows, columns, start };
                // SAFETY: `left` and `right` have `count` terms; these rows and columns are
                // this task's.
                unsafe { place.multiply::<S>(left, right, count) }
            }
        }
    }
}
