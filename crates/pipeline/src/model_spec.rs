//! From what a user points at to a configuration and the weights.

use std::path::{Path, PathBuf};

use checkpoints::model_folder::ModelFolder;
use checkpoints::reference_config::{ReferenceConfig, ReferenceRun};
use checkpoints::{TensorFile, Weights};
use serde_json::Value;
use vq_autoencoder::VqConfig;

use crate::codec_input::CodecInput;
use crate::error::{Error, Result};
use crate::families::{self, CodecWeights, Family};
use crate::model_config::vq_config;
use crate::place::locate;
use crate::reference_target::ReferenceModel;
use crate::transformer_config::TransformerConfig;
use crate::transformer_folder::TransformerFolder;

/// Where a model is.
///
/// `model` is one of
/// - our model folder (`config.json`, `model.safetensors`), or the run folder
///   of a training that has one in `model/`; of a transformer, its first stage is meant;
/// - a reference run folder (`configs/*-project.yaml`, `checkpoints/last.ckpt`);
/// - a diffusers folder (`config.json` with `"_class_name": "VQModel"`), or one
///   that has it in `vqvae/`;
/// - `owner/name[@revision][:file]` on a hub, when nothing is there by that name;
/// - a weights file, `.safetensors`, `.ckpt`, `.pt` or `.pth`, or the index of a
///   sharded one. What it holds is found out from the names and shapes in it;
///   `config` overrides that: a reference project file (YAML), our
///   `config.json`, or the name of a preset.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelSpec {
    /// The folder or file.
    pub model: PathBuf,
    /// The configuration of a weights file: a path, or a preset's name.
    pub config: Option<PathBuf>,
    /// Which of the weights, where a file has several.
    pub weights: Weights,
}

/// A codec found: its architecture and its weights.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) config: VqConfig,
    pub(crate) weights: CodecWeights,
    /// What it reads.
    pub(crate) input: CodecInput,
    /// What kind of place it was found in.
    pub(crate) origin: &'static str,
}

impl Found {
    /// The codec of `config` in the file `path`: below `place`, or where it is found.
    pub(crate) fn at(
        config: VqConfig,
        path: &Path,
        place: Option<&str>,
        origin: &'static str,
        weights: Weights,
    ) -> Result<Self> {
        let input = CodecInput::default();
        match families::codec(TensorFile::open_weights(path, weights)?, place) {
            Ok(weights) => Ok(Self { config, weights, input, origin }),
            // Without a mark the names are compared one by one, and the message says which.
            Err(_) => {
                let file = TensorFile::open_weights(path, weights)?;
                let prefix = place.unwrap_or_default().to_owned();
                let weights = CodecWeights { family: Family::of(&config), file, prefix };
                Ok(Self { config, weights, input, origin })
            }
        }
    }
}

/// Files of weights in folders of others, best first.
const FOREIGN_WEIGHTS: [&str; 4] = [
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.bin",
    "model.safetensors",
];
/// Where diffusers' pipelines keep their `VQModel`.
const DIFFUSERS_PARTS: [&str; 2] = ["vqvae", "vqmodel"];
/// The largest `config.json` of others.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

impl ModelSpec {
    /// A model that brings its configuration with it.
    pub fn new(model: impl Into<PathBuf>) -> Self {
        Self { model: model.into(), ..Self::default() }
    }

    /// A weights file with its configuration: a path or a preset's name.
    pub fn with_config(model: impl Into<PathBuf>, config: impl Into<PathBuf>) -> Self {
        Self { model: model.into(), config: Some(config.into()), ..Self::default() }
    }

    /// Looks for the configuration and the weights. What is on a hub alone is
    /// brought here first.
    pub(crate) fn find(&self) -> Result<Found> {
        if self.model.symlink_metadata().is_err() {
            let model = locate(&self.model, &mut |_: &str, _, _| ())?;
            return Self { model, ..self.clone() }.find();
        }
        if !self.model.is_dir() {
            return self.find_file();
        }
        if self.config.is_some() {
            return Err(Error::model(
                &self.model,
                "a folder brings its own configuration; drop --config, or name the weights file \
                 inside it",
            ));
        }
        self.find_folder(&self.model)?.ok_or_else(|| {
            Error::model(
                &self.model,
                "no model in this folder: it has neither config.json (a model folder) nor \
                 configs/*-project.yaml (a reference run folder); name the weights file inside it",
            )
        })
    }

    fn find_file(&self) -> Result<Found> {
        if let Some(config) = &self.config {
            return self.found("weights file", &self.model, read_config(config)?, None);
        }
        let folder = self.model.parent().unwrap_or(Path::new(""));
        if ModelFolder::is_one(folder)
            && self.model.file_name() == Some("model.safetensors".as_ref())
        {
            return self.our_folder(folder, "model folder");
        }
        if let Some(run) = ReferenceRun::of_checkpoint(&self.model) {
            return self.reference_run(&run);
        }
        let weights = self.codec(&self.model, None)?;
        let config = weights.infer().map_err(|reason| {
            let presets = presets();
            Error::model(
                &self.model,
                format!(
                    "{reason}. If it is a codec nevertheless, pass its configuration with \
                     --config: a project file (YAML), a config.json, or one of the presets {presets}"
                ),
            )
        })?;
        let input = CodecInput::default();
        Ok(Found { config, weights, input, origin: "weights file" })
    }

    /// The model that a folder holds, if it looks like one that is known.
    fn find_folder(&self, folder: &Path) -> Result<Option<Found>> {
        let config = folder.join("config.json");
        if config.is_file() {
            if let Some(found) = self.diffusers_folder(folder, &config)? {
                return Ok(Some(found));
            }
            return self.our_folder(folder, "model folder").map(Some);
        }
        let trained = folder.join("model");
        if ModelFolder::is_one(&trained) {
            return self.our_folder(&trained, "run folder").map(Some);
        }
        if ReferenceRun::is_one(folder) {
            return self.reference_run(&ReferenceRun::open(folder)?).map(Some);
        }
        for part in DIFFUSERS_PARTS {
            let (folder, config) = (folder.join(part), folder.join(part).join("config.json"));
            if config.is_file() {
                return self.diffusers_folder(&folder, &config);
            }
        }
        Ok(None)
    }

    fn our_folder(&self, folder: &Path, origin: &'static str) -> Result<Found> {
        if TransformerFolder::is_one(folder) {
            return self.first_stage(folder);
        }
        let model = ModelFolder::open(folder)?;
        let path = folder.join("config.json");
        let config = vq_config(&model.config, &path)?;
        let input = CodecInput::of(&model.config, config.in_channels)
            .map_err(|reason| Error::model(&path, reason))?;
        Ok(Found { input, ..self.found(origin, &model.weights, config, Some(""))? })
    }

    /// The codec of the codes that the transformer in `folder` draws.
    fn first_stage(&self, folder: &Path) -> Result<Found> {
        let path = folder.join("config.json");
        let config = TransformerConfig::from_value(&read_json(&path)?, &path)?;
        let model = locate(&config.first_stage.place(folder), &mut |_: &str, _, _| ())?;
        if TransformerFolder::is_one(&model) {
            let reason = format!("its first stage, {}, is a transformer", model.display());
            return Err(Error::model(&path, reason));
        }
        Self { model, ..self.clone() }.find()
    }

    fn reference_run(&self, run: &ReferenceRun) -> Result<Found> {
        let ReferenceModel { config, prefix } = reference_model(&run.config()?)?;
        self.found("reference run folder", &run.checkpoint, config, Some(prefix))
    }

    /// The `VQModel` in a folder that diffusers wrote, if it did.
    fn diffusers_folder(&self, folder: &Path, config: &Path) -> Result<Option<Found>> {
        let described = read_json(config)?;
        if described["_class_name"].is_null() {
            return Ok(None);
        }
        families::check_diffusers(&described).map_err(|reason| Error::model(config, reason))?;
        let weights = FOREIGN_WEIGHTS.iter().map(|name| folder.join(name)).find(|p| p.is_file());
        let weights = weights.ok_or_else(|| {
            let wanted = FOREIGN_WEIGHTS.join(", ");
            Error::model(folder, format!("has a config.json but none of {wanted}"))
        })?;
        let weights = self.codec(&weights, Some(""))?;
        let config = weights.infer().map_err(|reason| Error::model(config, reason))?;
        let input = CodecInput::default();
        Ok(Some(Found { config, weights, input, origin: "diffusers folder" }))
    }

    fn found(
        &self,
        origin: &'static str,
        weights: &Path,
        config: VqConfig,
        place: Option<&str>,
    ) -> Result<Found> {
        Found::at(config, weights, place, origin, self.weights)
    }

    fn codec(&self, weights: &Path, place: Option<&str>) -> Result<CodecWeights> {
        let file = TensorFile::open_weights(weights, self.weights)?;
        families::codec(file, place).map_err(|reason| Error::model(weights, reason))
    }
}

/// What `--config` names.
fn read_config(config: &Path) -> Result<VqConfig> {
    if !config.exists() {
        let preset = config.to_str().and_then(VqConfig::preset);
        return preset.ok_or_else(|| {
            Error::model(
                config,
                format!("neither a file nor a preset; the presets are {}", presets()),
            )
        });
    }
    if config.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) {
        return vq_config(&read_json(config)?, config);
    }
    Ok(reference_model(&ReferenceConfig::read(config)?)?.config)
}

/// A `config.json`, whoever wrote it.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let broken = |reason: String| Error::model(path, reason);
    let text = checkpoints::read_limited(path, "the configuration (bytes)", MAX_CONFIG_BYTES)?;
    serde_json::from_slice(&text).map_err(|e| broken(format!("not JSON: {e}")))
}

fn reference_model(config: &ReferenceConfig) -> Result<ReferenceModel> {
    let model = config.model()?;
    ReferenceModel::new(&model.target, &model.params)
}

fn presets() -> String {
    VqConfig::preset_names().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[path = "model_spec/tests.rs"]
pub(crate) mod tests;
