//! Attention between all positions of a feature map.

use candle_core::{D, Result, Tensor};
use candle_nn::{Module, VarBuilder};

use crate::conv::{Conv2d, Conv2dConfig, conv2d};
use crate::group_norm::{GroupNorm, group_norm};

/// The reference's `AttnBlock`: single-head attention over all positions, scaled
/// by `C^-1/2`, added to its input; keys `norm`, `q`, `k`, `v`, `proj_out`.
///
/// Time and memory grow with `(H W)^2`: a picture too large for that is tiled by
/// the autoencoder.
#[derive(Clone, Debug)]
pub struct AttnBlock {
    norm: GroupNorm,
    q: Conv2d,
    k: Conv2d,
    v: Conv2d,
    proj_out: Conv2d,
}

impl AttnBlock {
    /// The norm of what queries, keys and values are made from.
    pub fn norm(&self) -> &GroupNorm {
        &self.norm
    }

    /// The forward pass of `x` `[B, C, H, W]`, with `normed`, of the same shape,
    /// in place of its [`norm`](Self::norm).
    ///
    /// # Errors
    /// When the shapes differ, or are not of `C` channels.
    pub fn forward_normed(&self, x: &Tensor, normed: &Tensor) -> Result<Tensor> {
        let (b, c, h, w) = x.dims4()?;
        let tokens = |conv: &Conv2d| conv.forward(normed)?.reshape((b, c, h * w));
        let (q, k, v) = (tokens(&self.q)?, tokens(&self.k)?, tokens(&self.v)?);
        let scores = (q.transpose(1, 2)?.matmul(&k)? * (c as f64).powf(-0.5))?;
        // `softmax_last_dim` has no gradient; `softmax` has a right one.
        let weights = candle_nn::ops::softmax(&scores, D::Minus1)?;
        let mixed = v.matmul(&weights.transpose(1, 2)?)?.reshape((b, c, h, w))?;
        x + self.proj_out.forward(&mixed)?
    }
}

impl Module for AttnBlock {
    /// `[B, C, H, W]` to the same shape.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_normed(x, &self.norm.forward(x)?)
    }
}

/// An [`AttnBlock`] of `channels` channels.
///
/// # Errors
/// When `channels` is not a multiple of 32, or `vb` lacks a key.
pub fn attn_block(channels: usize, vb: VarBuilder) -> Result<AttnBlock> {
    let conv = |name: &str| conv2d(channels, channels, 1, Conv2dConfig::default(), vb.pp(name));
    Ok(AttnBlock {
        norm: group_norm(channels, vb.pp("norm"))?,
        q: conv("q")?,
        k: conv("k")?,
        v: conv("v")?,
        proj_out: conv("proj_out")?,
    })
}
