//! Norms and activations of rows.

use simd::elementary::{erf, exp, sigmoid};
use simd::vector::Vector;

use super::layer::Norm;

/// The sum of `x`, or of its squares: lane by lane, then what is left over.
#[inline(always)]
unsafe fn sum<S: Vector, const SQUARES: bool>(x: &[f32]) -> f32 {
    let whole = x.len() / S::LANES * S::LANES;
    // SAFETY: the machine has the instruction set (contract); all loads are within `x`.
    unsafe {
        let mut sum = S::splat(0.0);
        let mut at = 0;
        while at < whole {
            let x = S::load(x.as_ptr().add(at));
            sum = if SQUARES { x.mul_add(x, sum) } else { sum.plus(x) };
            at += S::LANES;
        }
        let mut total = sum.sum();
        for &x in &x[whole..] {
            total += if SQUARES { x * x } else { x };
        }
        total
    }
}

/// Writes the norm of row `x` to `to`.
///
/// # Safety
/// The machine must have the instruction set of `S`.
#[inline(always)]
pub(crate) unsafe fn norm<S: Vector>(norm: &Norm, x: &[f32], to: &mut [f32]) {
    let count = x.len() as f32;
    match norm {
        Norm::Layer { weight, bias, eps } => {
            // SAFETY: the instruction set is there (contract).
            let mean = unsafe { sum::<S, false>(x) } / count;
            for (to, x) in to.iter_mut().zip(x) {
                *to = x - mean;
            }
            // SAFETY: as above.
            let variance = unsafe { sum::<S, true>(to) } / count;
            let scale = 1.0 / (variance + eps).sqrt();
            for ((to, weight), bias) in to.iter_mut().zip(weight.iter()).zip(bias.iter()) {
                *to = *to * scale * weight + bias;
            }
        }
        Norm::Rms { weight, eps } => {
            // SAFETY: as above.
            let mean = unsafe { sum::<S, true>(x) } / count;
            let scale = 1.0 / (mean + eps).sqrt();
            for ((to, x), weight) in to.iter_mut().zip(x).zip(weight.iter()) {
                *to = x * scale * weight;
            }
        }
    }
}

/// `x / 2 (1 + erf(x / sqrt(2)))`.
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// `x / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

/// Turns scores into weights that are not yet divided by their sum, which is returned.
/// Minus infinity is to have no weight.
///
/// # Safety
/// The machine must have the instruction set of `S`.
#[inline(always)]
pub(crate) unsafe fn exponentials<S: Vector>(scores: &mut [f32]) -> f32 {
    const LANES: usize = 16;
    let mut largest = [f32::NEG_INFINITY; LANES];
    let chunks = scores.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (largest, &score) in largest.iter_mut().zip(chunk) {
            *largest = if score > *largest { score } else { *largest };
        }
    }
    let largest = largest.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    for score in scores.iter_mut() {
        let weight = exp(*score - largest);
        *score = if *score == f32::NEG_INFINITY { 0.0 } else { weight };
    }
    // SAFETY: the instruction set is there (contract).
    unsafe { sum::<S, false>(scores) }
}
