//! Group norm (Wu & He 2018), alone or with SiLU behind it.

use candle_core::{Result, Tensor};
use candle_nn::{Init, Module, VarBuilder};

#[cfg(feature = "cuda")]
mod cuda;
mod fast;
mod kernels;
mod moments;
mod pending;
pub mod plain;
mod taped;

pub use moments::Moments;
pub(crate) use pending::Channels;
pub use pending::NormSilu;

/// Groups of the reference's `Normalize`.
pub const GROUPS: usize = 32;
/// Epsilon of the reference's `Normalize`, added to the variance.
pub const EPS: f64 = 1e-6;

/// Group norm with an affine map; keys `weight` and `bias`, `[C]`.
#[derive(Clone, Debug)]
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
    eps: f64,
}

impl GroupNorm {
    /// A group norm over `groups` groups of neighbouring channels; `weight` and
    /// `bias` are `[C]`.
    ///
    /// # Errors
    /// When `C` is not a positive multiple of `groups`.
    pub fn new(weight: Tensor, bias: Tensor, groups: usize, eps: f64) -> Result<Self> {
        let channels = weight.dims1()?;
        if groups == 0 || channels == 0 || channels % groups != 0 {
            candle_core::bail!("group_norm: {channels} channels do not split into {groups} groups")
        }
        Ok(Self { weight, bias, groups, eps })
    }

    /// Group norm, then `x * sigmoid(x)`: `[B, C, H, W]` to the same shape.
    ///
    /// # Errors
    /// When `x` has other than `C` channels.
    pub fn forward_silu(&self, x: &Tensor) -> Result<Tensor> {
        self.apply(x, true)
    }

    /// Mean and variance of each group of one picture `[1, C, H, W]`.
    ///
    /// # Errors
    /// When `x` is no single picture of `C` channels.
    pub fn moments(&self, x: &Tensor) -> Result<Moments> {
        let (b, c, _, _) = x.dims4()?;
        if b != 1 || self.weight.dims() != [c] {
            candle_core::bail!(
                "group_norm: moments of an input of shape {:?}; one picture of {:?} channels was \
                 expected",
                x.shape(),
                self.weight.shape()
            )
        }
        let groups = if crate::cpu::supports(x) {
            fast::moments(x, self.groups)?
        } else {
            plain::moments(x, self.groups)?
        };
        Ok(Moments::new(groups))
    }

    /// The norm of `x` `[B, C, H, W]` as if every picture had these moments,
    /// followed by SiLU where asked: for inference, where there are kernels without
    /// gradients. With the [`moments`](Self::moments) of `x` it is the plain
    /// forward pass.
    ///
    /// # Errors
    /// When `x` has other than `C` channels, or `moments` are of another number
    /// of groups.
    pub fn forward_with(&self, x: &Tensor, moments: &Moments, silu: bool) -> Result<Tensor> {
        let Self { weight, bias, groups, eps } = self;
        if moments.groups().len() != *groups {
            candle_core::bail!(
                "group_norm: moments of {} groups for a norm of {groups}",
                moments.groups().len()
            )
        }
        if crate::cpu::supports(x) && crate::cpu::supports(weight) {
            return fast::group_norm_with(x, weight, bias, moments, *eps, silu);
        }
        #[cfg(feature = "cuda")]
        if crate::cuda::supports(&[x, weight, bias]) {
            return cuda::group_norm_with(x, weight, bias, moments, *eps, silu);
        }
        let y = plain::group_norm_with(x, weight, bias, moments.groups(), *eps)?;
        if silu { crate::silu(&y) } else { Ok(y) }
    }

    fn apply(&self, x: &Tensor, silu: bool) -> Result<Tensor> {
        let Self { weight, bias, groups, eps } = self;
        if x.elem_count() == 0 && !x.device().is_cpu() {
            // candle divides by the number of elements there.
            return Ok(x.clone());
        }
        let op = fast::GroupNormOp { groups: *groups, eps: *eps, silu };
        if crate::cpu::supports(x) && crate::cpu::supports(weight) {
            return fast::group_norm(x, weight, bias, op);
        }
        #[cfg(feature = "cuda")]
        if crate::cuda::supports(&[x, weight, bias]) {
            return cuda::group_norm(x, weight, bias, op);
        }
        let y = plain::group_norm(x, weight, bias, *groups, *eps)?;
        if silu { crate::silu(&y) } else { Ok(y) }
    }
}

impl Module for GroupNorm {
    /// `[B, C, H, W]` to the same shape.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.apply(x, false)
    }
}

/// The reference's `Normalize(channels)`: 32 groups, epsilon 1e-6.
///
/// # Errors
/// When `channels` is not a multiple of 32, or `vb` lacks a key.
pub fn group_norm(channels: usize, vb: VarBuilder) -> Result<GroupNorm> {
    let weight = vb.get_with_hints(channels, "weight", Init::Const(1.0))?;
    let bias = vb.get_with_hints(channels, "bias", Init::Const(0.0))?;
    GroupNorm::new(weight, bias, GROUPS, EPS)
}
