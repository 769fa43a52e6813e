//! Factors of a product in the order in which blocks read them.

use std::ops::Range;

use super::View;
use crate::shared_mut::SharedMut;
use crate::vector::{Kernel, MAX_LANES, Vector};

/// Terms of the sums that a task packs: few enough that the rows they come from stay in
/// the caches while panel after panel takes its share.
pub(super) const TERMS: usize = 64;
/// Floats of a line of the cache.
const LINE: usize = 16;
/// Panels that take their shares of a row together.
const PANELS: usize = 8;
/// Rows that are asked for ahead.
const AHEAD: usize = 4;

/// A factor of a product: `data[line * line_stride + term * term_stride]` for each of its `lines`
/// (rows of the left one, columns of the right one) and each term of their sums.
#[derive(Clone, Copy)]
pub(crate) struct Factor<'a> {
    pub data: &'a [f32],
    pub lines: usize,
    pub line_stride: usize,
    pub term_stride: usize,
}

impl<'a> Factor<'a> {
    /// The left factor of `rows` rows.
    pub fn left((data, row, column): View<'a>, rows: usize) -> Self {
        Self { data, lines: rows, line_stride: row, term_stride: column }
    }

    /// The right factor of `columns` columns.
    pub fn right((data, row, column): View<'a>, columns: usize) -> Self {
        Self { data, lines: columns, line_stride: column, term_stride: row }
    }

    /// The one that many floats further on in the same data.
    #[inline(always)]
    pub(super) fn moved(self, floats: usize) -> Self {
        Self { data: &self.data[floats..], ..self }
    }

    /// Some of its lines, its terms from `term` on.
    #[inline(always)]
    pub(super) fn part(self, lines: Range<usize>, term: usize) -> Self {
        let at = lines.start * self.line_stride + term * self.term_stride;
        Self { lines: lines.len(), ..self.moved(at) }
    }
}

/// Packs some `terms` of a factor: panels of `width` lines, each `[depth, width]`, zeros for
/// lines that are not there. `width` is two vectors, or less than one.
pub(super) struct Pack<'a> {
    pub factor: Factor<'a>,
    pub width: usize,
    pub depth: usize,
    pub terms: Range<usize>,
    /// All panels, from float `at` on, of which the named terms are written.
    pub panels: SharedMut,
    pub at: usize,
}

impl Kernel for Pack<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let Factor { lines, line_stride, .. } = self.factor;
        // Of rows that lie in memory as they are, panels side by side take their shares of one
        // row after the other.
        let by_rows =
            if line_stride == 1 && self.width == 2 * S::LANES { lines / self.width } else { 0 };
        for first in (0..by_rows).step_by(PANELS) {
            // SAFETY: this function's contract; panels that are whole.
            unsafe { self.rows::<S>(first..by_rows.min(first + PANELS)) }
        }
        for (panel, first) in (0..lines).step_by(self.width).enumerate().skip(by_rows) {
            let at = self.at + (panel * self.depth + self.terms.start) * self.width;
            self.prefetch::<S>(first + self.width);
            // SAFETY: this panel's terms that are this task's, which no other task has.
            let to = unsafe { self.panels.slice(at, self.terms.len() * self.width) };
            // SAFETY: this function's contract.
            unsafe { self.panel::<S>(first, to) }
        }
    }
}

impl Pack<'_> {
    /// Whole `panels` of rows of which a term is one.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`; nothing else may use the panels.
    #[inline(always)]
    unsafe fn rows<S: Vector>(&self, panels: Range<usize>) {
        let (width, apart) = (self.width, self.depth * self.width);
        let (data, stride) = (self.factor.data, self.factor.term_stride);
        let first = self.terms.start * stride + panels.start * width;
        let (rows, len) = (self.terms.len(), panels.len() * width);
        assert!(data.len() >= first + (rows - 1) * stride + len);
        let at = self.at + panels.start * apart + self.terms.start * width;
        let to = self.panels.range(at, (panels.len() - 1) * apart + rows * width);
        for row in 0..rows {
            let ahead = data.as_ptr().wrapping_add(first + (row + AHEAD) * stride);
            for float in (0..len).step_by(LINE) {
                S::prefetch(ahead.wrapping_add(float));
            }
            for panel in 0..panels.len() {
                // SAFETY: two vectors of this row, and of the panel's (asserted).
                unsafe {
                    let from = data.as_ptr().add(first + row * stride + panel * width);
                    let to = to.add(panel * apart + row * width);
                    S::load(from).store(to);
                    S::load(from.add(S::LANES)).store(to.add(S::LANES));
                }
            }
        }
    }

    /// Asks for the terms of the panel that begins with line `first`: pieces of rows, too short
    /// for the processor to see where they lead.
    #[inline(always)]
    fn prefetch<S: Vector>(&self, first: usize) {
        let Factor { data, lines, line_stride, term_stride } = self.factor;
        let (lines, terms) = (self.width.min(lines.saturating_sub(first)), self.terms.len());
        let (rows, stride, length) = match (line_stride, term_stride) {
            (1, _) => (terms, term_stride, lines),
            (_, 1) => (lines, line_stride, terms),
            _ => return,
        };
        let at = first * line_stride + self.terms.start * term_stride;
        for row in 0..rows {
            let row = data.as_ptr().wrapping_add(at + row * stride);
            for float in (0..length).step_by(LINE).chain([length.saturating_sub(1)]) {
                S::prefetch(row.wrapping_add(float));
            }
        }
    }

    /// The terms of the panel that begins with line `first`.
    #[inline(always)]
    unsafe fn panel<S: Vector>(&self, first: usize, to: &mut [f32]) {
        let (width, count) = (self.width, self.terms.len());
        let lines = first..self.factor.lines.min(first + width);
        let Factor { data, lines, line_stride, term_stride } =
            self.factor.part(lines, self.terms.start);
        let vectors = width.div_ceil(S::LANES);
        // By whole vectors, also where a panel is narrower than one: what is too much is
        // whatever follows in the matrix, and is written where the next term comes, so not
        // with the last one.
        let narrow = width < S::LANES;
        let needed = match (line_stride, term_stride) {
            (1, _) => (count - 1) * term_stride + vectors * S::LANES,
            (_, 1) => (vectors * S::LANES - 1) * line_stride + count,
            _ => usize::MAX,
        };
        let whole = lines >= width && data.len() >= needed;
        let by_vectors = count - usize::from(narrow);
        assert!(by_vectors == 0 || to.len() >= (by_vectors - 1) * width + vectors * S::LANES);
        let mut done = 0;
        if whole && line_stride == 1 {
            done = by_vectors;
            for k in 0..done {
                // SAFETY: so many vectors are there for each term (`needed`), and there is
                // room for them (asserted).
                unsafe {
                    let (from, to) = (data.as_ptr().add(k * term_stride), to.as_mut_ptr());
                    let to = to.add(k * width);
                    S::load(from).store(to);
                    if vectors == 2 {
                        S::load(from.add(S::LANES)).store(to.add(S::LANES));
                    }
                }
            }
        } else if whole && term_stride == 1 {
            let mut square = [0f32; MAX_LANES * MAX_LANES];
            while done + S::LANES <= count {
                let terms = S::LANES.min(by_vectors - done);
                for lane in (0..vectors * S::LANES).step_by(S::LANES) {
                    // SAFETY: so many lines are there for each term (`needed`), and there is
                    // room for a vector of each of these `terms` (asserted); `square` has as
                    // many rows.
                    unsafe {
                        let from = data.as_ptr().add(lane * line_stride + done);
                        S::transpose(from, line_stride, square.as_mut_ptr(), S::LANES);
                        let to = to.as_mut_ptr().add(done * width + lane);
                        for k in 0..terms {
                            S::load(square.as_ptr().add(k * S::LANES)).store(to.add(k * width));
                        }
                    }
                }
                if terms < S::LANES {
                    to[(count - 1) * width..][..width]
                        .copy_from_slice(&square[terms * S::LANES..][..width]);
                }
                done += S::LANES;
            }
        }
        for (k, to) in to.chunks_exact_mut(width).enumerate().skip(done) {
            let (there, missing) = to.split_at_mut(lines);
            for (line, to) in there.iter_mut().enumerate() {
                *to = data[line * line_stride + k * term_stride];
            }
            missing.fill(0.0);
        }
    }
}
