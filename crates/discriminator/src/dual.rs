//! Values together with their derivative along a direction: forward differentiation.
//!
//! Every rule is written in ops that candle differentiates, so that the derivative of a
//! whole network has gradients of its own: that is how a penalty on gradients is trained
//! (see [`r1`](mod@crate::r1)) with a backward pass that knows first derivatives only.

use candle_core::{Result, Tensor};
use candle_nn::Module;
use layers::{Conv2d, Conv2dConfig};

/// `value` at a point, and how fast it changes as the point moves.
#[derive(Clone, Debug)]
pub(crate) struct Dual {
    pub(crate) value: Tensor,
    pub(crate) tangent: Tensor,
}

impl Dual {
    fn map(&self, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Self { value: f(&self.value)?, tangent: f(&self.tangent)? })
    }

    /// Both parts in another shape.
    pub(crate) fn reshape(&self, shape: &[usize]) -> Result<Self> {
        self.map(|x| x.reshape(shape))
    }

    /// A convolution: linear but for its bias.
    pub(crate) fn conv(
        &self,
        weight: &Tensor,
        bias: Option<&Tensor>,
        config: Conv2dConfig,
    ) -> Result<Self> {
        Ok(Self {
            value: Conv2d::new(weight.clone(), bias.cloned(), config).forward(&self.value)?,
            tangent: Conv2d::new(weight.clone(), None, config).forward(&self.tangent)?,
        })
    }

    /// A leaky ReLU; the slope at 0 is that below it, as in [`layers::leaky_relu`].
    pub(crate) fn leaky_relu(&self, slope: f64) -> Result<Self> {
        let positive = self.value.detach().gt(0.0)?.to_dtype(self.value.dtype())?;
        let slopes = ((positive * (1.0 - slope))? + slope)?;
        self.map(|x| x * &slopes)
    }

    /// `scale * x + shift`, both `[C]`, of `[B, C, N]`.
    pub(crate) fn affine(&self, scale: &Tensor, shift: &Tensor) -> Result<Self> {
        let scale = crate::batch_norm::spread(scale, &self.value)?;
        let shift = crate::batch_norm::spread(shift, &self.value)?;
        Ok(Self { value: ((&self.value * &scale)? + shift)?, tangent: (&self.tangent * &scale)? })
    }

    /// `(x - m) / sqrt(v + eps)` where m and v are mean and variance as `mean` sees
    /// them: a linear map to the same shape that averages groups of elements.
    ///
    /// With `c = x - m`, `c'` its derivative and `s = (v + eps)^-½` the derivative is
    /// `c' s - c s³ mean(c c')`.
    pub(crate) fn standardise(
        &self,
        eps: f64,
        mean: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Self> {
        let Self { value: c, tangent: moved } = self.map(|x| x - mean(x)?)?;
        let s = (mean(&c.sqr()?)? + eps)?.sqrt()?.recip()?;
        let along = ((&c * mean(&(&c * &moved)?)?)? * s.powf(3.0)?)?;
        Ok(Self { value: (&c * &s)?, tangent: ((moved * &s)? - along)? })
    }
}
