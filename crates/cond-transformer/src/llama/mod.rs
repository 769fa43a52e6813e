//! The LLaMA-style transformer of LlamaGen (`autoregressive/models/gpt.py`).

mod block;
mod config;
mod learn;
mod next_code;
mod prefix;
mod rotary;

use std::cell::RefCell;
use std::collections::BTreeMap;

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Tensor};
use candle_nn::{Embedding, Module, VarBuilder};

pub use config::{LlamaConfig, PrefixConfig};

use self::block::Block;
use self::prefix::Prefix;
use crate::condition::check_tokens;
use crate::decoder::Pass;
use crate::linear::{INIT, Linear, Matrices, linear_no_bias};
use crate::norm::{RmsNorm, rms_norm};
use crate::{BlockMatrices, Conditions, Error, KvCache, Result, WeightFormat};

/// A decoder with rotary positions on a grid, RMS norm, SwiGLU, no biases, behind
/// the embedding of a class or of a caption.
#[derive(Clone, Debug)]
pub struct Llama {
    config: LlamaConfig,
    prefix: Prefix,
    tok_embeddings: Embedding,
    layers: Vec<Block>,
    norm: RmsNorm,
    output: Linear,
    rotary: (Tensor, Tensor),
    device: Device,
}

impl Llama {
    /// Reads the reference's keys from `vb`: `cls_embedding.*`,
    /// `tok_embeddings.weight`, `layers.{i}.*`, `norm.weight`, `output.weight`.
    ///
    /// # Errors
    /// If the configuration is out of bounds or a tensor is missing.
    pub fn new(config: &LlamaConfig, vb: VarBuilder) -> Result<Self> {
        Self::read(config, Matrices::Made(WeightFormat::F32), vb)
    }

    /// [`Self::new`] with weights kept as `format`, whatever they are stored as: matrix by
    /// matrix, so that the whole is never in memory twice.
    ///
    /// # Errors
    /// As [`Self::new`], or for blocks elsewhere than on the CPU.
    pub fn with_format(config: &LlamaConfig, format: WeightFormat, vb: VarBuilder) -> Result<Self> {
        format.validate(vb.device())?;
        Self::read(config, Matrices::Made(format), vb.to_dtype(format.dtype()))
    }

    /// [`Self::new`] with `matrices` in blocks, all else from `vb`, in f32.
    ///
    /// # Errors
    /// As [`Self::with_format`], or for a matrix of another shape.
    pub fn with_blocks(
        config: &LlamaConfig,
        matrices: &BlockMatrices,
        vb: VarBuilder,
    ) -> Result<Self> {
        WeightFormat::Q8.validate(vb.device())?;
        Self::read(config, Matrices::Stored(matrices), vb.to_dtype(DType::F32))
    }

    /// The names of the matrices that [`Self::with_format`] keeps in blocks, and in which.
    /// It asks `vb` for all weights, and looks at none.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn block_names(
        config: &LlamaConfig,
        format: WeightFormat,
        vb: VarBuilder,
    ) -> Result<BTreeMap<String, GgmlDType>> {
        let names = RefCell::default();
        Self::read(config, Matrices::Noted(format, &names), vb)?;
        Ok(names.into_inner())
    }

    /// In the dtype of `vb`, but for matrices in blocks.
    fn read(config: &LlamaConfig, matrices: Matrices<'_>, vb: VarBuilder) -> Result<Self> {
        config.validate()?;
        let LlamaConfig { vocab_size, dim, n_layer, norm_eps, .. } = *config;
        let table = vb.pp("tok_embeddings").get_with_hints((vocab_size, dim), "weight", INIT)?;
        let layers = vb.pp("layers");
        let zero = candle_nn::Init::Const(0.0);
        Ok(Self {
            config: config.clone(),
            prefix: Prefix::new(config, vb.pp("cls_embedding"))?,
            tok_embeddings: Embedding::new(table, dim),
            layers: (0..n_layer)
                .map(|i| Block::new(config, matrices, layers.pp(i)))
                .collect::<candle_core::Result<_>>()?,
            norm: rms_norm(dim, norm_eps, vb.pp("norm"))?,
            output: linear_no_bias(dim, vocab_size, zero, matrices.of_head(), vb.pp("output"))?,
            rotary: rotary::table(config, vb.device())?,
            device: vb.device().clone(),
        })
    }

    /// The sizes.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Cosine and sine of every position, `[prefix + block_size, head_dim / 2, 2]`.
    pub fn rotary_table(&self) -> Result<Tensor> {
        rotary::stacked(&self.rotary)
    }

    /// Logits `[B, T + 1, V]` of the first code and the code after each of `codes`
    /// `[B, T]` (u32), with gradients.
    ///
    /// # Errors
    /// If the condition is of another kind or length, or codes have no row.
    pub fn forward(&self, conditions: &Conditions, codes: &Tensor) -> Result<Tensor> {
        let (x, hidden) = self.embed(conditions, Some(codes))?;
        let pass = self.pass(None, hidden, (0, x.dim(1)?), None)?;
        let x = pass.run(&self.layers, &x)?;
        let front = self.config.prefix_positions() - 1;
        self.logits(&x.narrow(1, front, x.dim(1)? - front)?)
    }

    /// The conditions, those of `dropped` samples replaced by what stands for none:
    /// in training, so that guidance can be learned.
    pub fn drop_conditions(&self, conditions: &Conditions, dropped: &[bool]) -> Result<Conditions> {
        self.prefix.drop(conditions, dropped)
    }

    /// What stands for no condition, one for each of `conditions`: for
    /// [`Guidance`](crate::Guidance). A caption's padding stays padding.
    pub fn absent_conditions(&self, conditions: &Conditions) -> Result<Conditions> {
        self.prefix.drop(conditions, &vec![true; conditions.batch()?])
    }

    /// `[B, N + T, C]` of conditions and codes, and the padding among conditions.
    fn embed(
        &self,
        conditions: &Conditions,
        codes: Option<&Tensor>,
    ) -> Result<(Tensor, Vec<Vec<bool>>)> {
        let (front, hidden) = self.prefix.embed(conditions)?;
        let Some(codes) = codes else { return Ok((front, hidden)) };
        check_tokens("code", codes, self.config.vocab_size)?;
        if codes.dims2()?.0 != front.dim(0)? {
            return Err(Error::Shape {
                op: "LlamaGen",
                what: "codes",
                shape: codes.dims().to_vec(),
                expected: format!("one row a condition, {}", front.dim(0)?),
            });
        }
        Ok((Tensor::cat(&[front, self.tok_embeddings.forward(codes)?], 1)?, hidden))
    }

    /// A pass over `len` positions from `start` on.
    fn pass<'a>(
        &self,
        cache: Option<&'a mut KvCache>,
        hidden: Vec<Vec<bool>>,
        (start, len): (usize, usize),
        wanted: Option<Vec<usize>>,
    ) -> Result<Pass<'a>> {
        let limit = self.config.prefix_positions() + self.config.block_size;
        if start + len > limit {
            return Err(Error::ContextFull {
                what: "the model's context (prefix and block_size)",
                positions: start + len,
                limit,
            });
        }
        let (cosine, sine) = &self.rotary;
        let rotary = Some((cosine.narrow(0, start, len)?, sine.narrow(0, start, len)?));
        Ok(Pass { cache, hidden, unmasked: 0, rotary, wanted })
    }

    /// `[.., C]` to `[.., V]`.
    fn logits(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.output.forward(&self.norm.forward(x)?)?)
    }

    /// f32 logits `[B, V]` of `x: [B, 1, C]`.
    fn next_logits(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.logits(x)?.squeeze(1)?.to_dtype(DType::F32)?)
    }
}
