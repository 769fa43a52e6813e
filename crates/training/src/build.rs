//! The losses and adversaries that a configuration asks for.

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use checkpoints::TensorFile;
use discriminator::{PatchGan, PatchGanConfig};
use perceptual::{Lpips, LpipsConfig};

use crate::config::TrainConfig;
use crate::step::{Adversary, ReconstructionLoss};
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
    if loss.perceptual_file.as_os_str().is_empty() {
        bail!(
            "loss.perceptual_weight = {} needs the LPIPS network: set loss.perceptual_file (a \
             reference VQGAN checkpoint holds it too), or the weight to 0",
            loss.perceptual_weight
        );
    }
    let file = TensorFile::open(&loss.perceptual_file)?;
    // A reference checkpoint holds the network under its loss.
    let prefixes = ["", "perceptual_loss.", "loss.perceptual_loss."];
    let names: Vec<String> = file.names().map(|name| name.to_string()).collect();
    let prefix = prefixes
        .into_iter()
        .find(|prefix| names.iter().any(|name| *name == format!("{prefix}lin0.model.1.weight")))
        .with_context(|| format!("{} holds no LPIPS network", loss.perceptual_file.display()))?;
    let mut tensors = std::collections::HashMap::new();
    for name in &names {
        if let Some(key) = name.strip_prefix(prefix)
            && ["net.", "lin", "scaling_layer."].iter().any(|part| key.starts_with(part))
        {
            tensors.insert(key.to_string(), file.tensor(name, device)?);
        }
    }
    let vb = VarBuilder::from_tensors(tensors, DType::F32, device);
    let lpips = Lpips::new(&LpipsConfig::of_weights(&vb)?, vb)?;
    Ok(ReconstructionLoss::new(loss.pixel, Some((lpips, loss.perceptual_weight))))
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
    Ok(Some(Adversary::new(settings.clone(), adam, Box::new(critic), parameters)?))
}
