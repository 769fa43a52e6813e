//! Scores of a group of vectors with a chunk of codes, reduced while they are in
//! registers to what the search needs: no matrix of scores is written out.

mod gemm;
mod simd;

use super::rows::Rows;

/// A multiple of the codes of a block, in all kernels.
pub(super) const BLOCKS_MULTIPLE: usize = 48;
/// Codes of a block where scores are computed before they are compared.
const SCORED_CODES: usize = 16;
/// What the sum over the lanes of a register costs, in multiply-adds of registers.
const SUM_COST: usize = 8;

/// The inner loops, by instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Kernel {
    /// Those that this machine has the instructions for, fastest first.
    pub fn available() -> Vec<Self> {
        let mut kernels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                kernels.push(Self::Avx512);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                kernels.push(Self::Avx2);
            }
        }
        kernels.push(Self::Portable);
        kernels
    }

    /// The fastest on this machine.
    pub fn detect() -> Self {
        Self::available().first().copied().unwrap_or(Self::Portable)
    }

    /// Vectors of a register, and codes of a block; `None` without own kernel.
    fn block(self) -> Option<(usize, usize)> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Some((simd::avx512::LANES, simd::avx512::CODES)),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Some((simd::avx2::LANES, simd::avx2::CODES)),
            Self::Portable => None,
        }
    }

    /// `out[k] = vector . row k` for all rows, in f32.
    pub fn dots(self, vector: &[f32], rows: Rows<f32>, out: &mut [f32]) {
        assert!(vector.len() == rows.dim() && out.len() == rows.len());
        let mut values = rows.values();
        let mut out = out.chunks_exact_mut(4);
        for out in out.by_ref() {
            out.copy_from_slice(&self.dots_of::<4>(vector, values));
            values = &values[4 * vector.len()..];
        }
        for out in out.into_remainder() {
            [*out] = self.dots_of::<1>(vector, values);
            values = &values[vector.len()..];
        }
    }

    fn dots_of<const M: usize>(self, vector: &[f32], rows: &[f32]) -> [f32; M] {
        let rows = &rows[..M * vector.len()];
        // SAFETY: `available` lists only what the machine has; the slice has M rows.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Self::Avx512 => simd::avx512::dots(vector, rows),
                #[cfg(target_arch = "x86_64")]
                Self::Avx2 => simd::avx2::dots(vector, rows),
                Self::Portable => portable_dots(vector, rows),
            }
        }
    }

    /// [`simd`]'s `sweep` over whole blocks.
    fn sweep(self, tile: &[f32], rows: &[f32], starts: &[f32], first: u32, lanes: Lanes) {
        let Some((width, codes)) = self.block() else { return };
        let Lanes { best, second, block } = lanes;
        let registers = best.len() / width;
        assert!(best.len() == registers * width && starts.len().is_multiple_of(codes));
        assert!(second.len() == best.len() && block.len() == best.len());
        let dim = tile.len() / best.len();
        assert!(rows.len() == dim * starts.len());
        // SAFETY: `available` lists only what the machine has; the rest was asserted.
        unsafe {
            match (self, registers) {
                #[cfg(target_arch = "x86_64")]
                (Self::Avx512, 2) => {
                    simd::avx512::sweep::<2>(tile, rows, dim, starts, first, best, second, block)
                }
                #[cfg(target_arch = "x86_64")]
                (Self::Avx512, _) => {
                    simd::avx512::sweep::<1>(tile, rows, dim, starts, first, best, second, block)
                }
                #[cfg(target_arch = "x86_64")]
                (Self::Avx2, 2) => {
                    simd::avx2::sweep::<2>(tile, rows, dim, starts, first, best, second, block)
                }
                #[cfg(target_arch = "x86_64")]
                (Self::Avx2, _) => {
                    simd::avx2::sweep::<1>(tile, rows, dim, starts, first, best, second, block)
                }
                (Self::Portable, _) => {}
            }
        }
    }
}

/// Partial sums of [`portable_dots`].
const LANES: usize = 16;

fn portable_dots<const M: usize>(vector: &[f32], rows: &[f32]) -> [f32; M] {
    std::array::from_fn(|m| {
        let mut sums = [0.0; LANES];
        let row = &rows[m * vector.len()..][..vector.len()];
        let (mut a, mut b) = (vector.chunks_exact(LANES), row.chunks_exact(LANES));
        for (a, b) in a.by_ref().zip(b.by_ref()) {
            for lane in 0..LANES {
                sums[lane] += a[lane] * b[lane];
            }
        }
        let rest = a.remainder().iter().zip(b.remainder());
        sums.iter().sum::<f32>() + rest.map(|(a, b)| a * b).sum::<f32>()
    })
}

/// What the codes of a chunk are to each vector of a group. Codes are seen in
/// *blocks*; the score of a block is the highest of its codes' scores.
pub(super) struct Summary {
    /// The highest score.
    pub best: Vec<f32>,
    /// The highest score of the other blocks; `-inf` if there are none.
    pub second: Vec<f32>,
    /// The block of the highest score, counted from the start of the chunk.
    pub block: Vec<u32>,
}

impl Summary {
    /// For a group, before any code was seen.
    pub fn new(group: &Group) -> Self {
        let len = group.lanes();
        let lowest = || vec![f32::NEG_INFINITY; len];
        Self { best: lowest(), second: lowest(), block: vec![0; len] }
    }

    fn reset(&mut self) {
        self.best.fill(f32::NEG_INFINITY);
        self.second.fill(f32::NEG_INFINITY);
        self.block.fill(0);
    }

    fn range(&mut self, start: usize, end: usize) -> Lanes<'_> {
        Lanes {
            best: &mut self.best[start..end],
            second: &mut self.second[start..end],
            block: &mut self.block[start..end],
        }
    }
}

/// Some vectors of a [`Summary`].
struct Lanes<'a> {
    best: &'a mut [f32],
    second: &'a mut [f32],
    block: &'a mut [u32],
}

/// Vectors that are compared with the same codes, one chunk of them after the other.
pub(super) struct Group<'a> {
    kernel: Kernel,
    rows: Rows<'a, f32>,
    /// The vectors in tiles; empty where whole rows are multiplied instead.
    tiles: Vec<f32>,
}

impl<'a> Group<'a> {
    pub fn new(kernel: Kernel, rows: Rows<'a, f32>) -> Self {
        let mut group = Self { kernel, rows, tiles: Vec::new() };
        if let Some((width, _)) = kernel.block()
            && !few_vectors(rows, width)
        {
            let len = rows.len().next_multiple_of(width);
            group.tiles = vec![0.0; len * rows.dim()];
            for (tile, (start, end)) in tiles(len, width).enumerate() {
                debug_assert!(tile * 2 * width == start);
                let lanes = end - start;
                let values = &mut group.tiles[start * rows.dim()..end * rows.dim()];
                for (lane, vector) in rows.iter().skip(start).take(lanes).enumerate() {
                    for (value, tile) in vector.iter().zip(values.chunks_exact_mut(lanes)) {
                        tile[lane] = *value;
                    }
                }
            }
        }
        group
    }

    /// Codes of a block.
    pub fn block_codes(&self) -> usize {
        match self.kernel.block() {
            Some((_, codes)) if !self.tiles.is_empty() => codes,
            _ => SCORED_CODES,
        }
    }

    fn lanes(&self) -> usize {
        if self.tiles.is_empty() { self.rows.len() } else { self.tiles.len() / self.rows.dim() }
    }

    /// Summarises the chunk: the score of code `k` is `starts[k] + vector . codes[k]`.
    pub fn sweep(&self, codes: Rows<f32>, starts: &[f32], summary: &mut Summary) {
        summary.reset();
        match self.kernel.block() {
            Some((width, block)) if !self.tiles.is_empty() => {
                self.sweep_tiles((width, block), codes, starts, summary);
            }
            _ => self.sweep_scores(codes, starts, summary),
        }
    }

    fn sweep_tiles(
        &self,
        (width, block): (usize, usize),
        codes: Rows<f32>,
        starts: &[f32],
        summary: &mut Summary,
    ) {
        let dim = self.rows.dim();
        let whole = starts.len() - starts.len() % block;
        // The last codes in a block of their own, filled up by codes never chosen.
        let mut last_starts = vec![f32::NEG_INFINITY; block];
        last_starts[..starts.len() - whole].copy_from_slice(&starts[whole..]);
        let mut last = codes.values()[whole * dim..].to_vec();
        last.resize(block * dim, 0.0);
        for (start, end) in tiles(self.lanes(), width) {
            let tile = &self.tiles[start * dim..end * dim];
            let rows = &codes.values()[..whole * dim];
            self.kernel.sweep(tile, rows, &starts[..whole], 0, summary.range(start, end));
            if whole < starts.len() {
                let number = (whole / block) as u32;
                self.kernel.sweep(tile, &last, &last_starts, number, summary.range(start, end));
            }
        }
    }

    fn sweep_scores(&self, codes: Rows<f32>, starts: &[f32], summary: &mut Summary) {
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

/// Whether so many registers of a tile would stay empty that it is cheaper to
/// multiply whole rows.
fn few_vectors(rows: Rows<f32>, width: usize) -> bool {
    let row_cost = rows.dim().div_ceil(width) + SUM_COST;
    rows.len() <= width && rows.len() * row_cost < rows.dim()
}

/// Ranges of `len` lanes, two registers of `width` each, the last possibly one.
fn tiles(len: usize, width: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..len).step_by(2 * width).map(move |start| (start, (start + 2 * width).min(len)))
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
