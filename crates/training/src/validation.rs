//! Measurements on held-out pictures and maps.

mod labels;

use anyhow::Result;
use candle_core::Tensor;
use codebook::CodeUsage;
use serde_json::{Value, json};
use vq_autoencoder::{ImageCodec, VqModel};

pub use labels::validate_labels;

use crate::observer::Terms;

/// What a perfect reconstruction counts as, in dB.
const MAX_PSNR: f64 = 100.0;

/// How well a model reconstructs what it was not trained on.
#[derive(Clone, Debug, PartialEq)]
pub struct Validation {
    /// Pictures or maps measured.
    pub pictures: usize,
    /// How well they are reconstructed.
    pub quality: Quality,
    /// Fraction of the codebook that they use.
    pub usage: f64,
    /// Perplexity of the codes: how many codes, were all used equally.
    pub perplexity: f64,
}

/// How well pictures or maps are reconstructed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Quality {
    /// Of pictures, and of depth maps, which are pictures of one channel.
    Pictures {
        /// Mean absolute difference of values in `[-1, 1]`.
        l1: f64,
        /// Mean over pictures of the peak signal-to-noise ratio in dB, of values
        /// clamped to `[-1, 1]`.
        psnr: f64,
        /// Mean over pictures of the structural similarity, likewise.
        ssim: f64,
        /// How much of the pictures' detail is there: the mean absolute difference of
        /// neighbouring pixels, as a fraction of the pictures' own. What is blurred is
        /// below 1.
        detail: f64,
    },
    /// Of label maps; a pixel's label is the likeliest.
    Labels {
        /// Mean binary cross entropy of the logits, over pixels and labels: the loss.
        bce: f64,
        /// The share of pixels whose label is right.
        accuracy: f64,
        /// Intersection over union of the pixels that have a label and those that are
        /// given it, all maps together; the mean over the labels that the maps have.
        mean_iou: f64,
    },
}

impl Validation {
    /// The measurements under the names they have in `metrics.jsonl`.
    pub fn terms(&self) -> Terms {
        let mut terms = Terms::from([
            ("pictures", self.pictures as f64),
            ("val_usage", self.usage),
            ("val_perplexity", self.perplexity),
        ]);
        match self.quality {
            Quality::Pictures { l1, psnr, ssim, detail } => terms.extend([
                ("val_l1", l1),
                ("val_psnr", psnr),
                ("val_ssim", ssim),
                ("val_detail", detail),
            ]),
            Quality::Labels { bce, accuracy, mean_iou } => terms.extend([
                ("val_bce", bce),
                ("val_accuracy", accuracy),
                ("val_mean_iou", mean_iou),
            ]),
        }
        terms
    }

    /// The measurements at `step`, as a model folder names them.
    pub(crate) fn to_json(&self, step: u64) -> Value {
        let mut value = json!({ "step": step, "pictures": self.pictures, "usage": self.usage,
                                "perplexity": self.perplexity });
        match self.quality {
            Quality::Pictures { l1, psnr, .. } => {
                value["l1"] = json!(l1);
                value["psnr"] = json!(psnr);
            }
            Quality::Labels { bce, accuracy, mean_iou } => {
                value["bce"] = json!(bce);
                value["accuracy"] = json!(accuracy);
                value["mean_iou"] = json!(mean_iou);
            }
        }
        value
    }
}

/// Reconstructs `batches` of pictures or depth maps `[B, C, H, W]` in `[-1, 1]` and
/// measures the difference.
///
/// # Errors
/// If a picture does not fit the model.
pub fn validate(model: &VqModel, batches: &[Tensor]) -> Result<Validation> {
    let mut usage = CodeUsage::new(model.codebook_len());
    let (mut pictures, mut l1, mut psnr, mut ssim) = (0, 0.0, 0.0, 0.0);
    let mut details = [0.0; 2];
    for images in batches {
        let codes = model.encode(images)?;
        let made = model.decode(&codes)?.clamp(-1.0, 1.0)?;
        usage.add(&codes)?;
        let difference = (images - &made)?.abs()?.flatten_from(1)?.mean(1)?.to_vec1::<f32>()?;
        l1 += difference.iter().map(|&x| f64::from(x)).sum::<f64>();
        // Identical pictures have an infinite ratio, which would swallow the mean.
        psnr += perceptual::psnr(images, &made, 2.0)?.iter().map(|x| x.min(MAX_PSNR)).sum::<f64>();
        ssim += perceptual::ssim(images, &made, 2.0)?.iter().sum::<f64>();
        details[0] += detail(&made)?;
        details[1] += detail(images)?;
        pictures += difference.len();
    }
    let n = pictures.max(1) as f64;
    Ok(Validation {
        pictures,
        quality: Quality::Pictures {
            l1: l1 / n,
            psnr: psnr / n,
            ssim: ssim / n,
            detail: if details[1] > 0.0 { details[0] / details[1] } else { 1.0 },
        },
        usage: usage.used_fraction(),
        perplexity: usage.perplexity(),
    })
}

/// The sum of absolute differences of neighbouring pixels of `[B, C, H, W]`.
fn detail(images: &Tensor) -> Result<f64> {
    let mut sum = 0.0;
    for dim in [2, 3] {
        let length = images.dim(dim)?.saturating_sub(1);
        let (a, b) = (images.narrow(dim, 0, length)?, images.narrow(dim, 1, length)?);
        let differences = (a - b)?.abs()?.to_dtype(candle_core::DType::F64)?;
        sum += differences.sum_all()?.to_scalar::<f64>()?;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn detail_is_what_neighbours_differ_by() -> Result<()> {
        let image = Tensor::new(&[[[[0f32, 1.0, -1.0], [0.5, 1.0, -1.0]]]], &Device::Cpu)?;
        // Across: 1 + 2 + 0.5 + 2; down: 0.5.
        assert_eq!(detail(&image)?, 6.0);
        assert_eq!(detail(&(image * 0.5)?)?, 3.0);
        Ok(())
    }
}
