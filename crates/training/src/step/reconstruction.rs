//! How far a reconstruction is from its picture.

use anyhow::Result;
use candle_core::Tensor;
use perceptual::{Lpips, Substitute};

use super::binary_cross_entropy;
use crate::config::PixelLoss;
use crate::readings::Readings;

/// A perceptual loss.
pub enum Perceptual {
    /// The reference's.
    Lpips(Lpips),
    /// What needs no weights.
    Substitute(Substitute),
}

impl Perceptual {
    /// The distance of each of two batches' pictures, `[B, 1, 1, 1]`.
    fn distance(&self, x: &Tensor, y: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Lpips(lpips) => lpips.forward(x, y),
            Self::Substitute(substitute) => substitute.forward(x, y),
        }
    }
}

/// Pixel loss plus a weighted perceptual loss.
pub struct ReconstructionLoss {
    pixel: PixelLoss,
    perceptual: Option<(Perceptual, f64)>,
}

impl ReconstructionLoss {
    /// Pixels alone, or with a perceptual loss of a weight.
    pub fn new(pixel: PixelLoss, perceptual: Option<(Perceptual, f64)>) -> Self {
        Self { pixel, perceptual }
    }

    /// The scalar `mean(pixel) + weight * mean(perceptual)` of `images` and `made`,
    /// both `[B, C, H, W]` in `[-1, 1]`; of label maps, a channel a label, `made` are logits.
    ///
    /// Source: `VQLPIPSWithDiscriminator.forward` of taming-transformers, whose
    /// `nll_loss` this is; LPIPS is in evaluation mode (the reference leaves
    /// its dropout on by accident). For label maps its `BCELossWithQuant`.
    pub(super) fn nll(
        &self,
        images: &Tensor,
        made: &Tensor,
        terms: &mut Readings,
    ) -> Result<Tensor> {
        let (name, pixels) = match self.pixel {
            PixelLoss::L1 => ("pixel_loss", layers::abs(&(images - made)?)?.mean_all()?),
            PixelLoss::L2 => ("pixel_loss", (images - made)?.sqr()?.mean_all()?),
            PixelLoss::Bce => ("bce_loss", binary_cross_entropy(made, images)?),
        };
        terms.add(name, &pixels)?;
        let Some((perceptual, weight)) = &self.perceptual else { return Ok(pixels) };
        let perceptual = perceptual.distance(images, made)?.mean_all()?;
        terms.add("p_loss", &perceptual)?;
        Ok((pixels + (perceptual * *weight)?)?)
    }
}
