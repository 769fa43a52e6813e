//! Products on all threads, in blocks (Goto and van de Geijn 2008).
//!
//! Both factors are packed, so that a block of the product reads them front to back: some
//! hundred terms of a panel of the right one stay in the first-level cache while a group of
//! rows of the left one, which stays in the second, passes by. An element is one sum over
//! ranges of terms in order, and the ranges depend on the number of terms alone: neither on
//! threads nor on other rows or columns.

use std::ops::Range;

use rayon::prelude::*;

use super::block::{Addend, Addends, Out, product};
use super::pack::{Factor, Pack, TERMS};
use super::{Start, View};
use crate::isa::Isa;
use crate::scratch::with_scratch;
use crate::shared_mut::SharedMut;
use crate::vector::{self, Kernel, MAX_LANES, Vector, lanes};

/// Columns and terms of the right factor that are packed at a time: 16 MiB at most.
const PACKED: usize = 2048;
/// Terms of a range: a panel of two vectors of 8 takes 32 KiB at most.
const DEPTH: usize = 512;
/// Rows, a multiple of those of every block, and columns of a task: the first that makes
/// enough of them. Of a range the rows take 192 KiB at most.
const TASKS: [(usize, usize); 5] = [(96, PACKED), (96, 512), (48, 512), (24, 512), (24, 128)];
/// What enough tasks are, for each thread.
const ENOUGH: usize = 8;

/// `target[m, n] = start + left[m, k] right[k, n]` by the instruction set `isa`, from a float
/// of `target` on that a row of the whole begins with; the matrix of `start` is counted from
/// the target's first. No size is 0.
///
/// # Safety
/// Nothing else may use the `m * n` floats meanwhile; where they are the start, they must be
/// there.
pub(super) unsafe fn multiply(
    isa: Option<Isa>,
    (m, n, k): (usize, usize, usize),
    (target, origin): (SharedMut, usize),
    start: Start,
    left: View,
    right: View,
) {
    let width = 2 * lanes(isa);
    for columns in ranges(n, PACKED) {
        for terms in ranges(k, PACKED) {
            let depth = terms.len();
            let factor = Factor {
                data: &right.0[columns.start * right.2 + terms.start * right.1..],
                lines: columns.len(),
                line_stride: right.2,
                term_stride: right.1,
            };
            with_scratch(columns.len().next_multiple_of(width) * depth, |panels| {
                let to = SharedMut::new(panels);
                (0..depth.div_ceil(TERMS)).into_par_iter().for_each(|chunk| {
                    let terms = chunk * TERMS..depth.min((chunk + 1) * TERMS);
                    vector::run(isa, Pack { factor, width, depth, terms, panels: to });
                });
                let left = Factor {
                    data: &left.0[terms.start * left.2..],
                    lines: m,
                    line_stride: left.1,
                    term_stride: left.2,
                };
                let at = origin + columns.start;
                let start = if terms.start > 0 { Start::Target } else { start };
                let columns = columns.len();
                Part { left, columns, depth, panels, target, at, stride: n, start }.multiply(isa);
            });
        }
    }
}

/// `0..count` in steps.
fn ranges(count: usize, step: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count).step_by(step).map(move |first| first..count.min(first + step))
}

/// A product of the left factor with a packed right one.
struct Part<'a> {
    left: Factor<'a>,
    columns: usize,
    depth: usize,
    panels: &'a [f32],
    target: SharedMut,
    /// Its first column, and how far its rows are apart.
    at: usize,
    stride: usize,
    start: Start<'a>,
}

impl Part<'_> {
    fn multiply(&self, isa: Option<Isa>) {
        let count =
            |(rows, columns)| (self.left.lines.div_ceil(rows), self.columns.div_ceil(columns));
        let enough = |&size: &(usize, usize)| {
            let (down, across) = count(size);
            down * across >= ENOUGH * rayon::current_num_threads()
        };
        let size = TASKS.into_iter().find(enough).unwrap_or(TASKS[TASKS.len() - 1]);
        let (down, across) = count(size);
        (0..down * across).into_par_iter().for_each(|task| {
            let (row, column) = (task / across * size.0, task % across * size.1);
            let rows = row..self.left.lines.min(row + size.0);
            let columns = column..self.columns.min(column + size.1);
            with_scratch(size.0 * DEPTH, |blocks| {
                vector::run(isa, Task { part: self, rows, columns, blocks });
            });
        });
    }
}

impl Start<'_> {
    /// What is added to `rows` rows from the `first` on and `columns` columns from element
    /// `at` on of the whole product, whose rows have `stride` floats.
    #[inline(always)]
    fn addends(
        self,
        (at, stride): (usize, usize),
        (first, rows): (usize, usize),
        columns: usize,
        target: *const f32,
    ) -> Addends {
        match self {
            Self::Target => {
                Addends { blocks: [Some(Addend { data: target, row: stride }), None], column: None }
            }
            Self::Sum { row, column, matrix } => Addends {
                blocks: [
                    row.map(|row| Addend { data: row[at % stride..][..columns].as_ptr(), row: 0 }),
                    matrix.map(|matrix| Addend {
                        data: matrix[at..][..(rows - 1) * stride + columns].as_ptr(),
                        row: stride,
                    }),
                ],
                column: column.map(|column| column[first..][..rows].as_ptr()),
            },
        }
    }
}

/// Some rows and columns of a product, which no other task has.
struct Task<'a> {
    part: &'a Part<'a>,
    rows: Range<usize>,
    columns: Range<usize>,
    /// Room for a range of terms of its rows.
    blocks: &'a mut [f32],
}

impl Kernel for Task<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let Part { left, depth, target, stride, start, .. } = *self.part;
        let width = 2 * S::LANES;
        // Ranges of terms that are about alike.
        let step = depth.div_ceil(depth.div_ceil(DEPTH));
        for first in (0..depth).step_by(step) {
            let count = step.min(depth - first);
            let start = if first > 0 { Start::Target } else { start };
            let factor = Factor {
                data: &left.data[self.rows.start * left.line_stride + first * left.term_stride..],
                lines: self.rows.len(),
                ..left
            };
            for terms in ranges(count, TERMS) {
                let panels = SharedMut::new(self.blocks);
                let pack = Pack { factor, width: S::PAIRS, depth: count, terms, panels };
                // SAFETY: this function's contract.
                unsafe { pack.run::<S>() }
            }
            let blocks = self.blocks.chunks_exact(S::PAIRS * count);
            for column in self.columns.clone().step_by(width) {
                let right = &self.part.panels[column * depth..][first * width..][..count * width];
                let columns = width.min(self.part.columns - column);
                for (row, left) in self.rows.clone().step_by(S::PAIRS).zip(blocks.clone()) {
                    let left = left.as_ptr();
                    let rows = S::PAIRS.min(self.rows.end - row);
                    let at = self.part.at + row * stride + column;
                    let to = target.range(at, (rows - 1) * stride + columns);
                    let out = Out { data: to, row: stride };
                    let addends = start.addends((at, stride), (row, rows), columns, to);
                    // SAFETY: `left` and `right` have `count` terms, `target` these rows and
                    // columns, which are this task's, and the addends too; `tile` has room for
                    // a whole block.
                    unsafe {
                        if columns == width {
                            product::<S>(rows, left, right.as_ptr(), count, out, addends);
                            continue;
                        }
                        let mut tile = [0f32; 24 * MAX_LANES];
                        let data = tile.as_mut_ptr();
                        let whole = Out { data, row: width };
                        product::<S>(rows, left, right.as_ptr(), count, whole, Addends::NONE);
                        for (m, sums) in tile.chunks_exact(width).take(rows).enumerate() {
                            for (n, &sum) in sums.iter().take(columns).enumerate() {
                                let mut sum = sum;
                                if let Some(column) = addends.column {
                                    sum += *column.add(m);
                                }
                                for addend in addends.blocks.into_iter().flatten() {
                                    sum += *addend.data.add(m * addend.row + n);
                                }
                                *to.add(m * stride + n) = sum;
                            }
                        }
                    }
                }
            }
        }
    }
}
