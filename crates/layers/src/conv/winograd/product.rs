//! The matrix product of one element of all transformed tiles: registers hold a
//! block of rows x two vectors of columns.
//!
//! A core whose other thread is busy executes half as many instructions in a cycle, and no fewer
//! multiply-adds. So there is little in the innermost loop besides them: addresses that are constants
//! away from few pointers, one look at the counter for [`UNROLL`] terms, and lines are asked for only
//! by the first block of rows that reads them.

use crate::vector::Vector;

/// Rows of the right matrix that are asked for ahead of their use.
const AHEAD: usize = 12;
/// Terms between two looks at the counter.
const UNROLL: usize = 4;

/// Matrices of which there is one row for each row of a product, and the next matrix `next` floats
/// further.
#[derive(Clone, Copy)]
pub struct Left {
    pub data: *const f32,
    /// Floats from a row (where terms are `DENSE`) or a term to the next.
    pub pitch: usize,
    pub next: usize,
}

/// Matrices with rows of two vectors: element `(k, n)` of matrix `s` at
/// `data + s * next + k * row + n`.
#[derive(Clone, Copy)]
pub struct Right {
    pub data: *const f32,
    pub row: usize,
    pub next: usize,
    /// Whether the rows are to be asked for ahead of their use.
    pub fetch: bool,
}

/// How many matrices, and the columns of each left one.
#[derive(Clone, Copy)]
pub struct Terms {
    pub matrices: usize,
    pub depth: usize,
}

/// `out[m][n] = Σ_s Σ_k left[s][m][k] right[s][k][n]`, or `+=` where it `adds`, for `rows`
/// rows and two vectors of columns; rows of `out` are two vectors. Of a left matrix the terms of
/// a row lie side by side where they are `DENSE`, as do the rows of the right one; else the rows
/// of a term do. The order of the sum depends on nothing but `terms`.
///
/// # Safety
/// The machine must have the instruction set; all that is named must be readable,
/// `out` writable; `rows` is 1 to [`Vector::PAIRS`].
#[inline(always)]
pub unsafe fn product<S: Vector, const DENSE: bool>(
    rows: usize,
    left: Left,
    right: Right,
    terms: Terms,
    out: *mut f32,
    adds: bool,
) {
    // SAFETY: this function's contract.
    unsafe {
        if right.fetch {
            by_rows::<S, DENSE, true>(rows, left, right, terms, out, adds);
        } else {
            by_rows::<S, DENSE, false>(rows, left, right, terms, out, adds);
        }
    }
}

#[inline(always)]
unsafe fn by_rows<S: Vector, const DENSE: bool, const FETCH: bool>(
    rows: usize,
    left: Left,
    right: Right,
    terms: Terms,
    out: *mut f32,
    adds: bool,
) {
    // SAFETY: the contract of `product`.
    unsafe {
        match rows {
            1 => block::<S, 1, DENSE, FETCH>(left, right, terms, out, adds),
            2 => block::<S, 2, DENSE, FETCH>(left, right, terms, out, adds),
            3 => block::<S, 3, DENSE, FETCH>(left, right, terms, out, adds),
            4 => block::<S, 4, DENSE, FETCH>(left, right, terms, out, adds),
            5 => block::<S, 5, DENSE, FETCH>(left, right, terms, out, adds),
            6 => block::<S, 6, DENSE, FETCH>(left, right, terms, out, adds),
            7 if S::PAIRS > 6 => block::<S, 7, DENSE, FETCH>(left, right, terms, out, adds),
            8 if S::PAIRS > 6 => block::<S, 8, DENSE, FETCH>(left, right, terms, out, adds),
            9 if S::PAIRS > 6 => block::<S, 9, DENSE, FETCH>(left, right, terms, out, adds),
            10 if S::PAIRS > 6 => block::<S, 10, DENSE, FETCH>(left, right, terms, out, adds),
            11 if S::PAIRS > 6 => block::<S, 11, DENSE, FETCH>(left, right, terms, out, adds),
            12 if S::PAIRS > 6 => block::<S, 12, DENSE, FETCH>(left, right, terms, out, adds),
            _ => debug_assert!(false, "{rows} rows of {}", S::PAIRS),
        }
    }
}

#[inline(always)]
unsafe fn block<S: Vector, const M: usize, const DENSE: bool, const FETCH: bool>(
    left: Left,
    right: Right,
    terms: Terms,
    out: *mut f32,
    adds: bool,
) {
    let width = 2 * S::LANES;
    let (term, right_row) = if DENSE { (1, width) } else { (left.pitch, right.row) };
    // SAFETY: within the matrices (contract of `product`).
    unsafe {
        let mut sums = [[S::splat(0.0); 2]; M];
        for s in 0..terms.matrices {
            let mut column = left.data.add(s * left.next);
            let mut row = right.data.add(s * right.next);
            for _ in 0..terms.depth / UNROLL {
                for k in 0..UNROLL {
                    let (column, row) = (column.add(k * term), row.add(k * right_row));
                    step::<S, M, DENSE, FETCH>(column, left.pitch, row, right_row, &mut sums);
                }
                (column, row) = (column.add(UNROLL * term), row.add(UNROLL * right_row));
            }
            for k in 0..terms.depth % UNROLL {
                let (column, row) = (column.add(k * term), row.add(k * right_row));
                step::<S, M, DENSE, FETCH>(column, left.pitch, row, right_row, &mut sums);
            }
        }
        for (m, sums) in sums.into_iter().enumerate() {
            let row = out.add(m * width);
            for (vector, sum) in sums.into_iter().enumerate() {
                let to = row.add(vector * S::LANES);
                // Last, so that a long sum is one of shorter ones, which rounds less.
                let sum = if adds { S::load(to).plus(sum) } else { sum };
                sum.store(to);
            }
        }
    }
}

/// One term of each sum. A function, not a closure: those are not compiled for the
/// caller's instruction set.
#[inline(always)]
unsafe fn step<S: Vector, const M: usize, const DENSE: bool, const FETCH: bool>(
    column: *const f32,
    pitch: usize,
    row: *const f32,
    right_row: usize,
    sums: &mut [[S; 2]; M],
) {
    // SAFETY: within the matrices (contract of `product`); a prefetch may be of anything.
    unsafe {
        let (a, b) = (S::load(row), S::load(row.add(S::LANES)));
        if FETCH {
            let ahead = row.wrapping_add(AHEAD * right_row);
            S::prefetch(ahead);
            // Rows that follow one another take a line each, wherever they begin, or two.
            if !DENSE || size_of::<f32>() * 2 * S::LANES > 64 {
                S::prefetch(ahead.wrapping_add(2 * S::LANES - 1));
            }
        }
        for (m, sums) in sums.iter_mut().enumerate() {
            let value = S::splat(*column.add(if DENSE { m * pitch } else { m }));
            sums[0] = value.mul_add(a, sums[0]);
            sums[1] = value.mul_add(b, sums[1]);
        }
    }
}

/// How many rows the blocks of `count` rows have, so that they are all alike.
pub fn block_rows<S: Vector>(count: usize) -> usize {
    count.div_ceil(count.div_ceil(S::PAIRS).max(1)).max(1)
}
