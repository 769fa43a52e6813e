//! The fast search on CPUs, in two steps. First a sweep over all codes with scores
//! in f32, which for each vector leaves the few blocks of codes that its nearest
//! can be in, given how far scores may be off (`bound`). Then these blocks are
//! compared exactly (`resolve`). The result is that of the plain search, ties
//! included, whatever the order in which products are summed.

use std::ops::Range;

use rayon::prelude::*;

use super::bound::{self, ErrorBound, MAX_DIM, norm_limit};
use super::kernel::{BLOCKS_MULTIPLE, Group, Kernel, Summary};
use super::plain;
use super::resolve::{Lead, resolve};
use super::rows::Rows;

/// Vectors of a group: enough that reading the codes from far costs little.
const GROUP: usize = 256;
/// Values of a chunk of codes: with those of a group they stay in the second-level
/// cache.
const CHUNK_VALUES: usize = 1 << 16;
/// Codes of a chunk, at most: near ties are looked for in whole chunks.
const CHUNK_CODES: usize = 10 * BLOCKS_MULTIPLE;
/// Codes of one unit of parallel work, so that few vectors use all threads too.
const WORK_CODES: usize = 2048;

/// The codebook with what the scores need of it.
pub(super) struct Codes<'a> {
    pub rows: Rows<'a, f32>,
    /// `-|e|^2 / 2`: a score before the product.
    pub starts: Vec<f32>,
    pub bound: ErrorBound,
    pub kernel: Kernel,
}

impl<'a> Codes<'a> {
    /// `None` if scores cannot be computed in f32.
    fn new(kernel: Kernel, rows: Rows<'a, f32>) -> Option<Self> {
        let dim = rows.dim();
        if dim > MAX_DIM {
            return None;
        }
        let start = |row: &[f32]| -0.5 * bound::squared_norm(row);
        let starts: Vec<_> =
            rows.values().par_chunks_exact(dim).with_min_len(256).map(start).collect();
        let finite = starts.iter().all(|start| start.is_finite());
        let codes = Self { rows, starts, bound: ErrorBound::new(dim), kernel };
        (finite && bound::fits(0.0, codes.norm_limit(0..rows.len()))).then_some(codes)
    }

    /// A number that the norm of none of these codes is above.
    pub fn norm_limit(&self, range: Range<usize>) -> f32 {
        let start = self.starts[range].iter().fold(0.0, |a: f32, b| a.min(*b));
        norm_limit(-2.0 * start, self.rows.dim())
    }

    /// Codes of a chunk.
    fn chunk(&self) -> usize {
        let codes = CHUNK_VALUES / self.rows.dim();
        (codes - codes % BLOCKS_MULTIPLE).clamp(BLOCKS_MULTIPLE, CHUNK_CODES)
    }
}

/// The nearest row for each vector; `None` if a value is not finite.
pub(super) fn search(kernel: Kernel, vectors: Rows<f32>, codebook: Rows<f32>) -> Option<Vec<u32>> {
    let Some(codes) = Codes::new(kernel, codebook) else {
        return plain::search(vectors, codebook);
    };
    let (dim, longest) = (codebook.dim(), codes.norm_limit(0..codebook.len()));
    let mut nearest = vec![0; vectors.len()];
    nearest.par_chunks_mut(GROUP).zip(vectors.values().par_chunks(GROUP * dim)).try_for_each_init(
        Vec::new,
        |buffer, (nearest, group)| {
            search_group(Rows::from_slice(group, dim), &codes, longest, buffer, nearest)
        },
    )?;
    Some(nearest)
}

fn search_group(
    vectors: Rows<f32>,
    codes: &Codes,
    longest: f32,
    buffer: &mut Vec<f32>,
    nearest: &mut [u32],
) -> Option<()> {
    // Vectors too long for f32 get a NaN here, so that no code leads for them.
    let mut norms = Vec::with_capacity(vectors.len());
    for (vector, nearest) in vectors.iter().zip(nearest.iter_mut()) {
        let norm = norm_limit(bound::squared_norm(vector), vectors.dim());
        if bound::fits(norm, longest) {
            norms.push(norm);
        } else {
            norms.push(f32::NAN);
            *nearest = plain::nearest(vector, codes.rows)?;
        }
    }
    let group = Group::new(codes.kernel, vectors, buffer);
    let chunk = codes.chunk();
    let work = WORK_CODES.next_multiple_of(chunk);
    let swept: Vec<_> = (0..codes.rows.len().div_ceil(work))
        .into_par_iter()
        .map(|i| {
            let range = i * work..((i + 1) * work).min(codes.rows.len());
            sweep(&group, &norms, codes, range, chunk)
        })
        .collect();
    let mut limits = vec![f32::NEG_INFINITY; vectors.len()];
    for (found, _) in &swept {
        limits.iter_mut().zip(found).for_each(|(a, b)| *a = a.max(*b));
    }
    let leads = swept.into_iter().flat_map(|(_, leads)| leads).collect();
    resolve(vectors, &norms, codes, &limits, leads, nearest);
    Some(())
}

/// Goes over the codes in `range`. Returns for each vector a score that its nearest
/// code has at least, and, in no order, where scores of at least that may be.
fn sweep(
    group: &Group,
    norms: &[f32],
    codes: &Codes,
    range: Range<usize>,
    chunk: usize,
) -> (Vec<f32>, Vec<Lead>) {
    let mut limits = vec![f32::NEG_INFINITY; norms.len()];
    let mut leads = Vec::new();
    let mut summary = Summary::new(group);
    let block_codes = group.block_codes();
    for first in range.clone().step_by(chunk) {
        let last = (first + chunk).min(range.end);
        group.sweep(codes.rows.range(first, last), &codes.starts[first..last], &mut summary);
        let longest = codes.norm_limit(first..last);
        for (i, (&norm, limit)) in norms.iter().zip(&mut limits).enumerate() {
            let error = codes.bound.of(norm, longest);
            let highest = summary.best[i] + error;
            if highest >= *limit {
                let block = first + summary.block[i] as usize * block_codes;
                leads.push(Lead {
                    vector: i as u32,
                    highest,
                    block: (block as u32, (block + block_codes).min(last) as u32),
                    others_highest: summary.second[i] + error,
                    chunk: (first as u32, last as u32),
                });
                *limit = limit.max(summary.best[i] - error);
            }
        }
    }
    (limits, leads)
}
