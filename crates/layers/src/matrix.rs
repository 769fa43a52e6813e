//! Products of f32 matrices: on all threads in blocks of our own, which take 0.85 of the time
//! of those of the crate `gemm`, or where the machine has them in tiles; within one thread by
//! that crate, as the small products there do not pay for packing both factors.

pub(crate) mod block;
mod blocked;
pub(crate) mod pack;
pub(crate) mod place;
mod strips;
#[cfg(test)]
mod tests;
pub(crate) mod tiled;

use gemm::Parallelism;
use simd::tiles::{Native, are_available};

pub(crate) use self::blocked::{Batch, pack};
pub(crate) use self::pack::Factor;
use crate::factors::Factors;
use crate::isa::Isa;
use crate::shared_mut::SharedMut;

/// A row-major or transposed view of a matrix: `(data, row stride, column stride)`.
pub(crate) type View<'a> = (&'a [f32], usize, usize);

/// What a product is added to.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    /// What is in the target.
    Target,
    /// A row `[n]` in every row, a column `[m]` in every column, and a matrix `[m, n]`, as
    /// far as they are there.
    Sum { row: Option<&'a [f32]>, column: Option<&'a [f32]>, matrix: Option<&'a [f32]> },
}

impl Start<'_> {
    /// Nothing.
    pub const ZERO: Self = Self::Sum { row: None, column: None, matrix: None };
}

/// `target[m, n] += left[m, k] right[k, n]`, `target` with the given row stride.
///
/// # Safety
/// Rows `0..m` of `target`, `n` floats each at distance `row_stride`, must be
/// valid for reads and writes by this thread alone.
pub(crate) unsafe fn add_product(
    sizes: (usize, usize, usize),
    target: *mut f32,
    row_stride: usize,
    left: View,
    right: View,
) {
    let (m, n, k) = sizes;
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    check(sizes, left, right);
    // SAFETY: the reads of `left` and `right` are within the slices (checked), what is done
    // to `target` within this function's contract; strides fit isize because the slices do.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            target,
            1,
            row_stride as isize,
            true,
            left.0.as_ptr(),
            left.2 as isize,
            left.1 as isize,
            right.0.as_ptr(),
            right.2 as isize,
            right.1 as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// [`add_product`], the factors rounded as they may be, to rows from element `at` of `target` on.
///
/// # Safety
/// As there.
pub(crate) unsafe fn add_to(
    factors: Factors,
    sizes: (usize, usize, usize),
    (target, at): (SharedMut, usize),
    row_stride: usize,
    left: View,
    right: View,
) {
    let (m, n, k) = sizes;
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    let to = target.range(at, (m - 1) * row_stride + n);
    if factors == Factors::Bf16 && has_tiles(n, k) {
        check(sizes, left, right);
        let place = (target, at, row_stride);
        let (left, right) = (Factor::left(left, m), Factor::right(right, n));
        // SAFETY: this function's contract; the machine has the registers.
        return unsafe { tiled::add_alone::<Native, 1>(Isa::detect(), k, place, left, right) };
    }
    // SAFETY: this function's contract.
    unsafe { add_product(sizes, to, row_stride, left, right) }
}

/// `target[m, n] = start + left[m, k] right[k, n]` on all threads of the pool, the factors rounded
/// as they may be; what was in `target` is dropped if that is not the start.
pub(crate) fn product(
    factors: Factors,
    sizes: (usize, usize, usize),
    target: &mut Vec<f32>,
    start: Start,
    left: View,
    right: View,
) {
    let (m, n, k) = sizes;
    match start {
        Start::Target => assert!(target.len() == m * n, "{} numbers for {m}x{n}", target.len()),
        Start::Sum { row, column, matrix } => {
            let whole = |part: Option<&[f32]>, len| {
                assert!(part.is_none_or(|part| part.len() == len), "what is added to {m}x{n}");
            };
            whole(row, n);
            whole(column, m);
            whole(matrix, m * n);
            target.clear();
            target.reserve_exact(m * n);
        }
    }
    if k == 0 {
        if let Start::Sum { row, column, matrix } = start {
            let of = |numbers: Option<&[f32]>, i| numbers.map_or(0.0, |numbers| numbers[i]);
            let sum = |i| of(row, i % n) + of(column, i / n) + of(matrix, i);
            target.extend((0..m * n).map(sum));
        }
        return;
    }
    if m > 0 && n > 0 {
        let to = SharedMut::new_spare(target);
        // SAFETY: `target` has room for `m * n` floats, which are there if it starts with
        // them; the machine has tiles where that is asked.
        unsafe {
            if has_tiles(n, k) {
                check(sizes, left, right);
                let (left, right) = (Factor::left(left, m), Factor::right(right, n));
                let multiply = match factors {
                    Factors::F32 => tiled::multiply::<Native, 3>,
                    Factors::Bf16 => tiled::multiply::<Native, 1>,
                };
                multiply(Isa::detect(), k, to, start, left, right);
            } else {
                product_into(Isa::detect(), sizes, to, start, left, right);
            }
        }
    }
    // SAFETY: all of them were written.
    unsafe { target.set_len(m * n) };
}

/// Whether products of `k` terms to `n` columns are made of tiles on this machine, however many rows
/// there are: no row depends on that.
fn has_tiles(n: usize, k: usize) -> bool {
    tiled::suits(n, k) && are_available()
}

/// As [`product`], to the `m * n` floats of `target`. No size is 0.
///
/// # Safety
/// Nothing else may use these floats meanwhile; where the product starts with them, they must
/// be there.
unsafe fn product_into(
    isa: Option<Isa>,
    sizes: (usize, usize, usize),
    target: SharedMut,
    start: Start,
    left: View,
    right: View,
) {
    check(sizes, left, right);
    let (m, n, k) = sizes;
    let (left, right) = (Factor::left(left, m), Factor::right(right, n));
    // SAFETY: this function's contract.
    unsafe { products_into(isa, k, Batch::ONE, target, start, left, right) }
}

/// `target[m, n] = start + left[m, k] right[k, n]` of `k` terms for each of the `batch`, on all
/// threads of the pool. No size is 0; what is added has numbers for all.
///
/// # Safety
/// Nothing else may use the targets meanwhile; where the products start with them, they must
/// be there.
pub(crate) unsafe fn products_into(
    isa: Option<Isa>,
    terms: usize,
    batch: Batch,
    target: SharedMut,
    start: Start,
    left: Factor,
    right: Factor,
) {
    // SAFETY: this function's contract.
    unsafe {
        if strips::suit((left.lines, right.lines, terms), batch) {
            strips::multiply(isa, terms, batch, target, start, left, right)
        } else {
            blocked::multiply(isa, terms, batch, target, start, left, right)
        }
    }
}

/// That the factors, of which no size is 0, are as large as the sizes say.
fn check((m, n, k): (usize, usize, usize), left: View, right: View) {
    assert!(left.0.len() > (m - 1) * left.1 + (k - 1) * left.2, "left matrix too short");
    assert!(right.0.len() > (k - 1) * right.1 + (n - 1) * right.2, "right matrix too short");
}
