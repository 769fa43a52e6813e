//! A block of the minGPT-style model.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::GptConfig;
use crate::Result;
use crate::attention::split_heads;
use crate::cpu;
use crate::decoder;
use crate::linear::{Linear, Matrices, linear};
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
    pub(super) width: usize,
}

impl Block {
    pub(super) fn new(
        config: &GptConfig,
        matrices: Matrices<'_>,
        vb: VarBuilder,
    ) -> candle_core::Result<Self> {
        let width = config.n_embd;
        let (attn, mlp) = (vb.pp("attn"), vb.pp("mlp"));
        Ok(Self {
            ln1: layer_norm(width, LAYER_NORM_EPS, vb.pp("ln1"))?,
            ln2: layer_norm(width, LAYER_NORM_EPS, vb.pp("ln2"))?,
            key: linear(width, width, matrices, attn.pp("key"))?,
            query: linear(width, width, matrices, attn.pp("query"))?,
            value: linear(width, width, matrices, attn.pp("value"))?,
            proj: linear(width, width, matrices, attn.pp("proj"))?,
            expand: linear(width, 4 * width, matrices, mlp.pp("0"))?,
            contract: linear(4 * width, width, matrices, mlp.pp("2"))?,
            heads: config.n_head,
            width,
        })
    }
}

#[cfg(feature = "cuda")]
impl Block {
    /// The block as the kernels of [`crate::cuda`] see it, if they can.
    pub(super) fn on_device(&self) -> Option<crate::cuda::Layer<'_>> {
        let inputs = [&self.query, &self.key, &self.value].map(Linear::on_device);
        Some(crate::cuda::Layer {
            attention_norm: self.ln1.on_device(),
            inputs: inputs.into_iter().collect::<Option<_>>()?,
            heads: self.heads,
            kv_heads: self.heads,
            head_dim: self.width / self.heads,
            output: self.proj.on_device()?,
            feed_forward_norm: self.ln2.on_device(),
            feed_forward: crate::cuda::FeedForward::Gelu {
                expand: self.expand.on_device()?,
                contract: self.contract.on_device()?,
            },
        })
    }
}

impl decoder::Block for Block {
    fn layer(&self) -> Option<cpu::Layer<'_>> {
        let (heads, width) = (self.heads, self.width);
        Some(cpu::Layer {
            attention_norm: self.ln1.view()?,
            inputs: vec![self.query.affine()?, self.key.affine()?, self.value.affine()?],
            heads,
            kv_heads: heads,
            head_dim: width / heads,
            output: self.proj.affine()?,
            feed_forward_norm: self.ln2.view()?,
            feed_forward: cpu::FeedForward::Gelu {
                expand: self.expand.affine()?,
                contract: self.contract.affine()?,
            },
        })
    }

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
