//! Scores of a group of vectors with a chunk of codes, reduced while they are in
//! registers to what the search needs: no matrix of scores is written out.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
#[cfg(target_arch = "x86_64")]
mod fixed;
mod gemm;
mod group;
mod simd;

pub(super) use group::{Group, Summary};

use super::rows::Rows;
use simd::{Blocks, Loops, Seen, Sweep};

/// A multiple of the codes of a block, in all kernels.
pub(super) const BLOCKS_MULTIPLE: usize = 48;

/// From here on a coarse sweep pays for rounding the codes once per group.
const COARSE_VECTORS: usize = 64;
/// Below, a block is over too soon for half the products to matter.
const COARSE_DIM: usize = 24;

/// The inner loops, by instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    /// AVX-512 that also multiplies tiles of bf16.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Amx,
    /// AVX-512 that also multiplies bf16.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
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
            #[cfg(target_os = "linux")]
            if amx::is_available() {
                kernels.push(Self::Amx);
            }
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16") {
                kernels.push(Self::Avx512Bf16);
            }
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
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Self::Amx => Some(amx::loops()),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => Some(simd::avx512bf16::LOOPS),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Some(simd::avx512::LOOPS),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Some(simd::avx2::LOOPS),
            Self::Portable => None,
        }
    }

    /// The sweep, or the coarse one; `None` if this kernel has none.
    fn sweep(self, coarse: bool) -> Option<Sweep> {
        let loops = self.loops()?;
        if coarse { loops.coarse.map(|coarse| coarse.sweep) } else { Some(loops.sweep) }
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

    /// Whether a coarse sweep pays for this many vectors, if this kernel has one.
    pub fn has_coarse(self, vectors: usize, dim: usize) -> bool {
        let coarse = self.loops().is_some_and(|loops| loops.coarse.is_some());
        coarse && vectors >= COARSE_VECTORS && dim >= COARSE_DIM
    }

    /// Rounds rows to pairs for the coarse sweep, filled up with zeros to what that reads.
    /// Calls `lost` with the squared norm of what rounding took from each row.
    pub fn round<'a>(
        self,
        rows: Rows<f32>,
        pairs: &'a mut Vec<f32>,
        mut lost: impl FnMut(f32),
    ) -> Rows<'a, f32> {
        let used = rows.dim().div_ceil(2);
        let Some(coarse) = self.loops().and_then(|loops| loops.coarse) else {
            return Rows::from_slice(&[], used);
        };
        let used = used + coarse.units;
        let len = used.next_multiple_of(coarse.multiple);
        pairs.resize(rows.len() * len, 0.0);
        for (row, pairs) in rows.iter().zip(pairs.chunks_exact_mut(len)) {
            let (pairs, rest) = pairs.split_at_mut(used);
            rest.fill(0.0);
            // SAFETY: `available` lists only what the machine has.
            lost(unsafe { (coarse.round)(row, pairs) });
        }
        Rows::from_slice(pairs, len)
    }
}

impl Sweep {
    /// Goes over whole blocks: see [`simd`].
    fn over(self, codes: Blocks, tile: &[f32], seen: Seen) {
        let dim = tile.len() / self.tile;
        assert!(tile.len() == dim * self.tile && codes.rows.len() == dim * codes.starts.len());
        assert!(codes.starts.len().is_multiple_of(self.codes) && seen.best.len() == self.tile);
        assert!(seen.second.len() == self.tile && seen.block.len() == self.tile);
        // SAFETY: `available` lists only what the machine has; the rest was asserted.
        unsafe { (self.run)(tile, dim, codes, seen) }
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
