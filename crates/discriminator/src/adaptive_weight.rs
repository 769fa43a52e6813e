//! How much the adversarial loss counts.

use candle_core::{DType, Result, Tensor};

/// Added to the adversarial gradient's norm.
const DELTA: f64 = 1e-4;
/// Largest weight.
const MAX: f64 = 1e4;

/// The adaptive weight λ of eq. 7 (Esser et al. 2021), a scalar without graph:
/// `clamp(‖∇nll‖ / (‖∇g‖ + 1e-4), 0, 1e4)`.
///
/// Both are gradients with respect to the weight of the decoder's last
/// convolution, in any (equal) shape; norms are Frobenius norms, in f32 at least.
/// The reference multiplies the result by `disc_weight` after clamping, and
/// computes it also before the adversary takes part. NaN stays NaN, so that a
/// broken gradient is seen.
///
/// # Errors
/// When the shapes differ.
pub fn adaptive_weight(nll_grad: &Tensor, g_grad: &Tensor) -> Result<Tensor> {
    if nll_grad.shape() != g_grad.shape() {
        candle_core::bail!(
            "adaptive_weight: gradients {:?} and {:?} are not of the same parameter",
            nll_grad.shape(),
            g_grad.shape()
        )
    }
    let ratio = norm(nll_grad)?.div(&(norm(g_grad)? + DELTA)?)?;
    // candle's minimum and maximum on a GPU take the other number where one is NaN.
    ratio.eq(&ratio)?.where_cond(&ratio.clamp(0.0, MAX)?, &ratio)
}

/// How much the adversarial loss counts in `step`: 0 before `start`, then in even steps
/// up to 1 over `ramp` steps. With a ramp of 0 it is taming's `adopt_weight`, which counts
/// batches from 0.
pub fn ramp(step: u64, start: u64, ramp: u64) -> f64 {
    match step.checked_sub(start) {
        None => 0.0,
        Some(done) if done < ramp => (done + 1) as f64 / (ramp + 1) as f64,
        Some(_) => 1.0,
    }
}

fn norm(t: &Tensor) -> Result<Tensor> {
    let dtype = if t.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    t.detach().to_dtype(dtype)?.sqr()?.sum_all()?.sqrt()
}

#[cfg(test)]
mod tests;
