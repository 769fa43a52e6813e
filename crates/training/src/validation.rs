//! Measurements on held-out pictures.

use anyhow::Result;
use candle_core::Tensor;
use codebook::CodeUsage;
use vq_autoencoder::{ImageCodec, VqModel};

use crate::observer::Terms;

/// What a perfect reconstruction counts as, in dB.
const MAX_PSNR: f64 = 100.0;

/// How well a model reconstructs pictures it was not trained on.
#[derive(Clone, Debug, PartialEq)]
pub struct Validation {
    /// Pictures measured.
    pub pictures: usize,
    /// Mean absolute difference of values in `[-1, 1]`.
    pub l1: f64,
    /// Mean over pictures of the peak signal-to-noise ratio in dB, of values
    /// clamped to `[-1, 1]`.
    pub psnr: f64,
    /// Fraction of the codebook that these pictures use.
    pub usage: f64,
    /// Perplexity of the codes: how many codes, were all used equally.
    pub perplexity: f64,
}

impl Validation {
    /// The measurements under the names they have in `metrics.jsonl`.
    pub fn terms(&self) -> Terms {
        Terms::from([
            ("pictures", self.pictures as f64),
            ("val_l1", self.l1),
            ("val_psnr", self.psnr),
            ("val_usage", self.usage),
            ("val_perplexity", self.perplexity),
        ])
    }
}

/// Reconstructs `batches` of pictures `[B, 3, H, W]` in `[-1, 1]` and measures
/// the difference.
///
/// # Errors
/// If a picture does not fit the model.
pub fn validate(model: &VqModel, batches: &[Tensor]) -> Result<Validation> {
    let mut usage = CodeUsage::new(model.codebook_len());
    let (mut pictures, mut l1, mut psnr) = (0, 0.0, 0.0);
    for images in batches {
        let codes = model.encode(images)?;
        let made = model.decode(&codes)?.clamp(-1.0, 1.0)?;
        usage.add(&codes)?;
        let difference = (images - &made)?.abs()?.flatten_from(1)?.mean(1)?.to_vec1::<f32>()?;
        l1 += difference.iter().map(|&x| f64::from(x)).sum::<f64>();
        // Identical pictures have an infinite ratio, which would swallow the mean.
        psnr += perceptual::psnr(images, &made, 2.0)?.iter().map(|x| x.min(MAX_PSNR)).sum::<f64>();
        pictures += difference.len();
    }
    let n = pictures.max(1) as f64;
    Ok(Validation {
        pictures,
        l1: l1 / n,
        psnr: psnr / n,
        usage: usage.used_fraction(),
        perplexity: usage.perplexity(),
    })
}
