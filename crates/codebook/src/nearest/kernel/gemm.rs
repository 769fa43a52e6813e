//! Dot products of all pairs of rows, by a packed matrix product: for machines
//! whose instruction set has no kernel of its own here.

use crate::nearest::rows::Rows;

/// Writes `vectors[i] . codes[k]` to `out[i * codes.len() + k]`.
///
/// # Panics
/// If `out` is shorter than `vectors.len() * codes.len()`, or rows of `codes` are
/// shorter than those of `vectors`: both are bugs of the caller.
pub(super) fn dot_products(vectors: Rows<f32>, codes: Rows<f32>, out: &mut [f32]) {
    let (m, n, k) = (vectors.len(), codes.len(), vectors.dim());
    debug_assert_eq!(codes.dim(), k, "rows of different lengths");
    let out = &mut out[..m * n];
    let (vectors, codes) = (&vectors.values()[..m * k], &codes.values()[..n * k]);
    // SAFETY: the strides below address exactly `m * n` values of `out`,
    // `m * k` of `vectors` and `n * k` of `codes`, which the slices above hold;
    // `out` is borrowed mutably, so it overlaps neither.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            false,
            vectors.as_ptr(),
            1,
            k as isize,
            codes.as_ptr(),
            k as isize,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
