//! Group norm from candle's own ops: the oracle of the fast versions, and what
//! runs on devices and dtypes that have none.

use candle_core::{D, DType, Result, Tensor};

use crate::wide::wide;

/// `x` `[B, C, H, W]`, `weight` and `bias` `[C]`; mean and (biased) variance over
/// each group of `C / groups` channels and all positions, of half precision in f32.
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
    check(x, weight, bias)?;
    let grouped = wide(&x.reshape((b, groups, c / groups * h * w))?)?;
    let centred = grouped.broadcast_sub(&grouped.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = centred.broadcast_div(&(variance + eps)?.sqrt()?)?.reshape((b, c, h, w))?;
    affine(&normed.to_dtype(x.dtype())?, weight, bias)
}

/// Mean and variance, in f64, of every group of `x` `[1, C, H, W]`.
///
/// # Errors
/// When the elements of `x` do not split into `groups`.
pub fn moments(x: &Tensor, groups: usize) -> Result<Vec<(f64, f64)>> {
    // Half precision has no room for a sum over a group.
    let grouped = wide(x)?.reshape((groups, ()))?;
    let mean = grouped.mean_keepdim(D::Minus1)?;
    let variance = grouped.broadcast_sub(&mean)?.sqr()?.mean(D::Minus1)?;
    let list = |x: Tensor| x.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>();
    Ok(list(mean)?.into_iter().zip(list(variance)?).collect())
}

/// [`group_norm`] with the mean and variance of each group given.
///
/// # Errors
/// When the channels of `x`, `weight` and `bias` differ.
pub fn group_norm_with(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    moments: &[(f64, f64)],
    eps: f64,
) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    check(x, weight, bias)?;
    let groups = moments.len();
    let (mean, deviation): (Vec<f64>, Vec<f64>) =
        moments.iter().map(|(mean, variance)| (*mean, (variance + eps).sqrt())).unzip();
    let per_group =
        |values| Tensor::from_vec(values, (1, groups, 1), x.device())?.to_dtype(x.dtype());
    let grouped = x.reshape((b, groups, c / groups * h * w))?;
    let centred = grouped.broadcast_sub(&per_group(mean)?)?;
    let normed = centred.broadcast_div(&per_group(deviation)?)?.reshape((b, c, h, w))?;
    affine(&normed, weight, bias)
}

/// Refuses an affine map that does not fit the channels of `x`.
fn check(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<()> {
    let c = x.dim(1)?;
    if weight.dims() != [c] || bias.dims() != [c] {
        candle_core::bail!(
            "group_norm: weight {:?} and bias {:?} do not fit an input of shape {:?}",
            weight.shape(),
            bias.shape(),
            x.shape()
        )
    }
    Ok(())
}

/// `x` `[B, C, H, W]` times `weight` plus `bias`, both `[C]`.
fn affine(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let c = x.dim(1)?;
    x.broadcast_mul(&weight.reshape((1, c, 1, 1))?)?.broadcast_add(&bias.reshape((1, c, 1, 1))?)
}
