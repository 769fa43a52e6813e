//! A norm and SiLU left to the convolution behind them, which does them as it reads: the map
//! between the two is never written.

use candle_core::{Result, Tensor};

use super::fast;
use super::kernels::{affine, shift_and_scale, silu_of_affine};
use super::{GroupNorm, Moments};
use crate::cpu;
use crate::vector::{MAX_LANES, Vector};

/// Norm and SiLU of a feature map, not done yet: see [`Conv2d::forward_normed`].
///
/// [`Conv2d::forward_normed`]: crate::Conv2d::forward_normed
#[derive(Clone, Debug)]
pub struct NormSilu {
    norm: GroupNorm,
    x: Tensor,
    moments: Option<Moments>,
}

impl GroupNorm {
    /// The norm of `x` `[B, C, H, W]` and SiLU, for a convolution to do: by its own moments or,
    /// for inference, by `moments` that every picture is to have.
    pub fn silu_of(&self, x: &Tensor, moments: Option<Moments>) -> NormSilu {
        NormSilu { norm: self.clone(), x: x.clone(), moments }
    }
}

impl NormSilu {
    /// Does it: `[B, C, H, W]`.
    ///
    /// # Errors
    /// As for [`GroupNorm::forward_silu`] and [`GroupNorm::forward_with`].
    pub fn compute(&self) -> Result<Tensor> {
        match &self.moments {
            Some(moments) => self.norm.forward_with(&self.x, moments, true),
            None => self.norm.forward_silu(&self.x),
        }
    }

    /// What is to be normed.
    pub(crate) fn input(&self) -> &Tensor {
        &self.x
    }

    /// What is done to each channel, for f32 on a CPU without gradients; `None` elsewhere, and
    /// for what [`NormSilu::compute`] has an error for.
    pub(crate) fn channels(&self) -> Result<Option<Channels>> {
        let Self { norm: GroupNorm { weight, bias, groups, eps }, x, moments } = self;
        let tensors = [x, weight, bias];
        let fits = x.rank() == 4 && weight.dims1()? == x.dim(1)? && bias.dims() == weight.dims();
        let given = moments.as_ref().is_none_or(|moments| moments.groups().len() == *groups);
        if !fits || !given || tensors.into_iter().any(|t| !cpu::supports(t) || t.track_op()) {
            return Ok(None);
        }
        let batch = x.dim(0)?;
        let moments = match moments {
            Some(moments) => moments.groups().repeat(batch),
            None => fast::moments(x, batch * groups)?,
        };
        let of_group = weight.dims1()? / groups;
        cpu::with_slices([weight, bias], |[weight, bias]| {
            let each = (0..batch * weight.len()).map(|channel| {
                let (mean, variance) = moments[channel / of_group];
                let found = shift_and_scale((mean as f32, variance), *eps);
                let channel = channel % weight.len();
                affine(found, weight[channel], bias[channel])
            });
            let (factors, offsets) = each.unzip();
            Some(Channels { factors, offsets })
        })
    }
}

/// What norm and SiLU do to each channel of each picture, `[B, C]`.
pub(crate) struct Channels {
    factors: Vec<f32>,
    offsets: Vec<f32>,
}

impl Channels {
    /// Of pixels of one channel of a picture.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`.
    #[inline(always)]
    pub unsafe fn along<S: Vector>(&self, channel: usize, pixels: S) -> S {
        let (factor, offset) = (self.factors[channel], self.offsets[channel]);
        // SAFETY: this function's contract.
        unsafe { silu_of_affine(pixels, S::splat(factor), S::splat(offset)) }
    }

    /// Of a row of one channel of a picture.
    ///
    /// # Safety
    /// As for [`Self::along`].
    #[inline(always)]
    pub unsafe fn row<S: Vector>(&self, channel: usize, pixels: &mut [f32]) {
        let mut vectors = pixels.chunks_exact_mut(S::LANES);
        // SAFETY: this function's contract; vectors of `pixels`, and of `padded`.
        unsafe {
            for pixels in vectors.by_ref() {
                self.along(channel, S::load(pixels.as_ptr())).store(pixels.as_mut_ptr());
            }
            let (rest, mut padded) = (vectors.into_remainder(), [0.0_f32; MAX_LANES]);
            padded[..rest.len()].copy_from_slice(rest);
            self.along(channel, S::load(padded.as_ptr())).store(padded.as_mut_ptr());
            rest.copy_from_slice(&padded[..rest.len()]);
        }
    }
}
