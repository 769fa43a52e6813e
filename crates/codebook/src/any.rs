//! The quantizer that a configuration chose.

use candle_core::Tensor;

use crate::feature_map::FeatureMap;
use crate::{
    CodeGrid, EmaQuantizer, EuclideanQuantizer, GumbelQuantizer, NormalizedQuantizer, Quantized,
    Quantizer, Result,
};

/// One of the quantizers, built by [`QuantizerConfig::build`](crate::QuantizerConfig::build).
#[derive(Clone, Debug)]
pub enum AnyQuantizer {
    /// The nearest row.
    Euclidean(EuclideanQuantizer),
    /// The nearest row on the unit sphere.
    Normalized(NormalizedQuantizer),
    /// The arg-max of a projection.
    Gumbel(GumbelQuantizer),
    /// The nearest row, rows by moving averages.
    Ema(EmaQuantizer),
}

impl AnyQuantizer {
    fn inner(&self) -> &dyn Quantizer {
        match self {
            Self::Euclidean(quantizer) => quantizer,
            Self::Normalized(quantizer) => quantizer,
            Self::Gumbel(quantizer) => quantizer,
            Self::Ema(quantizer) => quantizer,
        }
    }

    /// The codebook as it is stored, `[K, D]`.
    pub fn codebook(&self) -> &Tensor {
        match self {
            Self::Euclidean(quantizer) => quantizer.codebook(),
            Self::Normalized(quantizer) => quantizer.codebook(),
            Self::Gumbel(quantizer) => quantizer.codebook(),
            Self::Ema(quantizer) => &quantizer.state().codebook,
        }
    }

    /// The key of the codebook, below the quantizer's own.
    pub fn codebook_key(&self) -> &'static str {
        match self {
            Self::Gumbel(_) => "embed.weight",
            Self::Ema(_) => EmaQuantizer::KEYS[0],
            Self::Euclidean(_) | Self::Normalized(_) => "embedding.weight",
        }
    }

    /// The keys of tensors that no optimiser may touch.
    pub fn buffer_keys(&self) -> &'static [&'static str] {
        match self {
            Self::Ema(_) => &EmaQuantizer::KEYS,
            _ => &[],
        }
    }

    /// The vectors of `z` `[B, D, H, W]` that could replace rows of the
    /// codebook: `[B * H * W, D]`, detached, of unit length where the search is
    /// on the sphere. `None` for Gumbel, whose rows live in another space.
    pub fn revival_vectors(&self, z: &Tensor) -> Result<Option<Tensor>> {
        let z = z.detach();
        let map = match self {
            Self::Gumbel(_) => return Ok(None),
            Self::Normalized(quantizer) => quantizer.normalized_map(&z)?,
            _ => FeatureMap::new("code revival", &z, self.dim())?,
        };
        Ok(Some(map.vectors))
    }
}

impl Quantizer for AnyQuantizer {
    fn quantize(&self, z: &Tensor) -> Result<Quantized> {
        self.inner().quantize(z)
    }

    fn quantize_without_waiting(&self, z: &Tensor) -> Result<Quantized> {
        self.inner().quantize_without_waiting(z)
    }

    fn codes(&self, z: &Tensor) -> Result<CodeGrid> {
        self.inner().codes(z)
    }

    fn embed(&self, codes: &CodeGrid) -> Result<Tensor> {
        self.inner().embed(codes)
    }

    fn len(&self) -> usize {
        self.inner().len()
    }

    fn dim(&self) -> usize {
        self.inner().dim()
    }
}
