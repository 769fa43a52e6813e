//! Products of f32 matrices by the `gemm` crate: within one thread, or on all of them.

use gemm::Parallelism;

/// A row-major or transposed view of a matrix: `(data, row stride, column stride)`.
pub(crate) type View<'a> = (&'a [f32], usize, usize);

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
    // SAFETY: this function's contract.
    unsafe { multiply(sizes, target, row_stride, true, left, right, Parallelism::None) }
}

/// `target[m, n] = left[m, k] right[k, n]`, or `+=` where it `adds`, on all threads of
/// the pool; without adding, what was in `target` is dropped.
pub(crate) fn product(
    sizes: (usize, usize, usize),
    target: &mut Vec<f32>,
    adds: bool,
    left: View,
    right: View,
) {
    let (m, n, k) = sizes;
    if adds {
        assert!(target.len() == m * n, "{} numbers for {m}x{n}", target.len());
    } else {
        target.clear();
        target.reserve_exact(m * n);
        if k == 0 {
            target.resize(m * n, 0.0);
        }
    }
    // SAFETY: `target` has room for `m * n` floats, which are read only where it adds, and
    // then are there; unless `k` is 0, and they are there already, all of them are written
    // before the length says so.
    unsafe {
        multiply(sizes, target.as_mut_ptr(), n, adds, left, right, Parallelism::Rayon(0));
        target.set_len(m * n);
    }
}

/// `target[m, n] = left[m, k] right[k, n]`, or `+=` where it `adds`; nothing is touched
/// where a size is 0.
///
/// # Safety
/// Rows `0..m` of `target`, `n` floats each at distance `row_stride`, must be valid for
/// writes by this thread and those of `parallelism` alone, and for reads where it adds.
unsafe fn multiply(
    (m, n, k): (usize, usize, usize),
    target: *mut f32,
    row_stride: usize,
    adds: bool,
    left: View,
    right: View,
    parallelism: Parallelism,
) {
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    assert!(left.0.len() > (m - 1) * left.1 + (k - 1) * left.2, "left matrix too short");
    assert!(right.0.len() > (k - 1) * right.1 + (n - 1) * right.2, "right matrix too short");
    // SAFETY: the reads of `left` and `right` are within the slices (asserted), what is done
    // to `target` within this function's contract; strides fit isize because the slices do.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            target,
            1,
            row_stride as isize,
            adds,
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
            parallelism,
        );
    }
}
