//! Half precision where sums and exponentials need the digits of f32.

use candle_core::{DType, Result, Tensor};

/// `x`, in f32 where it is in half precision.
pub(crate) fn wide(x: &Tensor) -> Result<Tensor> {
    match x.dtype() {
        DType::F16 | DType::BF16 => x.to_dtype(DType::F32),
        _ => Ok(x.clone()),
    }
}
