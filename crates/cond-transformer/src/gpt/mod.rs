//! The minGPT-style transformer of VQGAN (`taming.modules.transformer.mingpt.GPT`).

mod block;
mod config;
mod continuation;
mod learn;
mod next_code;

use std::cell::RefCell;
use std::collections::BTreeMap;

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Tensor};
use candle_nn::{Embedding, Module, VarBuilder};

pub use config::GptConfig;
pub(crate) use config::{limits, within};

use self::block::{Block, LAYER_NORM_EPS};
use crate::condition::check_tokens;
use crate::decoder::Pass;
use crate::linear::{INIT, Linear, Matrices, linear_no_bias};
use crate::norm::{LayerNorm, layer_norm};
use crate::{BlockMatrices, Conditions, Error, KvCache, Result, WeightFormat};

/// A decoder with learned positions: condition tokens and codes share one
/// vocabulary and one embedding table, and differ by their positions only.
///
/// Layer norm with eps 1e-5, exact (erf) GELU, biases everywhere but in the head,
/// which is not tied to the embedding. No dropout: the published models have none.
#[derive(Clone, Debug)]
pub struct Gpt {
    config: GptConfig,
    tok_emb: Embedding,
    pos_emb: Tensor,
    blocks: Vec<Block>,
    ln_f: LayerNorm,
    head: Linear,
    device: Device,
}

impl Gpt {
    /// Reads the reference's keys from `vb`: `tok_emb.weight`, `pos_emb`,
    /// `blocks.{i}.{ln1,ln2,attn.{key,query,value,proj},mlp.{0,2}}`, `ln_f`,
    /// `head.weight`. (Its `attn.mask` buffers say nothing that the sizes do not.)
    ///
    /// # Errors
    /// If the configuration is out of bounds or a tensor is missing.
    pub fn new(config: &GptConfig, vb: VarBuilder) -> Result<Self> {
        Self::read(config, Matrices::Made(WeightFormat::F32), vb)
    }

    /// [`Self::new`] with weights kept as `format`, whatever they are stored as: matrix by
    /// matrix, so that the whole is never in memory twice.
    ///
    /// # Errors
    /// As [`Self::new`], or for blocks elsewhere than on the CPU.
    pub fn with_format(config: &GptConfig, format: WeightFormat, vb: VarBuilder) -> Result<Self> {
        format.validate(vb.device())?;
        Self::read(config, Matrices::Made(format), vb.to_dtype(format.dtype()))
    }

    /// [`Self::new`] with `matrices` in blocks, all else from `vb`, in f32.
    ///
    /// # Errors
    /// As [`Self::with_format`], or for a matrix of another shape.
    pub fn with_blocks(
        config: &GptConfig,
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
        config: &GptConfig,
        format: WeightFormat,
        vb: VarBuilder,
    ) -> Result<BTreeMap<String, GgmlDType>> {
        let names = RefCell::default();
        Self::read(config, Matrices::Noted(format, &names), vb)?;
        Ok(names.into_inner())
    }

    /// In the dtype of `vb`, but for matrices in blocks.
    fn read(config: &GptConfig, matrices: Matrices<'_>, vb: VarBuilder) -> Result<Self> {
        config.validate()?;
        let GptConfig { vocab_size, block_size, n_layer, n_embd, .. } = *config;
        let table = vb.pp("tok_emb").get_with_hints((vocab_size, n_embd), "weight", INIT)?;
        let zero = candle_nn::Init::Const(0.0);
        let blocks = vb.pp("blocks");
        Ok(Self {
            config: config.clone(),
            tok_emb: Embedding::new(table, n_embd),
            pos_emb: vb.get_with_hints((1, block_size, n_embd), "pos_emb", zero)?,
            blocks: (0..n_layer)
                .map(|i| Block::new(config, matrices, blocks.pp(i)))
                .collect::<candle_core::Result<_>>()?,
            ln_f: layer_norm(n_embd, LAYER_NORM_EPS, vb.pp("ln_f"))?,
            head: linear_no_bias(n_embd, vocab_size, INIT, matrices.of_head(), vb.pp("head"))?,
            device: vb.device().clone(),
        })
    }

    /// The sizes.
    pub fn config(&self) -> &GptConfig {
        &self.config
    }

    /// Whether the reference decays the parameter `name` (weights of linear layers)
    /// or leaves it alone (biases, norms, embeddings, positions).
    pub fn decays(name: &str) -> bool {
        let mut path = name.rsplit('.');
        let weight = path.next() == Some("weight");
        weight && !matches!(path.next(), Some("ln1" | "ln2" | "ln_f" | "tok_emb") | None)
    }

    /// Logits `[B, E + T, V]` of the code after every position, with gradients,
    /// for tokens `[B, T]` (u32) behind embeddings `[B, E, C]`, if any.
    ///
    /// For a condition c of N tokens and codes z, `cat(c, z)` without its last
    /// token goes in, and the logits from position N - 1 on are those of z.
    ///
    /// # Errors
    /// If there are more positions than `block_size`, or tokens without a row.
    pub fn forward(&self, tokens: &Tensor, embeddings: Option<&Tensor>) -> Result<Tensor> {
        let x = self.embed(tokens, embeddings)?;
        self.logits(&self.pass(None, None).run(&self.blocks, &x)?)
    }

    /// [`Self::forward`] by candle's ops, telling `visit` the output `[B, E + T, C]` of each
    /// block.
    pub fn forward_with(
        &self,
        tokens: &Tensor,
        embeddings: Option<&Tensor>,
        visit: impl FnMut(&Tensor),
    ) -> Result<Tensor> {
        let x = self.embed(tokens, embeddings)?;
        self.logits(&self.pass(None, None).visit(&self.blocks, &x, visit)?)
    }

    /// `[B, E + T, C]`: tokens behind embeddings, in their positions.
    fn embed(&self, tokens: &Tensor, embeddings: Option<&Tensor>) -> Result<Tensor> {
        check_tokens("token", tokens, self.config.vocab_size)?;
        let mut x = self.tok_emb.forward(tokens)?;
        if let Some(embeddings) = embeddings {
            x = Tensor::cat(&[embeddings, &x], 1)?;
        }
        self.place(&x, 0)
    }

    /// Adds the learned positions from `start` on to `x: [B, T, C]`.
    fn place(&self, x: &Tensor, start: usize) -> Result<Tensor> {
        let end = start + x.dim(1)?;
        if end > self.config.block_size {
            return Err(Error::ContextFull {
                what: "the model's context (block_size)",
                positions: end,
                limit: self.config.block_size,
            });
        }
        Ok(x.broadcast_add(&self.pos_emb.narrow(1, start, end - start)?)?)
    }

    /// `[.., C]` to `[.., V]`.
    fn logits(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.head.forward(&self.ln_f.forward(x)?)?)
    }

    fn pass<'a>(&self, cache: Option<&'a mut KvCache>, wanted: Option<Vec<usize>>) -> Pass<'a> {
        let unmasked = self.config.n_unmasked;
        Pass { cache, hidden: Vec::new(), unmasked, rotary: None, wanted }
    }

    /// Conditions and codes as the tokens `[B, N + T]` they are here.
    fn sequence(&self, conditions: &Conditions, codes: Option<&Tensor>) -> Result<Tensor> {
        let front = match conditions {
            Conditions::Tokens(tokens) => tokens.clone(),
            Conditions::Classes(classes) => classes.unsqueeze(1)?,
            Conditions::Captions { .. } => {
                return Err(Error::ConditionKind {
                    takes: "tokens or a class",
                    given: conditions.kind(),
                });
            }
        };
        check_tokens("condition token", &front, self.config.vocab_size)?;
        let Some(codes) = codes else { return Ok(front) };
        check_tokens("code", codes, self.config.vocab_size)?;
        if codes.dims2()?.0 != front.dims2()?.0 {
            return Err(Error::Shape {
                op: "GPT",
                what: "codes",
                shape: codes.dims().to_vec(),
                expected: format!("one row a condition, {}", front.dims2()?.0),
            });
        }
        Ok(Tensor::cat(&[&front, codes], 1)?)
    }

    /// f32 logits `[B, V]` of `x: [B, 1, C]`.
    fn next_logits(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.logits(x)?.squeeze(1)?.to_dtype(DType::F32)?)
    }
}
