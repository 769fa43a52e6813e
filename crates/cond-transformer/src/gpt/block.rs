//! A block of the minGPT-style model.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::GptConfig;
use crate::Result;
use crate::attention::split_heads;
use crate::decoder;
use crate::linear::{Linear, linear};
use crate::norm::{LayerNorm, layer_norm};

/// torch's default for `nn.LayerNorm`.
pub(super) const LAYER_NORM_EPS: f64 = 1e-5;

/// `x + attention(norm(x))`, then `x + mlp(norm(x))`.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) ln1: LayerNorm,
    pub(super) ln2: LayerNorm,
    pub(super) key: Linear,
    pub(super) query: Linear,
    pub(super) value: Linear,
    pub(super) proj: Linear,
    pub(super) expand: Linear,
    pub(super) contract: Linear,
    pub(super) heads: usize,
}

impl Block {
    pub(super) fn new(config: &GptConfig, vb: VarBuilder) -> candle_core::Result<Self> {
        let width = config.n_embd;
        let (attn, mlp) = (vb.pp("attn"), vb.pp("mlp"));
        Ok(Self {
            ln1: layer_norm(width, LAYER_NORM_EPS, vb.pp("ln1"))?,
            ln2: layer_norm(width, LAYER_NORM_EPS, vb.pp("ln2"))?,
            key: linear(width, width, attn.pp("key"))?,
            query: linear(width, width, attn.pp("query"))?,
            value: linear(width, width, attn.pp("value"))?,
            proj: linear(width, width, attn.pp("proj"))?,
            expand: linear(width, 4 * width, mlp.pp("0"))?,
            contract: linear(4 * width, width, mlp.pp("2"))?,
            heads: config.n_head,
        })
    }
}

impl decoder::Block for Block {
    fn project(
        &self,
        x: &Tensor,
        _rotary: Option<&(Tensor, Tensor)>,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let x = self.ln1.forward(x)?;
        Ok((
            split_heads(&self.query.forward(&x)?, self.heads)?,
            split_heads(&self.key.forward(&x)?, self.heads)?,
            split_heads(&self.value.forward(&x)?, self.heads)?,
        ))
    }

    fn mix(&self, x: &Tensor, read: &Tensor) -> Result<Tensor> {
        let x = (x + self.proj.forward(read)?)?;
        let hidden = self.expand.forward(&self.ln2.forward(&x)?)?.gelu_erf()?;
        Ok((&x + self.contract.forward(&hidden)?)?)
    }
}
