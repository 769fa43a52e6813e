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
    let (oh, ow) = config.output_size((h, w), (kh, kw))?;
    let Conv2dConfig { stride, padding: Padding { top, bottom, left, right } } = config;
    // The rows and columns that the kernel reads; the rest is left out, because candle's
    // gradient fails where stride leaves another remainder in one direction than in the
    // other.
    let (read_h, read_w) = ((oh - 1) * stride + kh, (ow - 1) * stride + kw);
    let all_read = read_h == h + top + bottom && read_w == w + left + right;
    let y = if [bottom, left, right] == [top; 3] && all_read {
        x.conv2d(weight, top, stride, 1, 1)?
    } else {
        let padded = x.pad_with_zeros(2, top, bottom)?.pad_with_zeros(3, left, right)?;
        padded.narrow(2, 0, read_h)?.narrow(3, 0, read_w)?.conv2d(weight, 0, stride, 1, 1)?
    };
    match bias {
        Some(bias) => y.broadcast_add(&bias.reshape((1, out_channels, 1, 1))?),
        None => Ok(y),
    }
}
