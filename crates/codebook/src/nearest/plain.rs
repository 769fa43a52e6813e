//! The search as the formula says it: `argmin_k |z - e_k|^2`.

use rayon::prelude::*;

use super::rows::Rows;

/// Partial sums, so that additions need not wait for each other.
const LANES: usize = 8;

/// `|a - b|^2` in f64, always summed in the same order: the one definition of
/// distance here.
pub(super) fn squared_distance<T: Copy + Into<f64>>(a: &[T], b: &[T]) -> f64 {
    let square = |a: T, b: T| {
        let difference = a.into() - b.into();
        difference * difference
    };
    let mut sums = [0.0; LANES];
    let (mut a, mut b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    for (a, b) in a.by_ref().zip(b.by_ref()) {
        for lane in 0..LANES {
            sums[lane] += square(a[lane], b[lane]);
        }
    }
    let rest = a.remainder().iter().zip(b.remainder());
    sums.iter().sum::<f64>() + rest.map(|(&a, &b)| square(a, b)).sum::<f64>()
}

/// The nearest row for each vector; `None` if a distance is not finite.
pub(super) fn search<T>(vectors: Rows<T>, codebook: Rows<T>) -> Option<Vec<u32>>
where
    T: Copy + Into<f64> + Sync,
{
    let rows = vectors.values().par_chunks_exact(vectors.dim());
    rows.map(|vector| nearest(vector, codebook)).collect()
}

/// The nearest row; `None` if a distance is not finite.
pub(super) fn nearest<T: Copy + Into<f64>>(vector: &[T], codebook: Rows<T>) -> Option<u32> {
    let mut best = (f64::INFINITY, 0);
    for (code, row) in codebook.iter().enumerate() {
        let distance = squared_distance(vector, row);
        if !distance.is_finite() {
            return None;
        }
        // Strictly nearer: the lowest of equal codes stays.
        if distance < best.0 {
            best = (distance, code as u32);
        }
    }
    Some(best.1)
}
