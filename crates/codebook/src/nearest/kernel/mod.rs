//! Scores of a group of vectors with a chunk of codes, reduced while they are in
//! registers to what the search needs: no matrix of scores is written out.

mod gemm;
mod group;
mod simd;

pub(super) use group::{Group, Summary};

use super::rows::Rows;
use simd::{Loops, TILE};

/// A multiple of the codes of a block, in all kernels.
pub(super) const BLOCKS_MULTIPLE: usize = 48;

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

    /// `None` for the kernel without own loops.
    fn loops(self) -> Option<Loops> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Some(simd::avx512::LOOPS),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Some(simd::avx2::LOOPS),
            Self::Portable => None,
        }
    }

    /// Codes of a block of [`Kernel::sweep`]; `None` if this kernel has none.
    fn block_codes(self) -> Option<usize> {
        self.loops().map(|loops| loops.block_codes)
    }

    /// `out[k] = vector . row k` for all rows, in f32.
    pub fn dots(self, vector: &[f32], rows: Rows<f32>, out: &mut [f32]) {
        assert!(vector.len() == rows.dim() && out.len() == rows.len());
        let mut out = out.chunks_exact_mut(4);
        let mut rows = rows.values().chunks_exact(4 * vector.len());
        for (out, rows) in out.by_ref().zip(rows.by_ref()) {
            // SAFETY: `available` lists only what the machine has; there are four rows.
            let four = self.loops().map(|loops| unsafe { (loops.four_dots)(vector, rows) });
            out.copy_from_slice(&four.unwrap_or_else(|| portable_dots(vector, rows)));
        }
        let rest = rows.remainder().chunks_exact(vector.len());
        for (out, row) in out.into_remainder().iter_mut().zip(rest) {
            // SAFETY: as above, for one row.
            let one = self.loops().map(|loops| unsafe { (loops.one_dot)(vector, row) });
            [*out] = one.unwrap_or_else(|| portable_dots(vector, row));
        }
    }

    /// `|row|^2` in f32; not finite if a value is not, or if the sum is too large.
    pub fn squared_norm(self, row: &[f32]) -> f32 {
        let mut norm = [0.0];
        self.dots(row, Rows::from_slice(row, row.len()), &mut norm);
        norm[0]
    }

    /// The sweep of [`simd`] of a tile over whole blocks.
    fn sweep(self, tile: &[f32], rows: &[f32], starts: &[f32], first_block: u32, seen: Seen) {
        let Some(loops) = self.loops() else { return };
        let Seen { best, second, block } = seen;
        let dim = tile.len() / TILE;
        assert!(tile.len() == dim * TILE && rows.len() == dim * starts.len());
        assert!(starts.len().is_multiple_of(loops.block_codes));
        assert!(best.len() == TILE && second.len() == TILE && block.len() == TILE);
        // SAFETY: `available` lists only what the machine has; the rest was asserted.
        unsafe { (loops.sweep)(tile, rows, dim, starts, first_block, best, second, block) }
    }
}

/// What was seen so far for the vectors of a tile: see [`Summary`].
struct Seen<'a> {
    best: &'a mut [f32],
    second: &'a mut [f32],
    block: &'a mut [u32],
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
