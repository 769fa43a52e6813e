//! A group of vectors, laid out for the kernel, and what is kept per vector.

use super::simd::{Blocks, Seen, Sweep};
use super::{Kernel, gemm};
use crate::nearest::bound::norm_limit;
use crate::nearest::rows::Rows;

/// Codes of a block where scores are written out before they are compared.
const SCORED_CODES: usize = 16;
/// A multiple of the vectors of a tile, in all kernels.
const TILES_MULTIPLE: usize = 64;
/// About the vectors of a register.
const REGISTER: usize = 16;
/// What a dot product of rows costs beside its multiply-adds, in these.
const DOT_COST: usize = 8;

/// What the codes of a chunk are to each vector of a group. Codes are seen in
/// *blocks*; the score of a block is the highest of its codes' scores.
pub(in crate::nearest) struct Summary {
    /// The highest score.
    pub best: Vec<f32>,
    /// The highest score of the other blocks; `-inf` if there are none.
    pub second: Vec<f32>,
    /// The block of the highest score, counted from the start of the chunk.
    pub block: Vec<u32>,
    /// The largest squared norm of what rounding took from a code, in a coarse sweep.
    pub codes_lost: f32,
    /// The chunk as a coarse sweep reads it.
    rounded: Vec<f32>,
}

impl Summary {
    /// For a group, before any code was seen.
    pub fn new(group: &Group) -> Self {
        let len = group.rows.len().next_multiple_of(TILES_MULTIPLE);
        let lowest = || vec![f32::NEG_INFINITY; len];
        Self {
            best: lowest(),
            second: lowest(),
            block: vec![0; len],
            codes_lost: 0.0,
            rounded: Vec::new(),
        }
    }

    fn reset(&mut self) {
        self.best.fill(f32::NEG_INFINITY);
        self.second.fill(f32::NEG_INFINITY);
        self.block.fill(0);
    }

    fn tile(&mut self, start: usize, len: usize) -> Seen<'_> {
        Seen {
            best: &mut self.best[start..start + len],
            second: &mut self.second[start..start + len],
            block: &mut self.block[start..start + len],
        }
    }
}

/// Vectors that are compared with the same codes, one chunk of them after the other.
pub(in crate::nearest) struct Group<'a> {
    kernel: Kernel,
    rows: Rows<'a, f32>,
    layout: GroupLayout<'a>,
    /// In a coarse sweep, limits to the norms of what rounding took from the vectors.
    lost: Option<Vec<f32>>,
}

enum GroupLayout<'a> {
    /// Tiles, the last filled up with zeros.
    Tiles { values: &'a [f32], sweep: Sweep },
    /// As they came: for few vectors, and for the kernel without sweep.
    Rows,
}

impl<'a> Group<'a> {
    /// For sweeps with scores in f32. `buffer` saves an allocation per group.
    pub fn new(kernel: Kernel, rows: Rows<'a, f32>, buffer: &'a mut Vec<f32>) -> Self {
        let layout = match kernel.sweep(false) {
            Some(sweep) if !few_vectors(rows) => {
                write_tiles(rows, sweep.tile, buffer);
                GroupLayout::Tiles { values: buffer, sweep }
            }
            _ => GroupLayout::Rows,
        };
        Self { kernel, rows, layout, lost: None }
    }

    /// For sweeps with rounded values, in half the time, where
    /// [`Kernel::has_coarse`]; like [`Group::new`] elsewhere.
    pub fn coarse(kernel: Kernel, rows: Rows<'a, f32>, buffer: &'a mut Vec<f32>) -> Self {
        let Some(sweep) = kernel.sweep(true) else {
            return Self::new(kernel, rows, buffer);
        };
        let (mut pairs, mut lost) = (Vec::new(), Vec::with_capacity(rows.len()));
        let pairs = kernel.round(rows, &mut pairs, |norm| lost.push(norm_limit(norm, rows.dim())));
        write_tiles(pairs, sweep.tile, buffer);
        let layout = GroupLayout::Tiles { values: buffer, sweep };
        Self { kernel, rows, layout, lost: Some(lost) }
    }

    /// In a coarse sweep, limits to the norms of what rounding took from the vectors.
    pub fn lost(&self) -> Option<&[f32]> {
        self.lost.as_deref()
    }

    /// Codes of a block.
    pub fn block_codes(&self) -> usize {
        match self.layout {
            GroupLayout::Tiles { sweep, .. } => sweep.codes,
            GroupLayout::Rows => SCORED_CODES,
        }
    }

    /// Summarises the chunk: the score of code `k` is `starts[k] + vector . codes[k]`.
    pub fn sweep(&self, codes: Rows<f32>, starts: &[f32], summary: &mut Summary) {
        summary.reset();
        match self.layout {
            GroupLayout::Tiles { values, sweep } if self.lost.is_some() => {
                let mut rounded = std::mem::take(&mut summary.rounded);
                let mut lost = 0.0_f32;
                let pairs = self.kernel.round(codes, &mut rounded, |norm| lost = lost.max(norm));
                summary.codes_lost = lost;
                sweep_tiles(sweep, values, pairs, starts, summary);
                summary.rounded = rounded;
            }
            GroupLayout::Tiles { values, sweep } => {
                sweep_tiles(sweep, values, codes, starts, summary);
            }
            GroupLayout::Rows => self.sweep_rows(codes, starts, summary),
        }
    }

    fn sweep_rows(&self, codes: Rows<f32>, starts: &[f32], summary: &mut Summary) {
        let mut dots = vec![0.0; self.rows.len() * starts.len()];
        if self.kernel == Kernel::Portable {
            gemm::dot_products(self.rows, codes, &mut dots);
        } else {
            for (vector, dots) in self.rows.iter().zip(dots.chunks_exact_mut(starts.len())) {
                self.kernel.dots(vector, codes, dots);
            }
        }
        for (i, dots) in dots.chunks_exact(starts.len()).enumerate() {
            let blocks = dots.chunks(SCORED_CODES).zip(starts.chunks(SCORED_CODES));
            for (number, (dots, starts)) in blocks.enumerate() {
                let score = highest_score(dots, starts);
                if score > summary.best[i] {
                    summary.second[i] = summary.best[i];
                    summary.best[i] = score;
                    summary.block[i] = number as u32;
                } else if score > summary.second[i] {
                    summary.second[i] = score;
                }
            }
        }
    }
}

fn sweep_tiles(
    sweep: Sweep,
    tiles: &[f32],
    codes: Rows<f32>,
    starts: &[f32],
    summary: &mut Summary,
) {
    let dim = codes.dim();
    let whole = starts.len() - starts.len() % sweep.codes;
    let (rows, last_rows) = codes.values().split_at(whole * dim);
    // The last codes in a block of their own, filled up by codes never chosen.
    let mut last_starts = starts[whole..].to_vec();
    let mut last_rows = last_rows.to_vec();
    if !last_starts.is_empty() {
        last_starts.resize(sweep.codes, f32::NEG_INFINITY);
        last_rows.resize(sweep.codes * dim, 0.0);
    }
    let first = (whole / sweep.codes) as u32;
    let last = Blocks { rows: &last_rows, starts: &last_starts, first };
    let whole = Blocks { rows, starts: &starts[..whole], first: 0 };
    for (i, tile) in tiles.chunks_exact(sweep.tile * dim).enumerate() {
        let start = i * sweep.tile;
        sweep.over(whole, tile, summary.tile(start, sweep.tile));
        sweep.over(last, tile, summary.tile(start, sweep.tile));
    }
}

fn write_tiles(rows: Rows<f32>, tile: usize, tiles: &mut Vec<f32>) {
    let dim = rows.dim();
    tiles.resize(rows.len().next_multiple_of(tile) * dim, 0.0);
    for (values, rows) in tiles.chunks_exact_mut(tile * dim).zip(rows.values().chunks(tile * dim)) {
        if rows.len() < values.len() {
            values.fill(0.0);
        }
        for (lane, row) in rows.chunks_exact(dim).enumerate() {
            for (values, value) in values.chunks_exact_mut(tile).zip(row) {
                values[lane] = *value;
            }
        }
    }
}

/// Whether so much of a tile would stay empty that multiplying rows is cheaper.
fn few_vectors(rows: Rows<f32>) -> bool {
    let dot_cost = rows.dim().div_ceil(REGISTER) + DOT_COST;
    rows.len() <= REGISTER && rows.len() * dot_cost < rows.dim()
}

/// The highest score of the codes of a block.
fn highest_score(dots: &[f32], starts: &[f32]) -> f32 {
    let max = |a: f32, b: f32| if b > a { b } else { a };
    let mut scores = [f32::NEG_INFINITY; SCORED_CODES];
    for (score, (dot, start)) in scores.iter_mut().zip(dots.iter().zip(starts)) {
        *score = start + dot;
    }
    let mut width = SCORED_CODES;
    while width > 1 {
        width /= 2;
        for i in 0..width {
            scores[i] = max(scores[i], scores[i + width]);
        }
    }
    scores[0]
}
