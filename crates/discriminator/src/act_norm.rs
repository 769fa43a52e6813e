//! ActNorm (Kingma & Dhariwal 2018): an affine map per channel whose first values
//! come from the first training batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{DType, Result, Tensor, Var};
use candle_nn::{Init, ModuleT, VarBuilder};

use crate::batch_norm::spread;
use crate::dual::Dual;

/// Added to the standard deviation (taming/modules/util.py).
const EPS: f64 = 1e-6;

/// `scale * (x + loc)` over `[B, C, H, W]`.
///
/// Keys: `loc` and `scale` (`[1, C, 1, 1]`), `initialized` (scalar, u8). The first
/// training forward of a layer with `initialized = 0` sets `loc = -mean` and
/// `scale = 1 / (std + 1e-6)` of its input, per channel, std unbiased.
#[derive(Clone, Debug)]
pub struct ActNorm {
    loc: Var,
    scale: Var,
    initialized: Var,
    /// Whether it was seen that it is, so that a step on a GPU does not wait for the flag: values
    /// stay. Clones share the variables, and this.
    seen: Arc<AtomicBool>,
}

impl ActNorm {
    /// An ActNorm of `channels` channels.
    ///
    /// # Errors
    /// When `vb` lacks a key or holds it in another shape.
    pub fn new(channels: usize, vb: VarBuilder) -> Result<Self> {
        let shape = (1, channels, 1, 1);
        let loc = vb.get_with_hints(shape, "loc", Init::Const(0.0))?;
        let scale = vb.get_with_hints(shape, "scale", Init::Const(1.0))?;
        let initialized =
            vb.get_with_hints_dtype((), "initialized", Init::Const(0.0), DType::U8)?;
        Ok(Self {
            loc: Var::from_tensor(&loc)?,
            scale: Var::from_tensor(&scale)?,
            initialized: Var::from_tensor(&initialized)?,
            seen: Arc::default(),
        })
    }

    /// Whether `loc` and `scale` hold values, from data or from a checkpoint.
    ///
    /// # Errors
    /// When the flag cannot be read from the device.
    pub fn is_initialized(&self) -> Result<bool> {
        Ok(self.initialized.to_scalar::<u8>()? != 0)
    }

    /// `[B, C, N]` and its derivative; a layer without values takes its input as it is.
    pub(crate) fn dual(&self, x: &Dual) -> Result<Dual> {
        let (loc, scale) = (self.loc.flatten_all()?, self.scale.flatten_all()?);
        x.affine(&scale, &(loc * &scale)?)
    }

    fn initialize(&self, x: &Tensor) -> Result<()> {
        let (b, c, h, w) = x.dims4()?;
        let count = b * h * w;
        if count < 2 {
            candle_core::bail!(
                "act_norm: initialisation needs at least 2 values a channel, got {count} (larger images or batches)"
            )
        }
        let dtype = if x.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let flat = x.detach().to_dtype(dtype)?.transpose(0, 1)?.contiguous()?.flatten_from(1)?;
        let mean = flat.mean_keepdim(1)?;
        let std = flat.var_keepdim(1)?.sqrt()?;
        let set = |var: &Var, value: Tensor| {
            var.set(&value.reshape((1, c, 1, 1))?.to_dtype(var.dtype())?)
        };
        set(&self.loc, mean.neg()?)?;
        set(&self.scale, (std + EPS)?.recip()?)?;
        self.initialized.set(&self.initialized.ones_like()?)
    }
}

impl ModuleT for ActNorm {
    /// `[B, C, H, W]` to the same shape.
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        if train && !self.seen.load(Ordering::Relaxed) {
            if !self.is_initialized()? {
                self.initialize(x)?;
            }
            self.seen.store(true, Ordering::Relaxed);
        }
        let flat = x.flatten_from(2)?;
        let (loc, scale) = (spread(&self.loc, &flat)?, spread(&self.scale, &flat)?);
        flat.add(&loc)?.mul(&scale)?.reshape(x.shape())
    }
}

#[cfg(test)]
mod tests;
