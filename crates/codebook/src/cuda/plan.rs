//! How a search is cut into blocks of threads.

/// Codes of a tile: `TILE` in `facts.cuh`.
pub(super) const TILE: usize = 256;
/// Candidates of a vector in a part: `CANDIDATES` in `facts.cuh`.
pub(super) const CANDIDATES: usize = 32;
/// Dimensions of a block of the tensor cores' image.
const CHUNK: usize = 64;
/// Dimensions of a product of the tensor cores.
const STEP: usize = 16;
/// Vectors of a block of `sweep_tensor.cu`.
const ROWS: usize = 128;
/// Codes on their way, as in `sweep_tensor.cu`.
const MOST_STAGES: usize = 8;
/// Tiles whose starts are kept, as there.
const START_BUFFERS: usize = 10;
/// Up to so many dimensions of few vectors the scalar sweep has in registers.
const FEW: usize = 32;
/// Up to so many tensor cores would multiply nearly nothing but zeros.
const FEWEST: usize = 4;
/// More dimensions do not fit into shared memory.
const MOST: usize = 512;
/// Shared memory of a block on Hopper, less what the kernel has by itself.
const SHARED_BYTES: usize = 232_448 - 1024;
/// Parts of the codebook, at most.
const MOST_PARTS: usize = 64;

/// Which kernel goes over the codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sweep {
    /// `sweep_few_4` to `sweep_few_32`: `dim` dimensions, zeros included, `per` vectors a
    /// thread.
    Few { dim: usize, per: usize },
    /// `sweep_many`.
    Many,
    /// `sweep_tensor_1` and `_4`: `steps` of 16 dimensions in each of so many chunks of 64,
    /// so many of codes on their way.
    Tensor { steps: usize, chunks: usize, stages: usize },
}

impl Sweep {
    /// For `dim` dimensions; `tensor`: whether the tensor-core sweep can run here.
    pub fn choose(dim: usize, tensor: bool) -> Self {
        if tensor && (FEWEST + 1..=MOST).contains(&dim) {
            let chunks = dim.div_ceil(CHUNK);
            let steps = if dim <= STEP { 1 } else { CHUNK / STEP };
            let fits = |stages: &usize| shared_bytes(chunks, *stages) <= SHARED_BYTES;
            let stages = (2..=MOST_STAGES).rfind(fits).unwrap_or(2);
            return Self::Tensor { steps, chunks, stages };
        }
        match dim {
            0..=4 => Self::Few { dim: 4, per: 4 },
            5..=8 => Self::Few { dim: 8, per: 4 },
            9..=16 => Self::Few { dim: 16, per: 4 },
            17..=FEW => Self::Few { dim: 32, per: 2 },
            _ => Self::Many,
        }
    }

    /// Vectors of a block.
    pub fn vectors(self) -> usize {
        match self {
            Self::Few { per, .. } => 128 * per,
            Self::Many => 64,
            Self::Tensor { .. } => ROWS,
        }
    }

    /// Threads of a block.
    pub fn threads(self) -> u32 {
        match self {
            Self::Few { .. } => 128,
            Self::Many => 256,
            Self::Tensor { .. } => 384,
        }
    }

    /// Blocks that a multiprocessor runs at a time, about.
    fn resident(self) -> usize {
        match self {
            Self::Few { .. } => 4,
            Self::Many => 2,
            Self::Tensor { .. } => 1,
        }
    }

    /// Dynamic shared memory of a block.
    pub fn shared(self) -> usize {
        match self {
            Self::Tensor { chunks, stages, .. } => shared_bytes(chunks, stages),
            _ => 0,
        }
    }

    /// Dimensions of a row of the image, 0 where there is none.
    pub fn image_dim(self) -> usize {
        match self {
            Self::Tensor { chunks, .. } => chunks * CHUNK,
            _ => 0,
        }
    }

    /// Into how many parts the codebook is cut, so that `vectors` keep all of
    /// `multiprocessors` busy.
    pub fn parts(self, vectors: usize, codes: usize, multiprocessors: usize) -> usize {
        let blocks = vectors.div_ceil(self.vectors());
        let slots = multiprocessors.max(1) * self.resident();
        let tiles = codes.div_ceil(TILE);
        // The time in tiles, and one more for what each part costs.
        let time = |parts: usize| (blocks * parts).div_ceil(slots) * (tiles.div_ceil(parts) + 1);
        (1..=tiles.clamp(1, MOST_PARTS)).min_by_key(|parts| time(*parts)).unwrap_or(1)
    }
}

/// Vectors, codes on their way, the codes' starts, and room to begin at a multiple of
/// 1024.
fn shared_bytes(chunks: usize, stages: usize) -> usize {
    let vectors = chunks * ROWS * CHUNK * 2;
    vectors + stages * TILE * CHUNK * 2 + START_BUFFERS * TILE * 4 + 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dimension_fits_into_shared_memory() {
        for dim in 1..=600 {
            let sweep = Sweep::choose(dim, true);
            assert!(sweep.shared() <= SHARED_BYTES, "{dim}");
            assert_eq!(matches!(sweep, Sweep::Tensor { .. }), (5..=512).contains(&dim), "{dim}");
            assert!(!matches!(Sweep::choose(dim, false), Sweep::Tensor { .. }));
        }
        let tensor = |steps, chunks, stages| Sweep::Tensor { steps, chunks, stages };
        assert_eq!(Sweep::choose(256, true), tensor(4, 4, 4));
        assert_eq!(Sweep::choose(512, true), tensor(4, 8, 2));
        assert_eq!(Sweep::choose(8, true), tensor(1, 1, 6));
    }

    #[test]
    fn few_vectors_share_out_the_codes() {
        let sweep = Sweep::choose(256, true);
        assert_eq!(sweep.parts(65536, 16384, 132), 1);
        assert!((33..=64).contains(&sweep.parts(256, 16384, 132)));
        assert_eq!(sweep.parts(256, 200, 132), 1);
        assert_eq!(sweep.parts(1, 1, 0), 1);
    }
}
