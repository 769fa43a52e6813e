//! The matrix product of one element of all transformed tiles: registers hold a
//! block of rows x two vectors of columns.

use crate::vector::Vector;

/// Rows of the right matrix that are asked for ahead of their use.
const AHEAD: usize = 12;

/// Left matrices, element `(m, k)` of matrix `s` at `data + s * next + m * row + k * depth`.
#[derive(Clone, Copy)]
pub struct Left {
    pub data: *const f32,
    pub row: usize,
    pub depth: usize,
    pub next: usize,
}

/// Matrices with rows of two vectors: element `(k, n)` of matrix `s` at
/// `data + s * next + k * row + n`.
#[derive(Clone, Copy)]
pub struct Right {
    pub data: *const f32,
    pub row: usize,
    pub next: usize,
}

/// How many matrices, and the columns of each left one.
#[derive(Clone, Copy)]
pub struct Terms {
    pub matrices: usize,
    pub depth: usize,
}

/// `out[m][n] = Σ_s Σ_k left[s][m][k] right[s][k][n]`, or `+=` where it `adds`, for `rows`
/// rows and two vectors of columns; rows of `out` are two vectors. The order of the
/// sum depends on nothing but `terms`.
///
/// # Safety
/// The machine must have the instruction set; all that is named must be readable,
/// `out` writable; `rows` is 1 to [`Vector::PAIRS`].
#[inline(always)]
pub unsafe fn product<S: Vector>(
    rows: usize,
    left: Left,
    right: Right,
    terms: Terms,
    out: *mut f32,
    adds: bool,
) {
    // SAFETY: this function's contract.
    unsafe {
        match rows {
            1 => block::<S, 1>(left, right, terms, out, adds),
            2 => block::<S, 2>(left, right, terms, out, adds),
            3 => block::<S, 3>(left, right, terms, out, adds),
            4 => block::<S, 4>(left, right, terms, out, adds),
            5 => block::<S, 5>(left, right, terms, out, adds),
            6 => block::<S, 6>(left, right, terms, out, adds),
            7 => block::<S, 7>(left, right, terms, out, adds),
            8 => block::<S, 8>(left, right, terms, out, adds),
            9 => block::<S, 9>(left, right, terms, out, adds),
            10 => block::<S, 10>(left, right, terms, out, adds),
            11 => block::<S, 11>(left, right, terms, out, adds),
            _ => block::<S, 12>(left, right, terms, out, adds),
        }
    }
}

#[inline(always)]
unsafe fn block<S: Vector, const M: usize>(
    left: Left,
    right: Right,
    terms: Terms,
    out: *mut f32,
    adds: bool,
) {
    // SAFETY: within the matrices (contract of `product`).
    unsafe {
        let mut sums = [[S::splat(0.0); 2]; M];
        for s in 0..terms.matrices {
            let (left_data, right_data) =
                (left.data.add(s * left.next), right.data.add(s * right.next));
            for k in 0..terms.depth {
                let row = right_data.add(k * right.row);
                let (a, b) = (S::load(row), S::load(row.add(S::LANES)));
                S::prefetch(row.wrapping_add(AHEAD * right.row));
                S::prefetch(row.wrapping_add(AHEAD * right.row + S::LANES));
                let column = left_data.add(k * left.depth);
                for (m, sums) in sums.iter_mut().enumerate() {
                    let value = S::splat(*column.add(m * left.row));
                    sums[0] = value.mul_add(a, sums[0]);
                    sums[1] = value.mul_add(b, sums[1]);
                }
            }
        }
        for (m, sums) in sums.into_iter().enumerate() {
            let row = out.add(m * 2 * S::LANES);
            for (vector, sum) in sums.into_iter().enumerate() {
                let to = row.add(vector * S::LANES);
                // Last, so that a long sum is one of shorter ones, which rounds less.
                let sum = if adds { S::load(to).plus(sum) } else { sum };
                sum.store(to);
            }
        }
    }
}

/// How many rows the blocks of `count` rows have, so that they are all alike.
pub fn block_rows<S: Vector>(count: usize) -> usize {
    count.div_ceil(count.div_ceil(S::PAIRS).max(1)).max(1)
}
