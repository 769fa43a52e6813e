//! The model folder a run hands out.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use candle_core::Tensor;
use checkpoints::model_folder::ModelFolder;
use pipeline::model_config;
use serde_json::json;

use crate::config::{PerceptualKind, TrainConfig};
use crate::validation::Validation;

/// Writes `config.json`, `model.safetensors` and the card of a model after
/// `step` steps.
///
/// # Errors
/// If the folder cannot be written.
pub fn write_model(
    folder: &Path,
    config: &TrainConfig,
    step: u64,
    weights: &BTreeMap<String, Tensor>,
    validation: Option<&(u64, Validation)>,
) -> Result<()> {
    let metrics = validation.map(|(at, v)| {
        json!({ "step": at, "pictures": v.pictures, "l1": v.l1, "psnr": v.psnr, "usage": v.usage,
                "perplexity": v.perplexity })
    });
    let provenance = json!({
        "data": config.data_card,
        "steps": step,
        "batch": config.batch,
        "seed": config.seed,
        "validation": metrics,
    });
    let description = model_config(&config.model, provenance)?;
    let card = card(config, step, weights, validation);
    ModelFolder::replace(folder, &description, weights, &card)?;
    Ok(())
}

/// The README of the folder.
fn card(
    config: &TrainConfig,
    step: u64,
    weights: &BTreeMap<String, Tensor>,
    validation: Option<&(u64, Validation)>,
) -> String {
    let model = &config.model;
    let numbers: usize = weights.values().map(Tensor::elem_count).sum();
    let name = config.run.file_name().map_or("model".into(), |name| name.to_string_lossy());
    let data = if config.data_card.is_empty() {
        "not stated (set `data_card` in the training configuration)"
    } else {
        config.data_card.trim()
    };
    let mut text = format!(
        "# {name}\n\n\
         A VQGAN first stage: pictures of any size to codes (one per {f}x{f} pixels, {len} codes) \
         and back.\n\n\
         | | |\n|---|---|\n\
         | parameters | {numbers} |\n\
         | channels | {ch} x {mult:?}, {blocks} residual blocks |\n\
         | training | {step} steps of {batch} crops, {side} px |\n\
         | perceptual loss | {perceptual} |\n\
         | data and licence | {data} |\n",
        perceptual = match (config.loss.perceptual_weight == 0.0, config.loss.perceptual) {
            (true, _) => "none",
            (false, PerceptualKind::Lpips) => "LPIPS",
            (false, PerceptualKind::Substitute) => "substitute (no LPIPS weights)",
        },
        f = model.factor(),
        len = model.quantizer.len(),
        ch = model.ch,
        mult = model.ch_mult,
        blocks = model.num_res_blocks,
        batch = config.batch,
        side = config.pictures.side,
    );
    if let Some((at, v)) = validation {
        text += &format!(
            "\nHeld-out pictures ({}, at step {at}): PSNR {:.2} dB, mean absolute difference {:.4} (range 2), \
             {:.0} % of the codes used, perplexity {:.0}.\n",
            v.pictures,
            v.psnr,
            v.l1,
            100.0 * v.usage,
            v.perplexity,
        );
    }
    text += "\n```sh\nsynth-cli reconstruct --model . PICTURE.png --compare\n```\n";
    text
}
