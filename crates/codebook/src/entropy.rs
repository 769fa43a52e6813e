//! The entropy loss: confident vectors, evenly used codes.

use candle_core::{D, Result, Tensor};
use candle_nn::ops::{log_softmax, softmax};

/// Added to the scaled affinity and inside the logarithm of the mean, as in the
/// reference.
const EPS: f64 = 1e-5;

/// `mean_n H(p_n) - H(mean_n p_n)` with `p = softmax(affinity / temperature)`:
/// a scalar, low when each vector is sure of its code and all codes are used.
///
/// `affinity: [N, K]` is larger for nearer codes. Source: LlamaGen
/// `compute_entropy_loss`, after MaskGIT.
pub fn entropy_loss(affinity: &Tensor, temperature: f64) -> Result<Tensor> {
    let affinity = (affinity / temperature)?;
    let p = softmax(&affinity, D::Minus1)?;
    let log_p = log_softmax(&(affinity + EPS)?, D::Minus1)?;
    let mean_p = p.mean(0)?;
    let entropy_of_mean = (&mean_p * (&mean_p + EPS)?.log()?)?.sum_all()?.neg()?;
    let mean_entropy = (p * log_p)?.sum(D::Minus1)?.mean_all()?.neg()?;
    mean_entropy - entropy_of_mean
}
