//! A block of the LlamaGen-style model.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::{LlamaConfig, rotary};
use crate::Result;
use crate::attention::split_heads;
use crate::cpu;
use crate::decoder;
use crate::linear::{INIT, Linear, Matrices, linear_no_bias};
use crate::norm::{RmsNorm, rms_norm};

/// `x + attention(norm(x))`, then `x + w2(silu(w1 norm(x)) * w3 norm(x))` (SwiGLU).
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) attention_norm: RmsNorm,
    pub(super) ffn_norm: RmsNorm,
    pub(super) wqkv: Linear,
    pub(super) wo: Linear,
    pub(super) w1: Linear,
    pub(super) w2: Linear,
    pub(super) w3: Linear,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
}

impl Block {
    pub(super) fn new(
        config: &LlamaConfig,
        matrices: Matrices<'_>,
        vb: VarBuilder,
    ) -> candle_core::Result<Self> {
        let LlamaConfig { dim, n_head, norm_eps, .. } = *config;
        let (kv_heads, head_dim) = (config.kv_heads(), config.head_dim());
        let hidden = config.hidden_dim();
        let (attention, feed_forward) = (vb.pp("attention"), vb.pp("feed_forward"));
        Ok(Self {
            attention_norm: rms_norm(dim, norm_eps, vb.pp("attention_norm"))?,
            ffn_norm: rms_norm(dim, norm_eps, vb.pp("ffn_norm"))?,
            wqkv: linear_no_bias(
                dim,
                (n_head + 2 * kv_heads) * head_dim,
                INIT,
                matrices,
                attention.pp("wqkv"),
            )?,
            wo: linear_no_bias(dim, dim, INIT, matrices, attention.pp("wo"))?,
            w1: linear_no_bias(dim, hidden, INIT, matrices, feed_forward.pp("w1"))?,
            w2: linear_no_bias(hidden, dim, INIT, matrices, feed_forward.pp("w2"))?,
            w3: linear_no_bias(dim, hidden, INIT, matrices, feed_forward.pp("w3"))?,
            heads: n_head,
            kv_heads,
            head_dim,
        })
    }
}

#[cfg(feature = "cuda")]
impl Block {
    /// The block as the kernels of [`crate::cuda`] see it, if they can.
    pub(super) fn on_device(&self) -> Option<crate::cuda::Layer<'_>> {
        Some(crate::cuda::Layer {
            attention_norm: self.attention_norm.on_device(),
            inputs: vec![self.wqkv.on_device()?],
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            output: self.wo.on_device()?,
            feed_forward_norm: self.ffn_norm.on_device(),
            feed_forward: crate::cuda::FeedForward::Gated {
                gate: self.w1.on_device()?,
                up: self.w3.on_device()?,
                down: self.w2.on_device()?,
            },
        })
    }
}

impl decoder::Block for Block {
    fn layer(&self) -> Option<cpu::Layer<'_>> {
        Some(cpu::Layer {
            attention_norm: self.attention_norm.view()?,
            inputs: vec![self.wqkv.affine()?],
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            output: self.wo.affine()?,
            feed_forward_norm: self.ffn_norm.view()?,
            feed_forward: cpu::FeedForward::Gated {
                gate: self.w1.affine()?,
                up: self.w3.affine()?,
                down: self.w2.affine()?,
            },
        })
    }

    fn project(
        &self,
        x: &Tensor,
        rotary: Option<&(Tensor, Tensor)>,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let qkv = self.wqkv.forward(&self.attention_norm.forward(x)?)?;
        let (own, shared) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let part = |start, width, heads| split_heads(&qkv.narrow(2, start, width)?, heads);
        let queries = part(0, own, self.heads)?;
        let keys = part(own, shared, self.kv_heads)?;
        let values = part(own + shared, shared, self.kv_heads)?;
        Ok(match rotary {
            Some(angles) => {
                (rotary::rotate(&queries, angles)?, rotary::rotate(&keys, angles)?, values)
            }
            None => (queries, keys, values),
        })
    }

    fn mix(&self, x: &Tensor, read: &Tensor) -> Result<Tensor> {
        let x = (x + self.wo.forward(read)?)?;
        let normed = self.ffn_norm.forward(&x)?;
        let gated = (self.w1.forward(&normed)?.silu()? * self.w3.forward(&normed)?)?;
        Ok((&x + self.w2.forward(&gated)?)?)
    }
}
