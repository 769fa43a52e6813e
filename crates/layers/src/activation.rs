//! Pointwise functions, with gradients that agree with PyTorch's everywhere.
//!
//! candle's own `relu` and `abs` have wrong gradients at exactly 0, which padding
//! and dead features hit all the time.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use crate::cpu;
use crate::tape::{Tape, sum};

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

/// [`leaky_relu`] on a tape.
///
/// # Errors
/// As there.
pub fn leaky_relu_taped(x: &Tensor, slope: f64, tape: &mut Tape) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if crate::cuda::supports(&[x]) {
        let (x, slope) = (x.detach(), slope as f32);
        let [y] = crate::cuda::map("leaky", [&x], slope)?;
        tape.push(move |dy, plus, _| {
            let [dx] = crate::cuda::map("leaky_back", [&x, dy], slope)?;
            sum(dx, plus).map(Some)
        });
        return Ok(y);
    }
    if !cpu::supports(x) {
        return tape.record(x, |x| leaky_relu(x, slope));
    }
    let slope = slope as f32;
    let y = zip([x, x], |x, _| if x > 0.0 { x } else { x * slope })?;
    let x = x.detach();
    tape.push(move |dy, plus, _| {
        let dx = zip([&x, dy], |x, dy| if x > 0.0 { dy } else { dy * slope })?;
        sum(dx, plus).map(Some)
    });
    Ok(y)
}

/// `f` of each pair of elements, of f32 tensors of one shape on the CPU.
fn zip(tensors: [&Tensor; 2], f: impl Fn(f32, f32) -> f32 + Sync) -> Result<Tensor> {
    /// Elements a thread takes at a time.
    const CHUNK: usize = 1 << 14;
    let (shape, device) = (tensors[0].shape(), tensors[0].device());
    let values = cpu::with_slices(tensors, |[a, b]| {
        let mut values = vec![0.0; a.len()];
        let sources = a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK));
        values.par_chunks_mut(CHUNK).zip(sources).for_each(|(to, (a, b))| {
            to.iter_mut().zip(a.iter().zip(b)).for_each(|(to, (a, b))| *to = f(*a, *b));
        });
        values
    })?;
    Tensor::from_vec(values, shape, device)
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
