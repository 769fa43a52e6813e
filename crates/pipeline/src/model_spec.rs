//! From what a user points at to a configuration and a weights file.

use std::path::{Path, PathBuf};

use checkpoints::model_folder::ModelFolder;
use checkpoints::reference_config::{ReferenceConfig, ReferenceRun};
use serde_json::Value;
use vq_autoencoder::VqConfig;

use crate::error::{Error, Result};
use crate::model_config::vq_config;
use crate::reference_target::ReferenceModel;

/// Where a model is.
///
/// `model` is one of
/// - our model folder (`config.json`, `model.safetensors`), or the run folder
///   of a training that has one in `model/`;
/// - a reference run folder (`configs/*-project.yaml`, `checkpoints/last.ckpt`);
/// - a weights file, `.safetensors`, `.ckpt`, `.pt` or `.pth`, which needs
///   `config`: a reference project file (YAML), our `config.json`, or the name
///   of a preset. A file inside one of the folders above needs none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSpec {
    /// The folder or file.
    pub model: PathBuf,
    /// The configuration of a weights file: a path, or a preset's name.
    pub config: Option<PathBuf>,
}

/// A model found: its architecture and the file of its weights.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) config: VqConfig,
    pub(crate) weights: PathBuf,
    /// What stands before every key of the autoencoder.
    pub(crate) prefix: &'static str,
    /// What kind of place it was found in.
    pub(crate) origin: &'static str,
}

impl ModelSpec {
    /// A model that brings its configuration with it.
    pub fn new(model: impl Into<PathBuf>) -> Self {
        Self { model: model.into(), config: None }
    }

    /// A weights file with its configuration: a path or a preset's name.
    pub fn with_config(model: impl Into<PathBuf>, config: impl Into<PathBuf>) -> Self {
        Self { model: model.into(), config: Some(config.into()) }
    }

    /// Looks for the configuration and the weights.
    pub(crate) fn find(&self) -> Result<Found> {
        if !self.model.exists() {
            return Err(Error::NotFound { path: self.model.clone() });
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
        find_folder(&self.model)?.ok_or_else(|| {
            Error::model(
                &self.model,
                "no model in this folder: it has neither config.json (a model folder) nor \
                 configs/*-project.yaml (a reference run folder)",
            )
        })
    }

    fn find_file(&self) -> Result<Found> {
        let weights = self.model.clone();
        match &self.config {
            Some(config) => {
                let (config, prefix) = read_config(config)?;
                Ok(Found { config, weights, prefix, origin: "weights file" })
            }
            None => {
                let folder = self.model.parent().unwrap_or(Path::new(""));
                if ModelFolder::is_one(folder) {
                    return Ok(Found { weights, ..model_folder(folder, "model folder")? });
                }
                if let Some(run) = ReferenceRun::of_checkpoint(&self.model) {
                    return reference_run(&run);
                }
                Err(Error::model(
                    &self.model,
                    format!(
                        "a weights file needs its configuration: pass --config with its project \
                         file (YAML), its config.json, or one of the presets {}",
                        presets()
                    ),
                ))
            }
        }
    }
}

/// The model that a folder holds, if it looks like one of ours or of the
/// reference's.
fn find_folder(folder: &Path) -> Result<Option<Found>> {
    if folder.join("config.json").is_file() {
        return model_folder(folder, "model folder").map(Some);
    }
    let trained = folder.join("model");
    if ModelFolder::is_one(&trained) {
        return model_folder(&trained, "run folder").map(Some);
    }
    if ReferenceRun::is_one(folder) {
        return reference_run(&ReferenceRun::open(folder)?).map(Some);
    }
    Ok(None)
}

fn model_folder(folder: &Path, origin: &'static str) -> Result<Found> {
    let model = ModelFolder::open(folder)?;
    let config = vq_config(&model.config, &folder.join("config.json"))?;
    Ok(Found { config, weights: model.weights, prefix: "", origin })
}

fn reference_run(run: &ReferenceRun) -> Result<Found> {
    let ReferenceModel { config, prefix } = reference_model(&run.config()?)?;
    Ok(Found { config, weights: run.checkpoint.clone(), prefix, origin: "reference run folder" })
}

/// What `--config` names.
fn read_config(config: &Path) -> Result<(VqConfig, &'static str)> {
    if !config.exists() {
        let preset = config.to_str().and_then(VqConfig::preset);
        return preset.map(|preset| (preset, "")).ok_or_else(|| {
            Error::model(
                config,
                format!("neither a file nor a preset; the presets are {}", presets()),
            )
        });
    }
    if config.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) {
        let text = std::fs::read_to_string(config)
            .map_err(|e| Error::model(config, format!("cannot be read: {e}")))?;
        let value: Value = serde_json::from_str(&text)
            .map_err(|e| Error::model(config, format!("not JSON: {e}")))?;
        return Ok((vq_config(&value, config)?, ""));
    }
    let model = reference_model(&ReferenceConfig::read(config)?)?;
    Ok((model.config, model.prefix))
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
mod tests;
