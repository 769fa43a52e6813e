//! The fast search on CPUs: scores by matrix products over tiles that stay in
//! the cache, then the plain distance for the few codes that could be nearest.
//!
//! The score of code `k` for a vector `z` is `|e_k|^2 - 2 z.e_k`, which is
//! `|z - e_k|^2` up to a constant of the vector. Computed in f32 it is off by at
//! most some bound `b` (below), so the nearest code is among those whose score
//! is within `2 b` of the smallest. Only these are compared by the exact
//! distance: the result is that of the plain search, ties included, whatever
//! the order in which the products are summed.

use rayon::prelude::*;

use super::dots::dot_products;
use super::plain::{self, squared_distance, squared_norm};
use super::rows::Rows;

/// Vectors of a tile: enough that packing the codes for the product pays.
const TILE_VECTORS: usize = 256;
/// Codes of a tile: its scores take 512 KiB and stay in the second-level cache.
const TILE_CODES: usize = 512;
/// Codes of one unit of parallel work, so that few vectors use all threads too.
const WORK_CODES: usize = 2048;
/// Beyond this dimension the error bound below no longer holds.
const MAX_DIM: usize = 1 << 16;
/// Products beyond this could overflow f32.
const MAX_MAGNITUDE: f64 = 1e37;

/// The nearest code so far, by its exact distance.
#[derive(Clone, Copy)]
struct Best {
    distance: f64,
    code: u32,
}

impl Best {
    const NONE: Self = Self { distance: f64::INFINITY, code: u32::MAX };

    /// The nearer of both; the lower code where they are equally near.
    fn min(self, other: Self) -> Self {
        let key = |best: Self| (best.distance, best.code);
        if key(other) < key(self) { other } else { self }
    }
}

/// The codebook with what the scores need of it.
struct Codes<'a> {
    rows: Rows<'a, f32>,
    squared_norms: Vec<f32>,
    largest_norm: f64,
}

/// The nearest row for each vector; `None` if a value is not finite.
pub(super) fn search(vectors: Rows<f32>, codebook: Rows<f32>) -> Option<Vec<u32>> {
    let dim = codebook.dim();
    if dim > MAX_DIM {
        return plain::search(vectors, codebook);
    }
    let norms = squared_norms(codebook)?;
    let codes = Codes {
        rows: codebook,
        squared_norms: norms.iter().map(|&norm| norm as f32).collect(),
        largest_norm: norms.iter().fold(0.0, |a: f64, &b| a.max(b)).sqrt(),
    };
    let mut nearest = vec![0; vectors.len()];
    nearest
        .par_chunks_mut(TILE_VECTORS)
        .zip(vectors.values().par_chunks(TILE_VECTORS * dim))
        .try_for_each(|(nearest, tile)| {
            search_tile(Rows::from_slice(tile, dim), &codes, nearest)
        })?;
    Some(nearest)
}

fn search_tile(vectors: Rows<f32>, codes: &Codes, nearest: &mut [u32]) -> Option<()> {
    let bounds: Vec<_> = squared_norms(vectors)?
        .iter()
        .map(|norm| score_error(norm.sqrt(), codes.largest_norm, vectors.dim()))
        .collect();
    let best = (0..codes.rows.len().div_ceil(WORK_CODES))
        .into_par_iter()
        .map_init(
            || vec![0.0; vectors.len() * TILE_CODES.min(codes.rows.len())],
            |scores, work| {
                let first = work * WORK_CODES;
                let last = (first + WORK_CODES).min(codes.rows.len());
                search_codes(vectors, codes, first..last, &bounds, scores)
            },
        )
        .reduce(
            || vec![Best::NONE; vectors.len()],
            |a, b| a.into_iter().zip(b).map(|(a, b)| a.min(b)).collect(),
        );
    for (nearest, best) in nearest.iter_mut().zip(best) {
        *nearest = best.code;
    }
    Some(())
}

/// The nearest of the codes in `range`, for each vector of a tile.
fn search_codes(
    vectors: Rows<f32>,
    codes: &Codes,
    range: std::ops::Range<usize>,
    bounds: &[Option<f32>],
    scores: &mut [f32],
) -> Vec<Best> {
    let mut best = vec![Best::NONE; vectors.len()];
    let mut smallest = vec![f32::INFINITY; vectors.len()];
    for first in range.clone().step_by(TILE_CODES) {
        let last = (first + TILE_CODES).min(range.end);
        let rows = codes.rows.range(first, last);
        let norms = &codes.squared_norms[first..last];
        dot_products(vectors, rows, scores);
        for (i, scores) in scores.chunks_exact_mut(norms.len()).take(vectors.len()).enumerate() {
            let vector = vectors.row(i);
            let mut compare = |k: usize| {
                let distance = squared_distance(vector, rows.row(k));
                best[i] = best[i].min(Best { distance, code: (first + k) as u32 });
            };
            match bounds[i] {
                Some(bound) => {
                    smallest[i] = smallest[i].min(finish_scores(scores, norms));
                    // 2 b, and the rounding of this sum.
                    let limit = smallest[i] + 3.0 * bound;
                    for_each_up_to(scores, limit, &mut compare);
                }
                None => (0..norms.len()).for_each(&mut compare),
            }
        }
    }
    best
}

/// Squared norms of the rows; `None` if one is not finite.
fn squared_norms(rows: Rows<f32>) -> Option<Vec<f64>> {
    let norm = |row: &[f32]| Some(squared_norm(row)).filter(|norm| norm.is_finite());
    rows.values().par_chunks_exact(rows.dim()).map(norm).collect()
}

/// A bound on the error of any score of a vector; `None` if there is none.
///
/// With unit roundoff `u`, a dot product of length `D` in any order is off by
/// at most about `D u |z| |e|` (Higham, Accuracy and Stability, 3.1), the
/// rounded `|e|^2` by `u |e|^2`, the sum of both by `u` of its terms: together
/// less than `(D + 2) u (2 |z| |e| + |e|^2)`, plus what underflow loses.
fn score_error(norm: f64, code_norm: f64, dim: usize) -> Option<f32> {
    let magnitude = 2.0 * norm * code_norm + code_norm * code_norm;
    let terms = (dim + 4) as f64;
    let relative = 1.1 * terms * f64::from(f32::EPSILON) / 2.0;
    let underflow = terms * f64::from(f32::MIN_POSITIVE);
    (magnitude < MAX_MAGNITUDE).then_some((relative * magnitude + underflow) as f32)
}

/// Values compared at once; a multiple of the widest vector registers.
const LANES: usize = 16;

/// Turns dot products into scores, and returns the smallest.
fn finish_scores(dots: &mut [f32], norms: &[f32]) -> f32 {
    let min = |a: f32, b: f32| if b < a { b } else { a };
    let mut smallest = [f32::INFINITY; LANES];
    let (mut dots, mut norms) = (dots.chunks_exact_mut(LANES), norms.chunks_exact(LANES));
    for (dots, norms) in dots.by_ref().zip(norms.by_ref()) {
        for lane in 0..LANES {
            dots[lane] = norms[lane] - 2.0 * dots[lane];
            smallest[lane] = min(smallest[lane], dots[lane]);
        }
    }
    let mut rest = f32::INFINITY;
    for (dot, norm) in dots.into_remainder().iter_mut().zip(norms.remainder()) {
        *dot = norm - 2.0 * *dot;
        rest = min(rest, *dot);
    }
    smallest.into_iter().fold(rest, min)
}

/// Calls `found` with the index of every score that is at most `limit`.
fn for_each_up_to(scores: &[f32], limit: f32, mut found: impl FnMut(usize)) {
    for (chunk, scores) in scores.chunks(LANES).enumerate() {
        if scores.iter().fold(false, |any, &score| any | (score <= limit)) {
            for (i, &score) in scores.iter().enumerate() {
                if score <= limit {
                    found(chunk * LANES + i);
                }
            }
        }
    }
}
