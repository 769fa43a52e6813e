//! Pointwise functions, with gradients that agree with PyTorch's everywhere.
//!
//! candle's own `relu` and `abs` have wrong gradients at exactly 0, which padding
//! and dead features hit all the time.

use candle_core::{Result, Tensor};

/// `x * sigmoid(x)`, in any shape.
///
/// # Errors
/// When `x` is not a float tensor.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    x.silu()
}

/// `max(x, 0)`, in any shape; the gradient at 0 is 0.
///
/// # Errors
/// When `x` is not a float tensor.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    x.mul(&x.gt(0.0)?.to_dtype(x.dtype())?)
}

/// `x` where positive, `slope * x` elsewhere; the gradient at 0 is `slope`.
///
/// # Errors
/// When `x` is not a float tensor.
pub fn leaky_relu(x: &Tensor, slope: f64) -> Result<Tensor> {
    let positive = x.gt(0.0)?.to_dtype(x.dtype())?;
    x.mul(&((positive * (1.0 - slope))? + slope)?)
}

/// `|x|`, in any shape; the gradient at 0 is 0.
///
/// # Errors
/// When `x` is not a float tensor.
pub fn abs(x: &Tensor) -> Result<Tensor> {
    let positive = x.gt(0.0)?.to_dtype(x.dtype())?;
    let negative = x.lt(0.0)?.to_dtype(x.dtype())?;
    x.mul(&(positive - negative)?)
}
