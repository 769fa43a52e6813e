//! The fast search on CPUs, in two steps. First a sweep over all codes with scores
//! in f32, which for each vector leaves the few blocks of codes that its nearest
//! can be in, given how far scores may be off (`bound`). Then these blocks are
//! compared exactly (`resolve`). The result is that of the plain search, ties
//! included, whatever the order in which products are summed.
//!
//! Machines that multiply bf16, or pairs of 16-bit integers, go over the codes with
//! values rounded to these, in half the time. Scores are off by more then, so that more
//! is left to compare: where that turns out too much, as with codes that are all alike,
//! f32 takes over.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use super::bound::{self, ErrorBound, MAX_DIM, norm_limit};
use super::kernel::{BLOCKS_MULTIPLE, Group, Kernel, Summary};
use super::plain;
use super::resolve::{Lead, resolve};
use super::rows::Rows;

/// Vectors of a group: enough that reading the codes from far costs little.
const GROUP: usize = 512;
/// Values of a chunk of codes: with those of a group they stay in the second-level
/// cache.
const CHUNK_VALUES: usize = 1 << 16;
/// Codes of a chunk, at most.
const CHUNK_CODES: usize = 10 * BLOCKS_MULTIPLE;
/// A chunk has at most the square root of this times all codes: near ties are looked
/// for in whole chunks, and the larger those, the more often and the longer.
const CHUNK_ROOT: usize = 9;
/// Units of parallel work per thread, where there are not as many groups.
const WORK_PER_THREAD: usize = 2;
/// The part of all pairs of vectors and codes that a coarse sweep may leave.
const COARSE_LEFT: usize = 16;

/// The codebook with what the scores need of it.
pub(super) struct Codes<'a> {
    pub rows: Rows<'a, f32>,
    /// `-|e|^2 / 2`: a score before the product.
    pub starts: Vec<f32>,
    /// Of each chunk, a number that the norm of none of its codes is above.
    chunk_norms: Vec<f32>,
    pub bound: ErrorBound,
    pub kernel: Kernel,
    /// Whether coarse sweeps pay: decides the time that the search takes, no more.
    coarse: AtomicBool,
}

impl<'a> Codes<'a> {
    /// `None` if scores cannot be computed in f32.
    fn new(kernel: Kernel, rows: Rows<'a, f32>, coarse: bool) -> Option<Self> {
        let dim = rows.dim();
        if dim > MAX_DIM {
            return None;
        }
        let chunk = chunk_codes(rows.len(), dim);
        let mut starts = vec![0.0; rows.len()];
        let mut chunk_norms = vec![0.0; rows.len().div_ceil(chunk)];
        let chunks = rows.values().par_chunks(chunk * dim).zip(starts.par_chunks_mut(chunk));
        chunks.zip(&mut chunk_norms).for_each(|((rows, starts), longest)| {
            let mut norm = 0.0_f32;
            for (row, start) in rows.chunks_exact(dim).zip(starts) {
                let squared = kernel.squared_norm(row);
                *start = -0.5 * squared;
                // A NaN or an infinity stays.
                norm = if squared <= norm { norm } else { squared };
                if !squared.is_finite() {
                    break;
                }
            }
            *longest = norm_limit(norm, dim);
        });
        let fit = chunk_norms.iter().all(|norm| bound::fits(0.0, *norm));
        let (bound, coarse) = (ErrorBound::new(dim), AtomicBool::new(coarse));
        fit.then_some(Self { rows, starts, chunk_norms, bound, kernel, coarse })
    }

    /// A number that the norm of this code is not above.
    pub fn norm_limit(&self, code: usize) -> f32 {
        norm_limit(-2.0 * self.starts[code], self.rows.dim())
    }
}

/// Codes of a chunk of a codebook of `len`.
fn chunk_codes(len: usize, dim: usize) -> usize {
    let codes = (CHUNK_VALUES / dim).min((CHUNK_ROOT * len).isqrt());
    codes.next_multiple_of(BLOCKS_MULTIPLE).min(CHUNK_CODES)
}

/// The nearest row for each vector; `None` if a value is not finite.
pub(super) fn search(kernel: Kernel, vectors: Rows<f32>, codebook: Rows<f32>) -> Option<Vec<u32>> {
    let coarse = kernel.has_coarse(vectors.len(), codebook.dim());
    let Some(codes) = Codes::new(kernel, codebook, coarse) else {
        return plain::search(vectors, codebook);
    };
    let dim = codebook.dim();
    let longest = codes.chunk_norms.iter().fold(0.0, |a: f32, b| a.max(*b));
    // The codes are shared out too where there are few groups.
    let units = (WORK_PER_THREAD * rayon::current_num_threads())
        .div_ceil(vectors.len().div_ceil(GROUP).max(1))
        .min(codes.chunk_norms.len());
    let chunks = codes.chunk_norms.len().div_ceil(units);
    let mut nearest = vec![0; vectors.len()];
    nearest.par_chunks_mut(GROUP).zip(vectors.values().par_chunks(GROUP * dim)).try_for_each_init(
        Vec::new,
        |buffer, (nearest, group)| {
            search_group(Rows::from_slice(group, dim), &codes, (longest, chunks), buffer, nearest)
        },
    )?;
    Some(nearest)
}

/// Given a limit to the norms of all codes, and the chunks of a unit of work.
fn search_group(
    vectors: Rows<f32>,
    codes: &Codes,
    (longest, chunks): (f32, usize),
    buffer: &mut Vec<f32>,
    nearest: &mut [u32],
) -> Option<()> {
    // Vectors too long for f32 get a NaN here, so that no code leads for them.
    let mut norms = Vec::with_capacity(vectors.len());
    for (vector, nearest) in vectors.iter().zip(nearest.iter_mut()) {
        let norm = norm_limit(codes.kernel.squared_norm(vector), vectors.dim());
        if bound::fits(norm, longest) {
            norms.push(norm);
        } else {
            norms.push(f32::NAN);
            *nearest = plain::nearest(vector, codes.rows)?;
        }
    }
    let mut found = None;
    if codes.coarse.load(Ordering::Relaxed) {
        let group = Group::coarse(codes.kernel, vectors, buffer);
        let (limits, leads) = sweep_all(&group, &norms, codes, chunks);
        let left: usize = leads.iter().map(|lead| lead.codes(limits[lead.vector()]).len()).sum();
        if left <= vectors.len() * codes.rows.len() / COARSE_LEFT {
            found = Some((limits, leads));
        } else {
            codes.coarse.store(false, Ordering::Relaxed);
        }
    }
    let (limits, leads) = found.unwrap_or_else(|| {
        sweep_all(&Group::new(codes.kernel, vectors, buffer), &norms, codes, chunks)
    });
    resolve(vectors, &norms, codes, &limits, leads, nearest);
    Some(())
}

/// Goes over all codes, in units of some chunks. Returns for each vector a score that
/// its nearest code has at least, and, in no order, where scores of that may be.
fn sweep_all(group: &Group, norms: &[f32], codes: &Codes, chunks: usize) -> (Vec<f32>, Vec<Lead>) {
    let all = codes.chunk_norms.len();
    let swept: Vec<_> = (0..all.div_ceil(chunks))
        .into_par_iter()
        .map(|i| sweep(group, norms, codes, i * chunks..((i + 1) * chunks).min(all)))
        .collect();
    let (mut limits, mut leads) = (vec![f32::NEG_INFINITY; norms.len()], Vec::new());
    for (found, more) in swept {
        limits.iter_mut().zip(&found).for_each(|(a, b)| *a = a.max(*b));
        leads.extend(more);
    }
    leads.retain(|lead| lead.highest >= limits[lead.vector()]);
    (limits, leads)
}

/// [`sweep_all`] of some chunks.
fn sweep(
    group: &Group,
    norms: &[f32],
    codes: &Codes,
    chunks: Range<usize>,
) -> (Vec<f32>, Vec<Lead>) {
    let mut limits = vec![f32::NEG_INFINITY; norms.len()];
    let mut errors = limits.clone();
    let mut leads = Vec::new();
    let mut summary = Summary::new(group);
    let (chunk, block_codes) =
        (chunk_codes(codes.rows.len(), codes.rows.dim()), group.block_codes());
    for number in chunks {
        let first = number * chunk;
        let last = (first + chunk).min(codes.rows.len());
        group.sweep(codes.rows.range(first, last), &codes.starts[first..last], &mut summary);
        let longest = codes.chunk_norms[number];
        let lost = norm_limit(summary.codes_lost, codes.rows.dim());
        for (i, (error, norm)) in errors.iter_mut().zip(norms).enumerate() {
            *error = codes.bound.of(*norm, longest);
            if let Some(vectors_lost) = group.lost() {
                *error += bound::of_rounding((*norm, vectors_lost[i]), (longest, lost));
            }
        }
        let found = summary.best.iter().zip(&errors).zip(&mut limits).enumerate();
        for (i, ((best, error), limit)) in found {
            if best + error >= *limit {
                let block = first + summary.block[i] as usize * block_codes;
                leads.push(Lead {
                    vector: i as u32,
                    highest: best + error,
                    block: (block as u32, (block + block_codes).min(last) as u32),
                    others_highest: summary.second[i] + error,
                    chunk: (first as u32, last as u32),
                });
                *limit = limit.max(best - error);
            }
        }
    }
    leads.retain(|lead| lead.highest >= limits[lead.vector as usize]);
    (limits, leads)
}
