//! What stands between a critic's convolutions and their ReLUs.

use candle_core::{Result, Tensor};
use candle_nn::{Init, Module, ModuleT, VarBuilder};
use layers::{GroupNorm, Tape, leaky_relu};

use crate::dual::Dual;
use crate::patchgan::{Norm, SLOPE};
use crate::{ActNorm, BatchNorm};

/// A norm by name.
#[derive(Clone, Debug)]
pub(crate) enum NormLayer {
    Batch(BatchNorm),
    Act(ActNorm),
    Group(Groups),
    None,
}

/// Group norm, and what it is made of.
#[derive(Clone, Debug)]
pub(crate) struct Groups {
    norm: GroupNorm,
    weight: Tensor,
    bias: Tensor,
    groups: usize,
}

impl NormLayer {
    pub(crate) fn new(norm: Norm, channels: usize, vb: VarBuilder) -> Result<Self> {
        Ok(match norm {
            Norm::Batch => Self::Batch(BatchNorm::new(channels, vb)?),
            Norm::ActNorm => Self::Act(ActNorm::new(channels, vb)?),
            Norm::Group => {
                let weight = vb.get_with_hints(channels, "weight", Init::Const(1.0))?;
                let bias = vb.get_with_hints(channels, "bias", Init::Const(0.0))?;
                // 32 is a power of two: so is its largest common divisor with the channels.
                let groups = layers::group_norm::GROUPS.min(1 << channels.trailing_zeros());
                let eps = layers::group_norm::EPS;
                let norm = GroupNorm::new(weight.clone(), bias.clone(), groups, eps)?;
                Self::Group(Groups { norm, weight, bias, groups })
            }
            Norm::None => Self::None,
        })
    }

    /// The norm in training, then the leaky ReLU, on a tape.
    pub(crate) fn forward_leaky_taped(&self, x: &Tensor, tape: &mut Tape) -> Result<Tensor> {
        match self {
            Self::Batch(norm) => norm.forward_leaky_taped(x, SLOPE, tape),
            Self::None => layers::activation::leaky_relu_taped(x, SLOPE, tape),
            Self::Act(_) | Self::Group(_) => {
                tape.record(x, |x| leaky_relu(&self.forward_t(x, true)?, SLOPE))
            }
        }
    }

    /// The norm in training of `[B, C, H, W]`; statistics are left as they are.
    pub(crate) fn dual(&self, x: &Dual) -> Result<Dual> {
        let shape = x.value.dims().to_vec();
        let (b, c, h, w) = x.value.dims4()?;
        let flat = x.reshape(&[b, c, h * w])?;
        match self {
            Self::Batch(norm) => norm.dual(&flat)?,
            Self::Act(norm) => norm.dual(&flat)?,
            Self::Group(Groups { weight, bias, groups, .. }) => {
                let grouped = x.reshape(&[b, *groups, c / groups * h * w])?;
                let mean = |x: &Tensor| x.mean_keepdim(2)?.broadcast_as(x.shape());
                let normed = grouped.standardise(layers::group_norm::EPS, mean)?;
                normed.reshape(&[b, c, h * w])?.affine(weight, bias)?
            }
            Self::None => flat,
        }
        .reshape(&shape)
    }
}

impl ModuleT for NormLayer {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        match self {
            Self::Batch(norm) => norm.forward_t(x, train),
            Self::Act(norm) => norm.forward_t(x, train),
            Self::Group(Groups { norm, .. }) => norm.forward(x),
            Self::None => Ok(x.clone()),
        }
    }
}
