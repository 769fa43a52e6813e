//! How far a reconstruction is from its picture.

use anyhow::Result;
use candle_core::Tensor;
use perceptual::Lpips;

use crate::config::PixelLoss;
use crate::observer::Terms;

/// Pixel loss plus weighted LPIPS.
pub struct ReconstructionLoss {
    pixel: PixelLoss,
    perceptual: Option<(Lpips, f64)>,
}

impl ReconstructionLoss {
    /// Pixels alone, or with LPIPS of a weight.
    pub fn new(pixel: PixelLoss, perceptual: Option<(Lpips, f64)>) -> Self {
        Self { pixel, perceptual }
    }

    /// The scalar `mean(pixel) + weight * mean(LPIPS)` of `images` and `made`,
    /// both `[B, 3, H, W]` in `[-1, 1]`.
    ///
    /// Source: `VQLPIPSWithDiscriminator.forward` of taming-transformers, whose
    /// `nll_loss` this is; LPIPS is in evaluation mode (the reference leaves
    /// its dropout on by accident).
    pub(super) fn nll(&self, images: &Tensor, made: &Tensor, terms: &mut Terms) -> Result<Tensor> {
        let difference = (images - made)?;
        let pixels = match self.pixel {
            PixelLoss::L1 => layers::abs(&difference)?.mean_all()?,
            PixelLoss::L2 => difference.sqr()?.mean_all()?,
        };
        terms.insert("pixel_loss", f64::from(pixels.to_scalar::<f32>()?));
        let Some((lpips, weight)) = &self.perceptual else { return Ok(pixels) };
        let perceptual = lpips.forward(images, made)?.mean_all()?;
        terms.insert("p_loss", f64::from(perceptual.to_scalar::<f32>()?));
        Ok((pixels + (perceptual * *weight)?)?)
    }
}
