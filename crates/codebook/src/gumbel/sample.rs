//! The Gumbel-softmax sample of training.

use candle_core::{D, Tensor};
use candle_nn::ops::softmax;

use super::{GumbelQuantizer, OP};
use crate::feature_map::{FeatureMap, precise};
use crate::{Error, Losses, Quantized, Quantizer, Result, argmax_rows};

/// Inside the logarithm of the divergence, as in the reference.
const EPS: f64 = 1e-10;

impl GumbelQuantizer {
    /// A sample for training: `y = softmax((logits + noise) / temperature)`.
    ///
    /// `z: [B, features, H, W]`, `noise: [B, K, H, W]` from
    /// [`gumbel_noise`](crate::gumbel_noise). The embeddings are the mean of the
    /// codebook under `y`, or, with `hard`, the row of its largest entry with
    /// the gradient of `y` (`y_hard - sg[y] + y`, torch's `gumbel_softmax`).
    /// The codes are the arg-max of `y`. The loss (`total`, also in `extra`) is
    /// `kl_weight * KL(softmax(logits) || uniform)`, averaged over positions.
    ///
    /// Holds several `[B * H * W, K]` matrices, for the gradient.
    ///
    /// # Errors
    /// If a shape does not fit, the batch is empty, the temperature is not
    /// positive, or a logit is NaN.
    pub fn sample(
        &self,
        z: &Tensor,
        temperature: f64,
        hard: bool,
        noise: &Tensor,
    ) -> Result<Quantized> {
        self.sample_with(z, temperature, hard, Some(noise))
    }

    pub(super) fn sample_with(
        &self,
        z: &Tensor,
        temperature: f64,
        hard: bool,
        noise: Option<&Tensor>,
    ) -> Result<Quantized> {
        if !(temperature > 0.0 && temperature.is_finite()) {
            return Err(Error::Config(format!(
                "{OP}: the temperature is {temperature}; it must be positive"
            )));
        }
        let map = FeatureMap::new(OP, z, self.features())?;
        if map.vectors.dim(0)? == 0 {
            return Err(Error::Shape {
                op: OP,
                what: "feature map",
                shape: z.dims().to_vec(),
                expected: "at least one vector, or there is no mean loss".to_owned(),
            });
        }
        let logits = self.logits(&map.vectors)?;
        let perturbed = match noise {
            Some(noise) => (&logits + self.noise_rows(noise, &map)?)?,
            None => logits.clone(),
        };
        let soft = softmax(&(perturbed / temperature)?, D::Minus1)?;
        let codes = argmax_rows(&soft)?;
        let weights = if hard {
            let one_hot = one_hot(&codes, &soft)?;
            ((one_hot - soft.detach())? + &soft)?
        } else {
            soft
        };
        let codebook = precise(&self.codebook)?.to_dtype(weights.dtype())?;
        let embeddings = map.like(&weights.matmul(&codebook)?)?;
        let losses = self.losses(&logits)?;
        Ok(Quantized { embeddings, codes: map.grid(&codes)?, losses })
    }

    /// The noise `[B, K, H, W]` in the order of the logits, `[N, K]`.
    fn noise_rows(&self, noise: &Tensor, map: &FeatureMap) -> Result<Tensor> {
        let (b, h, w) = map.size;
        if *noise.dims() != [b, self.len(), h, w] {
            return Err(Error::Shape {
                op: OP,
                what: "noise",
                shape: noise.dims().to_vec(),
                expected: format!("[{b}, {}, {h}, {w}]", self.len()),
            });
        }
        let rows = FeatureMap::new(OP, &noise.detach(), self.len())?.vectors;
        Ok(rows.to_dtype(map.vectors.dtype())?)
    }

    /// The divergence of the noise-free distribution from the uniform one.
    fn losses(&self, logits: &Tensor) -> Result<Losses> {
        let p = softmax(logits, D::Minus1)?;
        let log_ratio = ((&p * self.len() as f64)? + EPS)?.log()?;
        let divergence = (p * log_ratio)?.sum(D::Minus1)?.mean_all()?;
        let total = (divergence * self.kl_weight)?;
        let zero = total.zeros_like()?.detach();
        Ok(Losses { codebook: zero.clone(), commitment: zero, extra: Some(total.clone()), total })
    }
}

/// One 1 a row, at its code: `[N, K]`, like `weights`.
fn one_hot(codes: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let index = codes.unsqueeze(1)?;
    let ones = Tensor::ones(index.shape(), weights.dtype(), weights.device())?;
    Ok(Tensor::zeros(weights.shape(), weights.dtype(), weights.device())?
        .scatter_add(&index, &ones, 1)?)
}
