//! From what a user points at to a transformer and its codecs.

use std::path::{Path, PathBuf};

use checkpoints::Weights;
use checkpoints::reference_config::{ReferenceConfig, ReferenceRun};

use super::llamagen;
use super::reference::{CONDITION_STAGE, FIRST_STAGE, ReferenceTransformer, TRANSFORMER};
use crate::error::{Error, Result};
use crate::model_spec::{Found, ModelSpec, read_json};
use crate::transformer_config::{ConditionConfig, StageRef, TransformerConfig};
use crate::transformer_folder::TransformerFolder;

/// Where a generator is.
///
/// `model` is one of
/// - our transformer's model folder, or the run folder of a training that has one
///   in `model/`;
/// - a reference run folder of a `Net2NetTransformer` (`configs/*-project.yaml`,
///   `checkpoints/last.ckpt`), which holds its codecs;
/// - a weights file with `config`: a reference project file (YAML), our
///   `config.json`, or a preset's name (`llamagen-b`). LlamaGen's files bring no
///   codec: `first_stage` names it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GeneratorSpec {
    /// The folder or file.
    pub model: PathBuf,
    /// The configuration of a weights file: a path, or a preset's name.
    pub config: Option<PathBuf>,
    /// The codec of the codes, where the model does not bring it, or where it is not
    /// where the model says.
    pub first_stage: Option<ModelSpec>,
    /// The codec of the condition, likewise.
    pub condition_stage: Option<ModelSpec>,
    /// Names of classes or categories, where the model does not state them.
    pub class_names: Option<Vec<String>>,
}

impl GeneratorSpec {
    /// A model that brings everything with it.
    pub fn new(model: impl Into<PathBuf>) -> Self {
        Self { model: model.into(), ..Self::default() }
    }
}

/// A transformer that was found, with its codecs.
#[derive(Debug)]
pub(crate) struct FoundGenerator {
    pub(crate) config: TransformerConfig,
    pub(crate) weights: PathBuf,
    /// What stands before every key of the transformer.
    pub(crate) prefix: &'static str,
    pub(crate) origin: &'static str,
    pub(crate) first_stage: Stage,
    /// Where the condition has a codec of its own.
    pub(crate) condition_stage: Option<Stage>,
    pub(crate) tokenizer: Option<Vec<u8>>,
}

impl FoundGenerator {
    /// The first stage, where it is in the file of the transformer, as in a reference's
    /// checkpoint: then it is this one whatever [`GeneratorSpec::first_stage`] says.
    pub(crate) fn first_stage_inside(&self) -> Option<&Found> {
        (self.prefix == TRANSFORMER).then_some(&self.first_stage.found)
    }
}

/// A codec that belongs to a transformer.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) found: Found,
    /// What its identity must be; none: it is stated nowhere.
    pub(crate) sha256: Option<String>,
}

impl GeneratorSpec {
    /// Whether the place is that of a transformer, whatever may be wrong with it: our
    /// folder of that kind, or a reference project with one.
    pub fn is_transformer(&self) -> bool {
        let reference = |config: checkpoints::Result<ReferenceConfig>| {
            let model = config.and_then(|config| config.model());
            model.is_ok_and(|model| model.target.ends_with("Net2NetTransformer"))
        };
        let model = &self.model;
        if model.is_dir() {
            return TransformerFolder::is_one(model)
                || TransformerFolder::is_one(model.join("model"))
                || (ReferenceRun::is_one(model)
                    && reference(ReferenceRun::open(model).and_then(|run| run.config())));
        }
        match &self.config {
            Some(config) if config.is_file() => {
                let yaml = !config.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"));
                yaml && reference(ReferenceConfig::read(config))
            }
            Some(_) => false,
            None => {
                TransformerFolder::is_one(model.parent().unwrap_or(Path::new("")))
                    || ReferenceRun::of_checkpoint(model).is_some_and(|run| reference(run.config()))
            }
        }
    }

    /// Looks for the parts.
    pub(crate) fn find(&self) -> Result<FoundGenerator> {
        let model = &self.model;
        if !model.exists() {
            return Err(Error::NotFound { path: model.clone() });
        }
        if model.is_dir() {
            if self.config.is_some() {
                return Err(Error::model(
                    model,
                    "a folder brings its own configuration; drop --config, or name the weights \
                     file inside it",
                ));
            }
            let trained = model.join("model");
            return if model.join("config.json").is_file() {
                self.own(model, "model folder")
            } else if trained.join("config.json").is_file() {
                self.own(&trained, "run folder")
            } else if ReferenceRun::is_one(model) {
                let run = ReferenceRun::open(model)?;
                self.reference(&run.config()?, &run.checkpoint, "reference run folder")
            } else {
                Err(Error::model(
                    model,
                    "no model in this folder: it has neither config.json (a model folder) nor \
                     configs/*-project.yaml (a reference run folder)",
                ))
            };
        }
        match &self.config {
            Some(config) => self.file(config),
            None => {
                let folder = model.parent().unwrap_or(Path::new(""));
                if folder.join("config.json").is_file() {
                    return Ok(FoundGenerator {
                        weights: model.clone(),
                        ..self.own(folder, "model folder")?
                    });
                }
                match ReferenceRun::of_checkpoint(model) {
                    Some(run) => self.reference(&run.config()?, model, "reference run folder"),
                    None => Err(Error::model(
                        model,
                        format!(
                            "a weights file needs its configuration: pass --config with its \
                             project file (YAML), its config.json, or a preset ({})",
                            llamagen::PRESETS
                        ),
                    )),
                }
            }
        }
    }

    /// A weights file with what `--config` names.
    fn file(&self, config: &Path) -> Result<FoundGenerator> {
        if !config.exists() {
            let preset = config.to_str().and_then(llamagen::preset).ok_or_else(|| {
                Error::model(
                    config,
                    format!("neither a file nor a preset of a transformer; {}", llamagen::PRESETS),
                )
            })?;
            return self.single(preset, "weights file");
        }
        if config.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) {
            let value = read_json(config)?;
            return self.single(TransformerConfig::from_value(&value, config)?, "weights file");
        }
        self.reference(&ReferenceConfig::read(config)?, &self.model, "weights file")
    }

    /// A transformer alone in its file, whose codec the user names.
    fn single(
        &self,
        mut config: TransformerConfig,
        origin: &'static str,
    ) -> Result<FoundGenerator> {
        let Some(first_stage) = &self.first_stage else {
            return Err(Error::model(
                &self.model,
                "this file holds a transformer and no codec: name the codec of its codes with \
                 --first-stage",
            ));
        };
        self.name_classes(&mut config)?;
        let condition_stage = match (&config.condition, &self.condition_stage) {
            (ConditionConfig::Grid(grid), Some(stage)) if grid.codec.is_some() => {
                Some(Stage { found: stage.find()?, sha256: None })
            }
            (ConditionConfig::Grid(grid), None) if grid.codec.is_some() => {
                return Err(Error::model(
                    &self.model,
                    "its condition has a codec of its own: name it with --condition-stage",
                ));
            }
            _ => None,
        };
        Ok(FoundGenerator {
            config,
            weights: self.model.clone(),
            prefix: "",
            origin,
            first_stage: Stage { found: first_stage.find()?, sha256: None },
            condition_stage,
            tokenizer: None,
        })
    }

    /// Our model folder.
    fn own(&self, folder: &Path, origin: &'static str) -> Result<FoundGenerator> {
        let TransformerFolder { dir, mut config, weights, tokenizer } =
            TransformerFolder::open(folder)?;
        let condition_stage = match &config.condition {
            ConditionConfig::Grid(grid) => grid.codec.clone(),
            _ => None,
        };
        let first_stage = stage(&dir, &config.first_stage, self.first_stage.as_ref(), FIRST)?;
        let condition_stage = condition_stage
            .map(|named| stage(&dir, &named, self.condition_stage.as_ref(), CONDITION))
            .transpose()?;
        self.name_classes(&mut config)?;
        Ok(FoundGenerator {
            config,
            weights,
            prefix: "",
            origin,
            first_stage,
            condition_stage,
            tokenizer,
        })
    }

    /// A reference's checkpoint, which holds its codecs.
    fn reference(
        &self,
        project: &ReferenceConfig,
        checkpoint: &Path,
        origin: &'static str,
    ) -> Result<FoundGenerator> {
        if self.condition_stage.is_some() {
            return Err(Error::model(
                checkpoint,
                "this checkpoint holds the codec of its condition, if it has one: leave \
                 --condition-stage out, or convert it to our format first",
            ));
        }
        let model = project.model()?;
        let names = self.class_names.as_deref();
        let root = project.root();
        let mut reference = ReferenceTransformer::new(&model.target, &model.params, root, names)?;
        self.name_classes_again(&mut reference.config)?;
        let inside = |config, prefix| -> Result<Stage> {
            let found = Found::at(config, checkpoint, Some(prefix), origin, Weights::Trained)?;
            Ok(Stage { found, sha256: None })
        };
        Ok(FoundGenerator {
            config: reference.config,
            weights: checkpoint.to_path_buf(),
            prefix: TRANSFORMER,
            origin,
            first_stage: inside(reference.first_stage, FIRST_STAGE)?,
            condition_stage: reference
                .condition_stage
                .map(|codec| inside(codec, CONDITION_STAGE))
                .transpose()?,
            tokenizer: None,
        })
    }

    /// [`name_classes`](Self::name_classes) of a reference's model, which may have been
    /// given its names when it was read.
    fn name_classes_again(&self, config: &mut TransformerConfig) -> Result<()> {
        match &config.condition {
            ConditionConfig::Class(_) | ConditionConfig::Layout(_) => self.name_classes(config),
            _ => Ok(()),
        }
    }

    /// Puts the user's names in the place of the model's.
    fn name_classes(&self, config: &mut TransformerConfig) -> Result<()> {
        match &self.class_names {
            Some(names) => config.name_classes(names),
            None => Ok(()),
        }
    }
}

const FIRST: (&str, &str) = ("first stage", "--first-stage");
const CONDITION: (&str, &str) = ("condition stage", "--condition-stage");

/// The codec that a model in `folder` names, or that the user names instead.
fn stage(
    folder: &Path,
    named: &StageRef,
    instead: Option<&ModelSpec>,
    (what, option): (&str, &str),
) -> Result<Stage> {
    let place = named.place(folder);
    let spec = instead.cloned().unwrap_or_else(|| ModelSpec::new(&place));
    let found = spec.find().map_err(|error| match error {
        Error::NotFound { path } => Error::model(
            folder,
            format!(
                "its {what} is not at {}; name the folder of the codec {} with {option}",
                path.display(),
                named.codec_sha256
            ),
        ),
        error => error,
    })?;
    Ok(Stage { found, sha256: Some(named.codec_sha256.clone()) })
}
