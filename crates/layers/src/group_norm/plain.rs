//! Group norm from candle's own ops: the oracle of the fast versions, and what
//! runs on devices and dtypes that have none.

use candle_core::{D, Result, Tensor};

/// `x` `[B, C, H, W]`, `weight` and `bias` `[C]`; mean and (biased) variance over
/// each group of `C / groups` channels and all positions.
///
/// # Errors
/// When the channels of `x`, `weight` and `bias` differ.
pub fn group_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: usize,
    eps: f64,
) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    if weight.dims() != [c] || bias.dims() != [c] {
        candle_core::bail!(
            "group_norm: weight {:?} and bias {:?} do not fit an input of shape {:?}",
            weight.shape(),
            bias.shape(),
            x.shape()
        )
    }
    let grouped = x.reshape((b, groups, c / groups * h * w))?;
    let centred = grouped.broadcast_sub(&grouped.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = centred.broadcast_div(&(variance + eps)?.sqrt()?)?.reshape((b, c, h, w))?;
    normed
        .broadcast_mul(&weight.reshape((1, c, 1, 1))?)?
        .broadcast_add(&bias.reshape((1, c, 1, 1))?)
}
