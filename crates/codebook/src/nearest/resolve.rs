//! From blocks of codes that may hold the nearest one to the nearest code.

use rayon::prelude::*;

use super::plain::squared_distance;
use super::rows::Rows;
use super::search::Codes;

/// Up to this dimension an exact distance costs no more than a score.
const SHORT: usize = 16;
/// Vectors of one unit of parallel work.
const WORK_VECTORS: usize = 32;
/// Codes scored at a time.
const BATCH: usize = 64;

/// Where the nearest code of a vector may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lead {
    pub vector: u32,
    /// No exact score of the chunk's codes is above this.
    pub highest: f32,
    /// The codes that the best was seen among: start and end.
    pub block: (u32, u32),
    /// No exact score of the chunk's other codes is above this.
    pub others_highest: f32,
    /// Start and end.
    pub chunk: (u32, u32),
}

/// Finds the nearest code of each vector that has leads, given a score that its
/// nearest code has at least.
pub(super) fn resolve(
    vectors: Rows<f32>,
    norms: &[f32],
    codes: &Codes,
    limits: &[f32],
    mut leads: Vec<Lead>,
    nearest: &mut [u32],
) {
    leads.retain(|lead| lead.highest >= limits[lead.vector as usize]);
    leads.sort_unstable_by_key(|lead| (lead.vector, lead.chunk));
    let by_vector: Vec<_> = leads.chunk_by(|a, b| a.vector == b.vector).collect();
    let found: Vec<_> = by_vector
        .into_par_iter()
        .with_min_len(WORK_VECTORS)
        .map_init(Vec::new, |candidates, leads| {
            let i = leads[0].vector as usize;
            candidates.clear();
            for lead in leads {
                let ambiguous = lead.others_highest >= limits[i];
                let range = if ambiguous { lead.chunk } else { lead.block };
                find_candidates(vectors.row(i), norms[i], codes, limits[i], range, candidates);
            }
            (i, nearest_of(candidates, vectors.row(i), codes.rows))
        })
        .collect();
    for (i, code) in found {
        nearest[i] = code;
    }
}

/// Adds those codes whose exact score may reach `limit`, in ascending order.
fn find_candidates(
    vector: &[f32],
    norm: f32,
    codes: &Codes,
    limit: f32,
    (start, end): (u32, u32),
    candidates: &mut Vec<u32>,
) {
    if vector.len() <= SHORT {
        candidates.extend(start..end);
        return;
    }
    let mut dots = [0.0; BATCH];
    for first in (start..end).step_by(BATCH) {
        let range = first as usize..(first as usize + BATCH).min(end as usize);
        let dots = &mut dots[..range.len()];
        codes.kernel.dots(vector, codes.rows.range(range.start, range.end), dots);
        for (code, dot) in range.zip(dots) {
            let error = codes.bound.of(norm, codes.norm_limit(code));
            if codes.starts[code] + *dot + error >= limit {
                candidates.push(code as u32);
            }
        }
    }
}

/// The candidate at the smallest distance, the lowest of equal ones.
fn nearest_of(candidates: &[u32], vector: &[f32], codebook: Rows<f32>) -> u32 {
    if let [only] = *candidates {
        return only;
    }
    let mut best = (f64::INFINITY, 0);
    for &code in candidates {
        let distance = squared_distance(vector, codebook.row(code as usize));
        if distance < best.0 {
            best = (distance, code);
        }
    }
    best.1
}
