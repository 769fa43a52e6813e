//! Attention between all positions of a feature map.

use candle_core::{D, Result, Tensor};
use candle_nn::{Module, VarBuilder};

use crate::conv::{Conv2d, Conv2dConfig, conv2d};
use crate::group_norm::{GroupNorm, group_norm};
use crate::tape::{Tape, Taped, sum};
use crate::wide::wide;

#[cfg(feature = "cuda")]
mod cuda;
mod fast;

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

    /// What positions of `normed` `[B, C, H, W]`, an output of the
    /// [`norm`](Self::norm), show to those that look at them.
    ///
    /// # Errors
    /// When `normed` is not of `C` channels.
    pub fn keys_values(&self, normed: &Tensor) -> Result<KeysValues> {
        let (b, c, h, w) = normed.dims4()?;
        let tokens = |conv: &Conv2d| conv.forward(normed)?.reshape((b, c, h * w));
        Ok(KeysValues { keys: tokens(&self.k)?, values: tokens(&self.v)? })
    }

    /// The forward pass of `x` `[B, C, H, W]`, where positions, which `normed`
    /// (of the same shape) stands for, look at those of `seen`: their own in
    /// the plain forward pass, but those of another feature map will do.
    ///
    /// # Errors
    /// When the shapes differ, or are not of `C` channels.
    pub fn attend(&self, x: &Tensor, normed: &Tensor, seen: &KeysValues) -> Result<Tensor> {
        let (b, c, h, w) = x.dims4()?;
        let q = self.q.forward(normed)?.reshape((b, c, h * w))?;
        let tensors = [&q, &seen.keys, &seen.values];
        if crate::device::has_kernels(&tensors) && !tensors.into_iter().any(Tensor::track_op) {
            let mixed = fast::attend(&q, &seen.keys, &seen.values)?.reshape((b, c, h, w))?;
            return self.proj_out.forward_add(&mixed, x);
        }
        let scores = wide(&q.transpose(1, 2)?.matmul(&seen.keys)?)?;
        // `softmax_last_dim` has no gradient; `softmax` has a right one.
        let weights = candle_nn::ops::softmax(&(scores * (c as f64).powf(-0.5))?, D::Minus1)?;
        let weights = weights.to_dtype(x.dtype())?;
        let mixed = seen.values.matmul(&weights.transpose(1, 2)?)?.reshape((b, c, h, w))?;
        x + self.proj_out.forward(&mixed)?
    }
}

/// Keys and values of the positions of a feature map.
#[derive(Clone, Debug)]
pub struct KeysValues {
    /// `[B, C, N]`.
    keys: Tensor,
    /// `[B, C, N]`.
    values: Tensor,
}

impl Module for AttnBlock {
    /// `[B, C, H, W]` to the same shape.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let normed = self.norm.forward(x)?;
        self.attend(x, &normed, &self.keys_values(&normed)?)
    }
}

impl Taped for AttnBlock {
    fn forward_taped(&self, x: &Tensor, tape: &mut Tape) -> Result<Tensor> {
        let (b, c, h, w) = x.dims4()?;
        if !crate::device::has_kernels(&[x, self.q.weight()]) {
            return tape.record(x, |x| self.forward(x));
        }
        let [mut norm, mut q, mut k, mut v, mut proj] = std::array::from_fn(|_| tape.branch());
        let normed = self.norm.forward_taped(x, &mut norm)?;
        let queries = self.q.forward_taped(&normed, &mut q)?;
        let keys = self.k.forward_taped(&normed, &mut k)?;
        let values = self.v.forward_taped(&normed, &mut v)?;
        let tokens = [&queries, &keys, &values].map(|t| t.reshape((b, c, h * w)));
        let [queries, keys, values] = tokens;
        let (queries, keys, values) = (queries?, keys?, values?);
        let mixed = fast::attend(&queries, &keys, &values)?.reshape((b, c, h, w))?;
        let y = self.proj_out.forward_add_taped(&mixed, x, &mut proj)?;
        tape.push(move |dy, plus, gradients| {
            let missing = || candle_core::Error::Msg("attention: a branch ends early".into());
            let mixed = proj.backward(dy, gradients)?.ok_or_else(missing)?;
            let mixed = mixed.reshape((b, c, h * w))?;
            let found = fast::gradients(&queries, &keys, &values, &mixed)?;
            let mut normed = None;
            for (branch, gradient) in [q, k, v].into_iter().zip(found) {
                let gradient = gradient.reshape((b, c, h, w))?;
                normed = branch.backward_add(&gradient, normed.as_ref(), gradients)?;
            }
            let aside = sum(dy.clone(), plus)?;
            norm.backward_add(&normed.ok_or_else(missing)?, Some(&aside), gradients)
        });
        Ok(y)
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
