//! Halving and doubling the size of a feature map.

use candle_core::{Result, Tensor};
use candle_nn::{Module, VarBuilder};

use crate::conv::{Conv2d, Conv2dConfig, Padding, conv2d};
use crate::cpu;
use crate::tape::{Tape, Taped};

#[cfg(feature = "cuda")]
mod cuda;
mod fast;
pub mod plain;
mod pool;

/// Every pixel four times: `[B, C, H, W]` to `[B, C, 2H, 2W]`.
///
/// # Errors
/// When `x` does not have four dimensions.
pub fn upsample_nearest2x(x: &Tensor) -> Result<Tensor> {
    if crate::device::has_kernels(&[x]) {
        x.contiguous()?.apply_op1(fast::UpsampleOp)
    } else {
        plain::upsample_nearest2x(x)
    }
}

/// [`upsample_nearest2x`] on a tape.
///
/// # Errors
/// As there.
pub fn upsample_nearest2x_taped(x: &Tensor, tape: &mut Tape) -> Result<Tensor> {
    if !crate::device::has_kernels(&[x]) {
        return tape.record(x, upsample_nearest2x);
    }
    tape.push(|dy, plus, _| fast::gradient(dy, plus).map(Some));
    upsample_nearest2x(&x.detach())
}

/// The maximum of each 2x2 block: `[B, C, H, W]` to `[B, C, H/2, W/2]`, an odd
/// last row or column left out, as `MaxPool2d(2)` does.
///
/// The gradient goes to the first maximum of a block in reading order, as
/// PyTorch's does; candle's `max_pool2d` has a wrong one.
///
/// # Errors
/// When `x` does not have four dimensions or has a side shorter than 2.
pub fn max_pool2x2(x: &Tensor) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    if h < 2 || w < 2 {
        candle_core::bail!("max_pool2x2: a {h}x{w} feature map is smaller than the 2x2 window")
    }
    let (h, w) = (h / 2, w / 2);
    let blocks = x
        .narrow(2, 0, 2 * h)?
        .narrow(3, 0, 2 * w)?
        .reshape((b, c, h, 2, w, 2))?
        .permute((0, 1, 2, 4, 3, 5))?
        .reshape((b, c, h, w, 4))?;
    let first = blocks.detach().argmax_keepdim(4)?;
    blocks.gather(&first, 4)?.squeeze(4)
}

/// [`max_pool2x2`] on a tape.
///
/// # Errors
/// As there.
pub fn max_pool2x2_taped(x: &Tensor, tape: &mut Tape) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    if !cpu::supports(x) || b * c == 0 || h < 2 || w < 2 {
        return tape.record(x, max_pool2x2);
    }
    let (y, places) = cpu::with_slices([x], |[x]| pool::forward(x, (h, w)))?;
    tape.push(move |dy, plus, _| {
        let shape = (b, c, h, w);
        if dy.dims() != [b, c, h / 2, w / 2] || plus.is_some_and(|plus| plus.dims() != [b, c, h, w])
        {
            candle_core::bail!("max_pool2x2: a gradient {:?} for an input {shape:?}", dy.shape())
        }
        // `dy` stands in for what is not there.
        let dx = cpu::with_slices([dy, plus.unwrap_or(dy)], |[dy, other]| {
            pool::gradient(dy, &places, (h, w), plus.is_some().then_some(other))
        })?;
        Tensor::from_vec(dx, shape, dy.device()).map(Some)
    });
    Tensor::from_vec(y, (b, c, h / 2, w / 2), x.device())
}

/// The reference's `Upsample`: nearest 2x, then a 3x3 convolution (key `conv`).
#[derive(Clone, Debug)]
pub struct Upsample {
    conv: Conv2d,
}

impl Upsample {
    /// An upsampling followed by `conv`.
    pub fn new(conv: Conv2d) -> Self {
        Self { conv }
    }
}

impl Taped for Upsample {
    fn forward_taped(&self, x: &Tensor, tape: &mut Tape) -> Result<Tensor> {
        let larger = upsample_nearest2x_taped(x, tape)?;
        self.conv.forward_taped(&larger, tape)
    }
}

impl Module for Upsample {
    /// `[B, C, H, W]` to `[B, C, 2H, 2W]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.conv.forward_upsampled(x)
    }
}

/// An [`Upsample`] of `channels` channels.
///
/// # Errors
/// When `vb` lacks a key.
pub fn upsample(channels: usize, vb: VarBuilder) -> Result<Upsample> {
    Ok(Upsample { conv: conv2d(channels, channels, 3, Conv2dConfig::same(3), vb.pp("conv"))? })
}

/// The reference's `Downsample`: one row and column of zeros at the right and the
/// bottom only, then a 3x3 convolution of stride 2 (key `conv`).
#[derive(Clone, Debug)]
pub struct Downsample {
    conv: Conv2d,
}

impl Taped for Downsample {
    fn forward_taped(&self, x: &Tensor, tape: &mut Tape) -> Result<Tensor> {
        self.conv.forward_taped(x, tape)
    }
}

impl Module for Downsample {
    /// `[B, C, H, W]` to `[B, C, H/2, W/2]`, rounded down.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.conv.forward(x)
    }
}

/// A [`Downsample`] of `channels` channels.
///
/// # Errors
/// When `vb` lacks a key.
pub fn downsample(channels: usize, vb: VarBuilder) -> Result<Downsample> {
    let config =
        Conv2dConfig { stride: 2, padding: Padding { top: 0, bottom: 1, left: 0, right: 1 } };
    Ok(Downsample { conv: conv2d(channels, channels, 3, config, vb.pp("conv"))? })
}
