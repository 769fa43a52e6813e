//! The quantizer of LlamaGen (after ViT-VQGAN): the nearest row on the unit sphere.

use candle_core::{D, Tensor};
use candle_nn::{Init, VarBuilder};

use crate::assign::{self, Assignment, codebook_dims};
use crate::entropy::entropy_loss;
use crate::feature_map::{self, FeatureMap, precise};
use crate::nearest::Watch;
use crate::{CodeGrid, Losses, Quantized, Quantizer, Result};

const OP: &str = "normalized quantizer";
/// The smallest norm divided by, as in torch's `F.normalize`.
const EPS: f64 = 1e-12;
/// The temperature of the entropy loss in LlamaGen's `compute_entropy_loss`.
const ENTROPY_TEMPERATURE: f64 = 0.01;

/// The nearest row after both vectors and rows are scaled to length one
/// (LlamaGen `VectorQuantizer` with `l2_norm`).
///
/// Rows drift off the sphere in training and are not of unit length on disk:
/// they are normalised at each use. Embeddings are normalised rows, and the
/// straight-through gradient goes to the *normalised* vectors.
#[derive(Clone, Debug)]
pub struct NormalizedQuantizer {
    codebook: Tensor,
    len: usize,
    dim: usize,
    beta: f64,
    entropy_ratio: f64,
}

impl NormalizedQuantizer {
    /// A quantizer over `codebook` `[K, D]`, rows of any length.
    ///
    /// The loss is `codebook + beta * commitment + entropy_ratio * entropy`
    /// ([`entropy_loss`] of the negative squared distances). The last costs
    /// several `[N, K]` matrices and is left out when its ratio is 0.
    pub fn new(codebook: Tensor, beta: f64, entropy_ratio: f64) -> Result<Self> {
        let (len, dim) = codebook_dims(OP, &codebook)?;
        Ok(Self { codebook, len, dim, beta, entropy_ratio })
    }

    /// A quantizer of `len` codes of length `dim` at `embedding.weight`.
    ///
    /// The reference draws rows from a cube and normalises them; a normal
    /// distribution with variance `1/dim` gives directions without the cube's
    /// corners, and about the same unit length.
    pub fn load(
        len: usize,
        dim: usize,
        beta: f64,
        entropy_ratio: f64,
        vb: VarBuilder,
    ) -> Result<Self> {
        let init = Init::Randn { mean: 0.0, stdev: (dim as f64).powf(-0.5) };
        let codebook = vb.get_with_hints((len, dim), "embedding.weight", init)?;
        Self::new(codebook, beta, entropy_ratio)
    }

    /// The codebook as it is stored, `[K, D]`, rows of any length.
    pub fn codebook(&self) -> &Tensor {
        &self.codebook
    }

    /// The vectors of `z` `[B, D, H, W]` on the sphere.
    pub(crate) fn normalized_map(&self, z: &Tensor) -> Result<FeatureMap> {
        let map = FeatureMap::new(OP, z, self.dim)?;
        Ok(FeatureMap { vectors: normalize_rows(&map.vectors)?, ..map })
    }

    /// The rows that vectors are compared with and that are given out, `[K, D]`, of
    /// length one (but for rows of zeros), in f32 or wider.
    pub fn unit_codebook(&self) -> Result<Tensor> {
        Ok(normalize_rows(&precise(&self.codebook)?)?)
    }
}

/// Rows of `x` `[N, D]` scaled to length one: `x / max(|x|, eps)`.
fn normalize_rows(x: &Tensor) -> candle_core::Result<Tensor> {
    // The maximum is taken of squares, so that the gradient of the root at a
    // zero row is finite.
    let norm = x.sqr()?.sum_keepdim(D::Minus1)?.maximum(EPS * EPS)?.sqrt()?;
    x.broadcast_div(&norm)
}

/// `-|z - e|^2` for all pairs of `vectors` `[N, D]` and rows of `codebook`
/// `[K, D]`: `[N, K]`, with gradients to both.
fn affinity(vectors: &Tensor, codebook: &Tensor) -> candle_core::Result<Tensor> {
    let of_vectors = vectors.sqr()?.sum_keepdim(1)?;
    let of_codes = codebook.sqr()?.sum(1)?.unsqueeze(0)?;
    let products = vectors.matmul(&codebook.t()?)?;
    (products * 2.0)?.broadcast_sub(&of_vectors.broadcast_add(&of_codes)?)
}

impl NormalizedQuantizer {
    fn quantize_with(&self, z: &Tensor, watch: Watch) -> Result<Quantized> {
        let map = self.normalized_map(z)?;
        let codebook = self.unit_codebook()?.to_dtype(map.vectors.dtype())?;
        let assigned = Assignment::new(OP, map, &codebook, watch)?;
        let mut losses = Losses::new(assigned.vectors(), assigned.rows(), 1.0, self.beta)?;
        if self.entropy_ratio != 0.0 {
            let affinity = affinity(assigned.vectors(), &codebook)?;
            let extra = (entropy_loss(&affinity, ENTROPY_TEMPERATURE)? * self.entropy_ratio)?;
            losses.total = (losses.total + &extra)?;
            losses.extra = Some(extra);
        }
        assigned.quantized(losses)
    }
}

impl Quantizer for NormalizedQuantizer {
    fn quantize(&self, z: &Tensor) -> Result<Quantized> {
        self.quantize_with(z, Watch::Wait)
    }

    fn quantize_without_waiting(&self, z: &Tensor) -> Result<Quantized> {
        self.quantize_with(z, Watch::Trust)
    }

    fn codes(&self, z: &Tensor) -> Result<CodeGrid> {
        let map = self.normalized_map(&z.detach())?;
        assign::codes(&map, &self.unit_codebook()?.detach())
    }

    fn embed(&self, codes: &CodeGrid) -> Result<Tensor> {
        let rows = self.unit_codebook()?;
        Ok(feature_map::embed(&rows, codes)?.to_dtype(self.codebook.dtype())?)
    }

    fn len(&self) -> usize {
        self.len
    }

    fn dim(&self) -> usize {
        self.dim
    }
}
