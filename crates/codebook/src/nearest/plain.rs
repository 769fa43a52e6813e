//! The search as the formula says it: `argmin_k |z - e_k|^2`.

use rayon::prelude::*;

use super::rows::Rows;

/// `|a - b|^2` in f64, summed in order: the one definition of distance here.
pub(super) fn squared_distance<T: Copy + Into<f64>>(a: &[T], b: &[T]) -> f64 {
    let square = |(&a, &b): (&T, &T)| {
        let difference: f64 = a.into() - b.into();
        difference * difference
    };
    a.iter().zip(b).map(square).sum()
}

/// The nearest row for each vector; `None` if a distance is not finite.
pub(super) fn search<T>(vectors: Rows<T>, codebook: Rows<T>) -> Option<Vec<u32>>
where
    T: Copy + Into<f64> + Sync,
{
    let nearest = |vector: &[T]| {
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
    };
    vectors.values().par_chunks_exact(vectors.dim()).map(nearest).collect()
}
