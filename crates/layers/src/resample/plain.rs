//! Nearest upsampling from candle's own ops: the oracle of the fast version, and
//! what runs on devices and dtypes that have none.

use candle_core::{Result, Tensor};

/// Every pixel four times: `[B, C, H, W]` to `[B, C, 2H, 2W]`.
///
/// Broadcast and reshape, because candle's `upsample_nearest2d` loses gradient
/// when its input is used elsewhere too.
///
/// # Errors
/// When `x` does not have four dimensions.
pub fn upsample_nearest2x(x: &Tensor) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    x.reshape((b, c, h, 1, w, 1))?.broadcast_as((b, c, h, 2, w, 2))?.reshape((b, c, 2 * h, 2 * w))
}
