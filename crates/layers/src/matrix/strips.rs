//! Products with a small left factor: a task packs its own columns of the right one, which it
//! so reads once, into a cache of its own, and multiplies them by all rows.
//!
//! Elements are the sums of [`super::blocked`], in the same ranges of terms.

use std::ops::Range;

use rayon::prelude::*;

use super::Start;
use super::blocked::{Batch, DEPTH, PACKED, pack, ranges, term_ranges};
use super::pack::{Factor, Pack, TERMS};
use super::place::Place;
use crate::isa::Isa;
use crate::scratch::with_scratch;
use crate::shared_mut::SharedMut;
use crate::vector::{self, Kernel, Vector, pairs};

/// Columns of a task, whole panels: of a range of terms they take 256 KiB at most.
const COLUMNS: usize = 128;
/// Floats of a left factor that counts as small.
const SMALL: usize = 256 << 10;
/// What enough tasks are, for each thread.
const ENOUGH: usize = 4;

/// Whether this is the fastest way for products `[m, n]` of `k` terms.
pub(super) fn suit((m, n, k): (usize, usize, usize), batch: Batch) -> bool {
    let apart = batch.count == 1 || batch.target > 0;
    let tasks = batch.count * n.div_ceil(COLUMNS);
    batch.left == 0
        && apart
        && k <= PACKED
        && m * k <= SMALL
        && tasks >= ENOUGH * rayon::current_num_threads()
}

/// As [`super::products_into`], where it [suits](suit); however many tasks that makes.
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
    let rows = pairs(isa);
    with_scratch(left.lines.next_multiple_of(rows) * terms, |blocks| {
        pack(isa, (left, 0), (rows, terms), blocks);
        let blocks = &*blocks;
        let (rows, stride) = (left.lines, right.lines);
        let across = stride.div_ceil(COLUMNS);
        (0..batch.count * across).into_par_iter().for_each(|task| {
            let (product, first) = (task / across, task % across * COLUMNS);
            let columns = first..stride.min(first + COLUMNS);
            let right = right.moved(product * batch.right).part(columns, 0);
            let at = product * batch.target + first;
            with_scratch(COLUMNS * DEPTH.min(terms), |panels| {
                let strip = Strip { blocks, rows, right, terms, target, at, stride, start, panels };
                vector::run(isa, strip);
            });
        });
    });
}

/// Some columns of one product, which no other task has.
struct Strip<'a> {
    /// The left factor, packed.
    blocks: &'a [f32],
    rows: usize,
    /// These columns.
    right: Factor<'a>,
    terms: usize,
    target: SharedMut,
    /// Their first element, and how far rows are apart.
    at: usize,
    stride: usize,
    start: Start<'a>,
    /// Room for a range of terms of the columns.
    panels: &'a mut [f32],
}

impl Kernel for Strip<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(mut self) {
        for terms in term_ranges(self.terms) {
            // SAFETY: this function's contract.
            unsafe { self.add::<S>(terms) }
        }
    }
}

impl Strip<'_> {
    /// Some `terms`, and what they are added to.
    ///
    /// # Safety
    /// As for [`Kernel::run`].
    #[inline(always)]
    unsafe fn add<S: Vector>(&mut self, terms: Range<usize>) {
        let Self { rows, target, at, stride, .. } = *self;
        let (width, count) = (2 * S::LANES, terms.len());
        let start = if terms.start > 0 { Start::Target } else { self.start };
        let factor = self.right.part(0..self.right.lines, terms.start);
        for some in ranges(count, TERMS) {
            let panels = SharedMut::new(self.panels);
            let pack = Pack { factor, width, depth: count, terms: some, panels, at: 0 };
            // SAFETY: this function's contract.
            unsafe { pack.run::<S>() }
        }
        let panels = self.panels.chunks_exact(count * width);
        for (column, right) in (0..self.right.lines).step_by(width).zip(panels) {
            let columns = width.min(self.right.lines - column);
            let blocks = self.blocks.chunks_exact(self.terms * S::PAIRS);
            for (row, left) in (0..rows).step_by(S::PAIRS).zip(blocks) {
                let left = &left[terms.start * S::PAIRS..][..count * S::PAIRS];
                let rows = S::PAIRS.min(rows - row);
                let at = at + row * stride + column;
                let place = Place { target, at, stride, row, rows, columns, start };
                // SAFETY: these rows of these columns are this task's.
                unsafe { place.multiply::<S>(left, right, count) }
            }
        }
    }
}
