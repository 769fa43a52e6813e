//! Two-dimensional convolution.

use candle_core::{DType, Result, Tensor};
use candle_nn::{Init, Module, VarBuilder};

use crate::group_norm::NormSilu;

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
mod cudnn;
mod fast;
mod fused;
mod geometry;
mod halved;
mod kernels;
mod narrow;
mod panels;
mod patches;
pub mod plain;
mod pointwise;
mod square;
mod strided;
mod taped;
mod tiled;
mod weight;
mod winograd;

/// Zeros put around a feature map before a convolution, per side, in pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Padding {
    /// Rows above.
    pub top: usize,
    /// Rows below.
    pub bottom: usize,
    /// Columns to the left.
    pub left: usize,
    /// Columns to the right.
    pub right: usize,
}

impl Padding {
    /// No padding.
    pub const ZERO: Self = Self { top: 0, bottom: 0, left: 0, right: 0 };

    /// The same padding on all four sides.
    pub const fn same(pixels: usize) -> Self {
        Self { top: pixels, bottom: pixels, left: pixels, right: pixels }
    }
}

/// Stride and padding of a convolution. Default: stride 1, no padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dConfig {
    /// Step of the kernel, in pixels, in both directions; at least 1.
    pub stride: usize,
    /// Zeros around the input.
    pub padding: Padding,
}

impl Default for Conv2dConfig {
    fn default() -> Self {
        Self { stride: 1, padding: Padding::ZERO }
    }
}

impl Conv2dConfig {
    /// Stride 1 and `kernel / 2` pixels of padding: an odd kernel keeps the size.
    pub const fn same(kernel: usize) -> Self {
        Self { stride: 1, padding: Padding::same(kernel / 2) }
    }

    /// The output size `(h, w)` for an input of `h` x `w` pixels.
    ///
    /// # Errors
    /// When the padded input is smaller than the kernel, or the stride is 0.
    pub fn output_size(
        &self,
        (h, w): (usize, usize),
        (kh, kw): (usize, usize),
    ) -> Result<(usize, usize)> {
        let (ph, pw) = (
            h + self.padding.top + self.padding.bottom,
            w + self.padding.left + self.padding.right,
        );
        if self.stride == 0 || ph < kh || pw < kw {
            candle_core::bail!(
                "conv2d: a {kh}x{kw} kernel with stride {} does not fit a {h}x{w} input padded to {ph}x{pw}",
                self.stride
            )
        }
        Ok(((ph - kh) / self.stride + 1, (pw - kw) / self.stride + 1))
    }
}

/// A convolution layer; keys `weight` `[out, in, kh, kw]` and `bias` `[out]`.
#[derive(Clone, Debug)]
pub struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    config: Conv2dConfig,
    /// See [`Conv2d::allow_pairs`].
    pairs: bool,
    rounded: tiled::Packed<1>,
    split: tiled::Packed<3>,
}

impl Conv2d {
    /// A convolution with the given weight `[out, in, kh, kw]` and bias `[out]`.
    ///
    /// Without gradients, as of weights that were loaded, kernels may keep a weight as they take it:
    /// a tensor that is no variable is expected to stay as it is.
    pub fn new(weight: Tensor, bias: Option<Tensor>, config: Conv2dConfig) -> Self {
        Self {
            weight,
            bias,
            config,
            pairs: false,
            rounded: tiled::Packed::default(),
            split: tiled::Packed::default(),
        }
    }

    /// Lets factors be the sums of two numbers of bf16, in f32 without gradients, where the layer has
    /// few output channels and the CPU multiplies tiles of these (AMX): that is faster.
    ///
    /// 2^-17 of a number is left out, at most, and the product of the smaller numbers: some 4e-6 of
    /// the largest output, where plain sums are off by 2e-7 and transforms by 2e-6. That does for
    /// pixels. It would not for what other layers go on with, one after the other.
    pub fn allow_pairs(&mut self) {
        self.pairs = true;
    }

    /// `residual + self.forward(x)`, `residual` of the output's shape: in one pass
    /// where no gradient is asked for.
    ///
    /// # Errors
    /// As for the forward pass, and when the shapes differ.
    pub fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        if halved::takes(self, x) && crate::cpu::supports(residual) && !residual.track_op() {
            return halved::forward(self, x, None, Some(residual));
        }
        match fused::add(self, x, residual)? {
            Some(y) => Ok(y),
            None => residual + self.forward(x)?,
        }
    }

    /// `self.forward(x)` of a map that is to be normed first, plus `residual`, of the output's
    /// shape: in one pass where that is to be had and no gradient is asked for.
    ///
    /// # Errors
    /// As for [`NormSilu::compute`], the forward pass and [`Self::forward_add`].
    pub fn forward_normed(&self, x: &NormSilu, residual: Option<&Tensor>) -> Result<Tensor> {
        match (fused::normed(self, x, residual)?, residual) {
            (Some(y), _) => Ok(y),
            (None, Some(residual)) => self.forward_add(&x.compute()?, residual),
            (None, None) => self.forward(&x.compute()?),
        }
    }

    /// `self.forward(upsample_nearest2x(x))`: in one pass where no gradient is asked
    /// for.
    ///
    /// # Errors
    /// As for the forward pass.
    pub fn forward_upsampled(&self, x: &Tensor) -> Result<Tensor> {
        let fused = if halved::takes(self, x) {
            halved::upsampled(self, x)?
        } else {
            fused::upsample(self, x)?
        };
        match fused {
            Some(y) => Ok(y),
            None => self.forward(&crate::upsample_nearest2x(x)?),
        }
    }

    /// The weight, `[out, in, kh, kw]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The dtype of the feature maps that the layer takes and makes: that of its bias. On a CPU
    /// a bias of f32 may stand beside a weight of half precision.
    pub fn maps_dtype(&self) -> DType {
        self.bias.as_ref().unwrap_or(&self.weight).dtype()
    }

    /// The bias, `[out]`, where the layer has one.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }
}

impl Module for Conv2d {
    /// `[B, in, H, W]` to `[B, out, H', W']`, see [`Conv2dConfig::output_size`].
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if halved::takes(self, x) {
            return halved::forward(self, x, None, None);
        }
        if let Some(y) = fused::alone(self, x)? {
            return Ok(y);
        }
        let tensors = [x, &self.weight, self.bias.as_ref().unwrap_or(&self.weight)];
        if crate::device::has_kernels(&tensors) {
            fast::conv2d(x, &self.weight, self.bias.as_ref(), self.config)
        } else {
            plain::conv2d(x, &self.weight, self.bias.as_ref(), self.config)
        }
    }
}

/// A square convolution with a bias, initialised as PyTorch does.
///
/// # Errors
/// When `vb` lacks `weight` or `bias`, or holds them in other shapes.
pub fn conv2d(
    in_channels: usize,
    out_channels: usize,
    kernel: usize,
    config: Conv2dConfig,
    vb: VarBuilder,
) -> Result<Conv2d> {
    let init = torch_init(in_channels, kernel);
    let bias = vb.get_with_hints(out_channels, "bias", init)?;
    let bare = conv2d_no_bias(in_channels, out_channels, kernel, config, vb)?;
    Ok(Conv2d { bias: Some(bias), ..bare })
}

/// A square convolution without a bias, initialised as PyTorch does.
///
/// # Errors
/// When `vb` lacks `weight`, or holds it in another shape.
pub fn conv2d_no_bias(
    in_channels: usize,
    out_channels: usize,
    kernel: usize,
    config: Conv2dConfig,
    vb: VarBuilder,
) -> Result<Conv2d> {
    let init = torch_init(in_channels, kernel);
    let weight = vb.get_with_hints((out_channels, in_channels, kernel, kernel), "weight", init)?;
    Ok(Conv2d::new(weight, None, config))
}

/// PyTorch's default for weight and bias: uniform within ± fan_in^-½
/// (`kaiming_uniform_` with a = √5).
fn torch_init(in_channels: usize, kernel: usize) -> Init {
    let bound = 1.0 / ((in_channels * kernel * kernel).max(1) as f64).sqrt();
    Init::Uniform { lo: -bound, up: bound }
}

#[cfg(test)]
mod tests;
