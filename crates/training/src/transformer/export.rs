//! The model folder that a second-stage run hands out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::Tensor;
use pipeline::{
    Architecture, Codec, ConditionConfig, GridInput, SamplingDefaults, StageRef, TransformerConfig,
    TransformerFolder, TransformerParts,
};
use serde_json::json;

use super::condition::Conditioning;
use super::config::{ConditionSetting, TransformerTrainConfig};
use crate::observer::Terms;

/// What goes into a folder besides the weights.
pub(super) struct Export<'a> {
    pub config: &'a TransformerTrainConfig,
    pub codec: &'a Codec,
    pub conditioning: &'a Conditioning,
    pub architecture: &'a Architecture,
    pub grid: (usize, usize),
    pub step: u64,
    pub validation: Option<&'a Terms>,
}

impl Export<'_> {
    /// Writes the folder, the first stage inside, replacing one that is there.
    pub fn write(&self, folder: &Path, weights: &BTreeMap<String, Tensor>) -> Result<()> {
        let tokenizer = self.conditioning.tokenizer()?;
        let (first_stage, condition_stage) = stage_folders(self.config)?;
        let parts = TransformerParts {
            tokenizer: tokenizer.as_deref().map(str::as_bytes),
            first_stage: Some(&first_stage),
            condition_stage: condition_stage.as_deref(),
            ..TransformerParts::default()
        };
        let card = self.card(weights);
        TransformerFolder::replace(folder, &self.description(), weights, &card, parts)?;
        Ok(())
    }

    fn description(&self) -> TransformerConfig {
        let config = self.config;
        let sampling = &config.sampling;
        TransformerConfig {
            architecture: self.architecture.clone(),
            weights: None,
            first_stage: StageRef::at("first_stage", self.codec.sha256()),
            codes: self.codec.describe().codes,
            grid: [self.grid.0, self.grid.1],
            permuter: config.order,
            condition: self.conditioning.config.clone(),
            sampling: SamplingDefaults {
                temperature: sampling.temperature,
                top_k: (sampling.top_k > 0).then_some(sampling.top_k),
                top_p: sampling.top_p,
                cfg_scale: sampling.cfg_scale,
            },
            preprocessing: json!({ "side": config.pictures.side, "largest": config.pictures.largest,
                                   "flip": config.pictures.flip, "crops": config.crops }),
            provenance: json!({ "data": config.data_card, "steps": self.step, "batch": config.batch,
                                "accumulate": config.accumulate, "seed": config.seed,
                                "validation": self.validation }),
        }
    }

    /// The README of the folder.
    fn card(&self, weights: &BTreeMap<String, Tensor>) -> String {
        let config = self.config;
        let numbers: usize = weights.values().map(Tensor::elem_count).sum();
        let data = if config.data_card.is_empty() {
            "not stated (set `data_card` in the training configuration)"
        } else {
            config.data_card.trim()
        };
        let (what, option) = match &self.conditioning.config {
            ConditionConfig::Class(class) if class.names.len() > 1 => {
                ("pictures of a class", format!(" --class {:?}", class.names[0]))
            }
            ConditionConfig::Text(_) => ("pictures of a text", " --prompt \"...\"".to_owned()),
            ConditionConfig::Grid(grid) => (
                match grid.input {
                    GridInput::Segmentation => "pictures of a label map",
                    GridInput::Depth => "pictures of a depth map",
                    GridInput::Edges | GridInput::Image => "pictures of another picture",
                },
                " --condition FILE".to_owned(),
            ),
            _ => ("pictures", String::new()),
        };
        let mut text = format!(
            "# {name}\n\n\
             A transformer that draws {what} as {h}x{w} codes of the first stage in `first_stage`.\n\n\
             | | |\n|---|---|\n\
             | parameters | {numbers} |\n\
             | architecture | {architecture} |\n\
             | training | {step} steps of {batch} sequences |\n\
             | data and licence | {data} |\n",
            name = config.name(),
            h = self.grid.0,
            w = self.grid.1,
            architecture = self.sizes(),
            step = self.step,
            batch = config.batch * config.accumulate,
        );
        if let Some(terms) = self.validation {
            text += &format!(
                "\nHeld-out pictures ({}): {:.4} nats a code, which are {:.3} bits; a uniform guess \
                 has {:.3}.\n",
                terms["examples"],
                terms["val_nll"],
                terms["val_bits"],
                (self.codec.describe().codes as f64).log2(),
            );
        }
        text += &format!("\n```sh\nsynth-cli generate --model .{option}\n```\n");
        text
    }

    fn sizes(&self) -> String {
        match self.architecture {
            Architecture::Gpt(config) => format!(
                "minGPT: {} layers, {} heads, width {}",
                config.n_layer, config.n_head, config.n_embd
            ),
            Architecture::Llama(config) => format!(
                "LLaMA: {} layers, {} heads, width {}",
                config.n_layer, config.n_head, config.dim
            ),
        }
    }
}

/// The folders of the codecs of `config`, which go into the model folder: of its codes, and
/// of its condition where that has one of its own.
///
/// # Errors
/// When one is something else that a codec can be loaded from.
pub(super) fn stage_folders(config: &TransformerTrainConfig) -> Result<(PathBuf, Option<PathBuf>)> {
    let first_stage = stage_folder(&config.first_stage)?;
    let condition_stage = match &config.condition {
        ConditionSetting::Grid { codec, .. } if !codec.as_os_str().is_empty() => {
            Some(stage_folder(codec)?)
        }
        _ => None,
    };
    Ok((first_stage, condition_stage))
}

/// The model folder at `path`, which may be that of a run.
fn stage_folder(path: &Path) -> Result<PathBuf> {
    let candidates = [path.to_path_buf(), path.join("model")];
    candidates.into_iter().find(|folder| folder.join("config.json").is_file()).with_context(|| {
        format!("{} is no model folder of ours; synth-cli convert makes one of it", path.display())
    })
}
