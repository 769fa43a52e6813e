//! The quantizer of the Gumbel VQGAN: codes by a projection.

mod noise;
mod sample;
mod schedule;

pub use noise::gumbel_noise;
pub use schedule::TemperatureSchedule;

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};

use crate::assign::codebook_dims;
use crate::feature_map::{self, FeatureMap, precise};
use crate::{CodeGrid, Error, Quantized, Quantizer, Result, argmax_rows};

const OP: &str = "gumbel quantizer";
/// Logits held at once in inference: 16 MiB of f32.
const CHUNK_LOGITS: usize = 4 << 20;

/// Codes are the arg-max of `logits = proj(z)`; in training, a Gumbel-softmax
/// sample of them (taming `GumbelQuantize`; Jang et al. 2016).
///
/// The reference draws noise in evaluation too, so that its codes are random;
/// here [`codes`](Quantizer::codes) and [`quantize`](Quantizer::quantize) are
/// without noise, and training calls [`sample`](Self::sample).
#[derive(Clone, Debug)]
pub struct GumbelQuantizer {
    codebook: Tensor,
    /// `[K, features, 1, 1]`.
    weight: Tensor,
    /// `[K]`.
    bias: Tensor,
    kl_weight: f64,
    straight_through: bool,
}

impl GumbelQuantizer {
    /// A quantizer over `codebook` `[K, D]` with the 1x1 convolution `weight`
    /// `[K, features, 1, 1]` and `bias` `[K]` that gives the logits.
    pub fn new(
        codebook: Tensor,
        weight: Tensor,
        bias: Tensor,
        kl_weight: f64,
        straight_through: bool,
    ) -> Result<Self> {
        let (len, _) = codebook_dims(OP, &codebook)?;
        let shape_error = |what, tensor: &Tensor, expected| {
            Err(Error::Shape { op: OP, what, shape: tensor.dims().to_vec(), expected })
        };
        if !matches!(*weight.dims(), [k, features, 1, 1] if k == len && features > 0) {
            let expected = format!("[{len}, features, 1, 1]");
            return shape_error("projection weight", &weight, expected);
        }
        if *bias.dims() != [len] {
            return shape_error("projection bias", &bias, format!("[{len}]"));
        }
        Ok(Self { codebook, weight, bias, kl_weight, straight_through })
    }

    /// A quantizer of `len` codes of length `dim` over maps of `features`
    /// channels, at `embed.weight`, `proj.weight` and `proj.bias`, initialised
    /// as torch's `Embedding` and `Conv2d`.
    pub fn load(
        len: usize,
        dim: usize,
        features: usize,
        kl_weight: f64,
        straight_through: bool,
        vb: VarBuilder,
    ) -> Result<Self> {
        let bound = (features as f64).powf(-0.5);
        let uniform = Init::Uniform { lo: -bound, up: bound };
        let normal = Init::Randn { mean: 0.0, stdev: 1.0 };
        let codebook = vb.get_with_hints((len, dim), "embed.weight", normal)?;
        let weight = vb.get_with_hints((len, features, 1, 1), "proj.weight", uniform)?;
        let bias = vb.get_with_hints(len, "proj.bias", uniform)?;
        Self::new(codebook, weight, bias, kl_weight, straight_through)
    }

    /// The codebook, `[K, D]`.
    pub fn codebook(&self) -> &Tensor {
        &self.codebook
    }

    /// The channels of the maps that it quantizes.
    pub fn features(&self) -> usize {
        self.weight.dims()[1]
    }

    /// Whether training samples are hard (one code), as configured.
    pub fn straight_through(&self) -> bool {
        self.straight_through
    }

    /// `proj` of `vectors` `[N, features]`: `[N, K]`.
    fn logits(&self, vectors: &Tensor) -> Result<Tensor> {
        // Flattened at each use: a copy made once would miss the optimiser's steps.
        let weight = self.weight.flatten_from(1)?;
        let weight = precise(&weight)?.to_dtype(vectors.dtype())?;
        let bias = precise(&self.bias)?.to_dtype(vectors.dtype())?;
        Ok(vectors.matmul(&weight.t()?)?.broadcast_add(&bias)?)
    }
}

impl Quantizer for GumbelQuantizer {
    /// The sample without noise at temperature 1, hard: `z` is
    /// `[B, features, H, W]`. Training wants [`GumbelQuantizer::sample`].
    fn quantize(&self, z: &Tensor) -> Result<Quantized> {
        self.sample_with(z, 1.0, true, None)
    }

    fn codes(&self, z: &Tensor) -> Result<CodeGrid> {
        let map = FeatureMap::new(OP, &z.detach(), self.features())?;
        let count = map.vectors.dim(0)?;
        let step = (CHUNK_LOGITS / self.len()).max(1);
        let mut codes = Vec::with_capacity(count);
        for start in (0..count).step_by(step) {
            let vectors = map.vectors.narrow(0, start, step.min(count - start))?;
            codes.extend(argmax_rows(&self.logits(&vectors)?)?.to_vec1::<u32>()?);
        }
        map.grid(&Tensor::new(codes, z.device())?)
    }

    fn embed(&self, codes: &CodeGrid) -> Result<Tensor> {
        feature_map::embed(&self.codebook, codes)
    }

    fn len(&self) -> usize {
        self.codebook.dims()[0]
    }

    fn dim(&self) -> usize {
        self.codebook.dims()[1]
    }
}
