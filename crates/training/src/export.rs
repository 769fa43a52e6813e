//! The model folder a run hands out.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use candle_core::Tensor;
use checkpoints::model_folder::ModelFolder;
use pipeline::{CodecInput, model_config};
use serde_json::json;

use crate::config::{InputKind, PerceptualKind, TrainConfig};
use crate::validation::{Quality, Validation};

/// Writes `config.json`, `model.safetensors` and the card of a model that reads `input`,
/// after `step` steps.
///
/// # Errors
/// If the folder cannot be written.
pub fn write_model(
    folder: &Path,
    config: &TrainConfig,
    input: &CodecInput,
    step: u64,
    weights: &BTreeMap<String, Tensor>,
    validation: Option<&(u64, Validation)>,
) -> Result<()> {
    let provenance = json!({
        "data": config.data_card,
        "steps": step,
        "batch": config.batch,
        "seed": config.seed,
        "validation": validation.map(|(at, validation)| validation.to_json(*at)),
    });
    let description = model_config(&config.model, input, provenance)?;
    let card = card(config, input, step, weights, validation);
    ModelFolder::replace(folder, &description, weights, &card)?;
    Ok(())
}

/// What the model of a run in `folder` reads, with the names of labels that stand in the
/// model folder there, if there is one.
pub fn written_input(folder: &Path, config: &TrainConfig) -> CodecInput {
    match config.input {
        InputKind::Pictures => CodecInput::Pictures,
        InputKind::Depth => CodecInput::Depth,
        InputKind::Labels => {
            let written = ModelFolder::open(folder.join("model")).ok();
            let input = written
                .and_then(|model| CodecInput::of(&model.config, config.model.in_channels).ok());
            let labels = |input: &CodecInput| matches!(input, CodecInput::Labels(_));
            input.filter(labels).unwrap_or(CodecInput::Labels(Vec::new()))
        }
    }
}

/// The README of the folder.
fn card(
    config: &TrainConfig,
    input: &CodecInput,
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
         {what} to codes (one per {f}x{f} pixels, {len} codes) and back.\n\n\
         | | |\n|---|---|\n\
         | parameters | {numbers} |\n\
         | channels | {ch} x {mult:?}, {blocks} residual blocks |\n\
         | training | {step} steps of {batch} crops, {side} px |\n\
         {of_input}\
         | data and licence | {data} |\n",
        what = match input {
            CodecInput::Pictures => "A VQGAN first stage: pictures of any size",
            CodecInput::Labels(_) =>
                "A codec of label maps, the condition of a transformer: maps \
                                      of any size, a channel a label,",
            CodecInput::Depth =>
                "A codec of depth maps, the condition of a transformer: maps of \
                                  any size, each scaled to [-1, 1] by its own range,",
        },
        of_input = of_input(config, input),
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
            "\nHeld out ({} {}, at step {at}): {}, {:.0} % of the codes used, perplexity {:.0}.\n",
            v.pictures,
            if *input == CodecInput::Pictures { "pictures" } else { "maps" },
            measured(&v.quality),
            100.0 * v.usage,
            v.perplexity,
        );
    }
    if *input == CodecInput::Pictures {
        text += "\n```sh\nsynth-cli reconstruct --model . PICTURE.png --compare\n```\n";
    }
    text
}

/// The rows of the card that depend on what is read.
fn of_input(config: &TrainConfig, input: &CodecInput) -> String {
    match input {
        CodecInput::Pictures => {
            let perceptual = match (config.loss.perceptual_weight == 0.0, config.loss.perceptual) {
                (true, _) => "none",
                (false, PerceptualKind::Lpips) => "LPIPS",
                (false, PerceptualKind::Substitute) => "substitute (no LPIPS weights)",
            };
            format!("| perceptual loss | {perceptual} |\n")
        }
        CodecInput::Labels(names) => {
            let names = match names.is_empty() {
                true => "names not stated (`classes.json`)".to_owned(),
                // A name may be anything, a row of a table not.
                false => names.join(", ").replace(['|', '\n', '\r'], " "),
            };
            format!("| labels | {}: {names} |\n", config.model.in_channels)
        }
        CodecInput::Depth => String::new(),
    }
}

fn measured(quality: &Quality) -> String {
    match quality {
        Quality::Pictures { l1, psnr, .. } => {
            format!("PSNR {psnr:.2} dB, mean absolute difference {l1:.4} (range 2)")
        }
        Quality::Labels { accuracy, mean_iou, .. } => format!(
            "{:.2} % of the pixels keep their label, mean IoU {mean_iou:.3}",
            100.0 * accuracy
        ),
    }
}
