//! From blocks of codes that may hold the nearest one to the nearest code.

use std::ops::Range;

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

impl Lead {
    pub fn vector(&self) -> usize {
        self.vector as usize
    }

    /// The codes whose exact score may reach `limit`.
    pub fn codes(&self, limit: f32) -> Range<usize> {
        let (start, end) = if self.others_highest >= limit { self.chunk } else { self.block };
        start as usize..end as usize
    }
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
    // The most promising first: what is found there rules out others.
    leads.sort_unstable_by(|a, b| {
        a.vector.cmp(&b.vector).then(b.highest.total_cmp(&a.highest)).then(a.chunk.cmp(&b.chunk))
    });
    let by_vector: Vec<_> = leads.chunk_by(|a, b| a.vector == b.vector).collect();
    let found: Vec<_> = by_vector
        .into_par_iter()
        .with_min_len(WORK_VECTORS)
        .map_init(Vec::new, |candidates, leads| {
            let i = leads[0].vector();
            let mut limit = limits[i];
            candidates.clear();
            for lead in leads {
                if lead.highest >= limit {
                    let range = lead.codes(limit);
                    limit =
                        find_candidates(vectors.row(i), norms[i], codes, limit, range, candidates);
                }
            }
            candidates.retain(|candidate| candidate.highest >= limit);
            (i, nearest_of(candidates, vectors.row(i), codes.rows))
        })
        .collect();
    for (i, code) in found {
        nearest[i] = code;
    }
}

/// A code that may be the nearest.
#[derive(Clone, Copy)]
struct Candidate {
    code: u32,
    /// Its exact score is not above this.
    highest: f32,
}

/// Adds those codes whose exact score may reach `limit`. Returns the limit as raised
/// by what was found.
fn find_candidates(
    vector: &[f32],
    norm: f32,
    codes: &Codes,
    mut limit: f32,
    range: Range<usize>,
    candidates: &mut Vec<Candidate>,
) -> f32 {
    if vector.len() <= SHORT {
        let candidate = |code| Candidate { code: code as u32, highest: f32::INFINITY };
        candidates.extend(range.map(candidate));
        return limit;
    }
    let mut dots = [0.0; BATCH];
    for first in range.clone().step_by(BATCH) {
        let range = first..(first + BATCH).min(range.end);
        let dots = &mut dots[..range.len()];
        codes.kernel.dots(vector, codes.rows.range(range.start, range.end), dots);
        for (code, dot) in range.zip(dots) {
            let error = codes.bound.of(norm, codes.norm_limit(code));
            let score = codes.starts[code] + *dot;
            if score + error >= limit {
                candidates.push(Candidate { code: code as u32, highest: score + error });
                limit = limit.max(score - error);
            }
        }
    }
    limit
}

/// The candidate at the smallest distance, the lowest of equal ones.
fn nearest_of(candidates: &[Candidate], vector: &[f32], codebook: Rows<f32>) -> u32 {
    if let [only] = *candidates {
        return only.code;
    }
    let mut best = (f64::INFINITY, u32::MAX);
    for Candidate { code, .. } in candidates {
        let found = (squared_distance(vector, codebook.row(*code as usize)), *code);
        if found < best {
            best = found;
        }
    }
    best.1
}
