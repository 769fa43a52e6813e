//! Convolution from candle's own ops: the oracle of the fast versions, and what
//! runs on devices and dtypes that have none.

use candle_core::{Result, Tensor};

use super::{Conv2dConfig, Padding};

/// `x` `[B, in, H, W]`, `weight` `[out, in, kh, kw]`, `bias` `[out]`.
///
/// # Errors
/// When shapes, dtypes or devices do not fit each other.
pub fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    config: Conv2dConfig,
) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    let (out_channels, _, kh, kw) = weight.dims4()?;
    config.output_size((h, w), (kh, kw))?;
    let Padding { top, bottom, left, right } = config.padding;
    let y = if [bottom, left, right] == [top; 3] {
        x.conv2d(weight, top, config.stride, 1, 1)?
    } else {
        let padded = x.pad_with_zeros(2, top, bottom)?.pad_with_zeros(3, left, right)?;
        padded.conv2d(weight, 0, config.stride, 1, 1)?
    };
    match bias {
        Some(bias) => y.broadcast_add(&bias.reshape((1, out_channels, 1, 1))?),
        None => Ok(y),
    }
}
