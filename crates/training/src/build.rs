//! The losses and adversaries that a configuration asks for.

use anyhow::Result;
use candle_core::{DType, Device};
use discriminator::{PatchGan, PatchGanConfig};
use perceptual::Substitute;

use crate::config::{PerceptualKind, TrainConfig};
use crate::perceptual_weights::lpips;
use crate::step::{Adversary, Perceptual, ReconstructionLoss};
use crate::store::ParameterStore;

/// The reconstruction loss of `config`, LPIPS read from its file.
///
/// # Errors
/// If LPIPS is asked for and its weights are not to be had.
pub fn reconstruction_loss(config: &TrainConfig, device: &Device) -> Result<ReconstructionLoss> {
    let loss = &config.loss;
    if loss.perceptual_weight == 0.0 {
        return Ok(ReconstructionLoss::new(loss.pixel, None));
    }
    let perceptual = match loss.perceptual {
        PerceptualKind::Lpips => {
            Perceptual::Lpips(lpips(loss, device)?.with_factors(config.precision.factors()))
        }
        PerceptualKind::Substitute => Perceptual::Substitute(Substitute::new(DType::F32, device)?),
    };
    Ok(ReconstructionLoss::new(loss.pixel, Some((perceptual, loss.perceptual_weight))))
}

/// The discriminator of `config`, if its weight is not 0.
///
/// # Errors
/// If its configuration is not valid.
pub fn adversary(config: &TrainConfig, device: &Device) -> Result<Option<Adversary>> {
    let settings = &config.adversarial;
    if settings.weight == 0.0 {
        return Ok(None);
    }
    let parameters = ParameterStore::new(config.seed);
    let patchgan =
        PatchGanConfig { in_channels: config.model.out_channels, ..settings.patchgan.clone() };
    let vb = parameters.var_builder(DType::F32, device).pp("loss").pp("discriminator");
    let critic = PatchGan::new(&patchgan, vb)?;
    let adam = config.optimizer.adam.clone();
    let adversary = Adversary::new(settings.clone(), adam, Box::new(critic), parameters)?;
    Ok(Some(adversary.with_factors(config.precision.factors())))
}
