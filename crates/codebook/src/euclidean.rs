//! The quantizer of VQ-VAE and VQGAN: the nearest row, trained by gradient.

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};

use crate::assign::{self, Assignment, codebook_dims};
use crate::feature_map::{self, FeatureMap};
use crate::nearest::Watch;
use crate::{CodeGrid, Losses, Quantized, Quantizer, Result};

const OP: &str = "euclidean quantizer";

/// The nearest row in Euclidean distance (taming `VectorQuantizer2`, and
/// `VectorQuantizer`, which computes the same).
#[derive(Clone, Debug)]
pub struct EuclideanQuantizer {
    codebook: Tensor,
    len: usize,
    dim: usize,
    codebook_weight: f64,
    commitment_weight: f64,
}

impl EuclideanQuantizer {
    /// A quantizer over `codebook` `[K, D]`.
    ///
    /// The loss is `codebook + beta * commitment` (van den Oord et al. 2017,
    /// eq. 3), or with `legacy_beta` what the reference computes and every
    /// published model was trained with: `beta * codebook + commitment`.
    pub fn new(codebook: Tensor, beta: f64, legacy_beta: bool) -> Result<Self> {
        let (len, dim) = codebook_dims(OP, &codebook)?;
        let (codebook_weight, commitment_weight) =
            if legacy_beta { (beta, 1.0) } else { (1.0, beta) };
        Ok(Self { codebook, len, dim, codebook_weight, commitment_weight })
    }

    /// A quantizer of `len` codes of length `dim` at `embedding.weight`,
    /// initialised as `U(-1/len, 1/len)`.
    pub fn load(
        len: usize,
        dim: usize,
        beta: f64,
        legacy_beta: bool,
        vb: VarBuilder,
    ) -> Result<Self> {
        let bound = 1.0 / len as f64;
        let init = Init::Uniform { lo: -bound, up: bound };
        let codebook = vb.get_with_hints((len, dim), "embedding.weight", init)?;
        Self::new(codebook, beta, legacy_beta)
    }

    /// The codebook, `[K, D]`.
    pub fn codebook(&self) -> &Tensor {
        &self.codebook
    }
}

impl EuclideanQuantizer {
    fn quantize_with(&self, z: &Tensor, watch: Watch) -> Result<Quantized> {
        let assigned =
            Assignment::new(OP, FeatureMap::new(OP, z, self.dim)?, &self.codebook, watch)?;
        let losses = Losses::new(
            assigned.vectors(),
            assigned.rows(),
            self.codebook_weight,
            self.commitment_weight,
        )?;
        assigned.quantized(losses)
    }
}

impl Quantizer for EuclideanQuantizer {
    fn quantize(&self, z: &Tensor) -> Result<Quantized> {
        self.quantize_with(z, Watch::Wait)
    }

    fn quantize_without_waiting(&self, z: &Tensor) -> Result<Quantized> {
        self.quantize_with(z, Watch::Trust)
    }

    fn codes(&self, z: &Tensor) -> Result<CodeGrid> {
        assign::codes(&FeatureMap::new(OP, &z.detach(), self.dim)?, &self.codebook)
    }

    fn embed(&self, codes: &CodeGrid) -> Result<Tensor> {
        feature_map::embed(&self.codebook, codes)
    }

    fn len(&self) -> usize {
        self.len
    }

    fn dim(&self) -> usize {
        self.dim
    }
}
