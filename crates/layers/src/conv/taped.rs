//! A convolution on a tape.

use candle_core::{Result, Tensor};
use candle_nn::Module;

use super::geometry::Geometry;
use super::{Conv2d, fast};
use crate::device::has_kernels;
use crate::factors::Factors;
use crate::tape::{Tape, Taped, sum};

impl Taped for Conv2d {
    fn forward_taped(&self, x: &Tensor, tape: &mut Tape) -> Result<Tensor> {
        forward(self, x, None, tape)
    }
}

impl Conv2d {
    /// `residual + self.forward(x)` on a tape, which knows nothing of `residual`: its
    /// gradient is that of the output.
    ///
    /// # Errors
    /// As for [`Conv2d::forward_add`] and [`Taped::forward_taped`].
    pub fn forward_add_taped(
        &self,
        x: &Tensor,
        residual: &Tensor,
        tape: &mut Tape,
    ) -> Result<Tensor> {
        forward(self, x, Some(residual), tape)
    }

    /// The gradient to the weight, `[out, in, kh, kw]`, for an input `x`
    /// `[B, in, H, W]` and the gradient `dy` `[B, out, H', W']` of the output.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn weight_gradient(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        if has_kernels(&[x, dy]) {
            return fast::weight_gradient(&geometry(self, x, dy)?, x, dy, Factors::F32);
        }
        let weight = candle_core::Var::from_tensor(&self.weight.copy()?)?;
        let conv = Self::new(weight.as_tensor().clone(), None, self.config);
        let mut store = (conv.forward(&x.detach())? * dy)?.sum_all()?.backward()?;
        store.remove(weight.as_tensor()).map_or_else(|| self.weight.zeros_like(), Ok)
    }
}

/// The sizes, checked against the gradient of the output.
fn geometry(conv: &Conv2d, x: &Tensor, dy: &Tensor) -> Result<Geometry> {
    let g = Geometry::new(x.shape(), conv.weight.shape(), conv.config)?;
    if dy.dims() != [g.batch, g.out_channels, g.oh, g.ow] {
        candle_core::bail!("conv2d: a gradient {:?} for an input {:?}", dy.shape(), x.shape())
    }
    Ok(g)
}

fn forward(
    conv: &Conv2d,
    x: &Tensor,
    residual: Option<&Tensor>,
    tape: &mut Tape,
) -> Result<Tensor> {
    let bias = conv.bias.as_ref().unwrap_or(&conv.weight);
    if !has_kernels(&[x, &conv.weight, bias, residual.unwrap_or(x)]) {
        return sum(tape.record(x, |x| conv.forward(x))?, residual);
    }
    let g = Geometry::new(x.shape(), conv.weight.shape(), conv.config)?;
    let shape = [g.batch, g.out_channels, g.oh, g.ow];
    if let Some(residual) = residual.filter(|residual| residual.dims() != shape) {
        candle_core::bail!("conv2d: {:?} cannot be added to {shape:?}", residual.shape())
    }
    if let Some(bias) = conv.bias.as_ref().filter(|bias| bias.dims() != [g.out_channels]) {
        candle_core::bail!("conv2d: {:?} for {} output channels", bias.shape(), g.out_channels)
    }
    let factors = tape.factors();
    let y = fast::forward_untracked(&g, x, conv, residual, factors)?;
    let trains_weight = tape.wants(&conv.weight)?;
    let bias = conv.bias.as_ref();
    let trained_bias =
        bias.map(|bias| tape.wants(bias)).transpose()?.unwrap_or(false).then_some(bias).flatten();
    let (conv, x, bias) = (conv.clone(), x.detach(), trained_bias.cloned());
    let wants_input = tape.wants_input();
    tape.push(move |dy, plus, gradients| {
        let g = geometry(&conv, &x, dy)?;
        if trains_weight {
            gradients.add(&conv.weight, fast::weight_gradient(&g, &x, dy, factors)?)?;
        }
        if let Some(bias) = &bias {
            gradients.add(bias, fast::bias_gradient(&g, dy)?)?;
        }
        // The feature map may be large: it is not needed for what follows.
        drop(x);
        wants_input.then(|| fast::input_gradient(&g, &conv.weight, dy, plus, factors)).transpose()
    });
    Ok(y)
}
