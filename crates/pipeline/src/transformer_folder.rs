//! A transformer's model folder.

use std::path::{Component, Path, PathBuf};

use candle_core::{DType, Tensor};
use checkpoints::model_folder::{ModelFolder, Parts};
use checkpoints::{Copies, TensorFile, read_limited, sha256_file};
use cond_transformer::WeightFormat;
use serde_json::Value;

use crate::convert;
use crate::error::{Error, Result};
use crate::model_spec::ModelSpec;
use crate::network;
use crate::transformer_config::{
    ConditionConfig, GridCondition, SamplingChange, StageRef, TransformerConfig,
};
use text_tokens::MAX_TOKENIZER_BYTES;

const TOKENIZER: &str = "tokenizer.json";

/// A transformer's folder that was opened: what it says, before weights are read.
#[derive(Debug, Clone, PartialEq)]
pub struct TransformerFolder {
    /// The folder.
    pub dir: PathBuf,
    /// `config.json`.
    pub config: TransformerConfig,
    /// The file of the weights.
    pub weights: PathBuf,
    /// The content of `tokenizer.json`, where there is one.
    pub tokenizer: Option<Vec<u8>>,
}

/// How a transformer's folder is copied.
#[derive(Debug, Clone, Default)]
pub struct CopyOptions {
    /// What numbers become, codecs' too; `None` keeps every bit.
    pub dtype: Option<DType>,
    /// What matrices of the transformer's linear layers are stored in blocks of.
    pub weights: Option<WeightFormat>,
    /// Whether a model folder that is there is replaced.
    pub replace: bool,
    /// The folder of the first stage, relative to the copy with `/`, which is named instead
    /// of copied: several models beside one another may share one. It must be the codec
    /// that would be copied, as `dtype` makes it.
    pub shared_first_stage: Option<String>,
    /// A codec in the place of the first stage: the same, or one that makes the same codes
    /// and has another decoder (`init.keep_codes` of a training run).
    pub first_stage: Option<ModelSpec>,
    /// How the copy draws where the user says nothing, if otherwise than the model.
    pub sampling: SamplingChange,
    /// Other names for its classes.
    pub class_names: Option<Vec<String>>,
}

/// What a transformer's folder holds besides configuration, weights and card.
pub type TransformerParts<'a> = Parts<'a>;

impl TransformerFolder {
    /// Whether `dir` holds a model that says it is a transformer over codes.
    pub fn is_one(dir: impl AsRef<Path>) -> bool {
        let dir = dir.as_ref();
        ModelFolder::is_one(dir)
            && ModelFolder::open(dir)
                .is_ok_and(|folder| folder.kind() == crate::transformer_config::TRANSFORMER_KIND)
    }

    /// Opens a folder.
    ///
    /// # Errors
    /// When a part is missing, damaged, or of another model.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let folder = ModelFolder::open(dir)?;
        let config =
            TransformerConfig::from_value(&folder.config, &folder.dir.join("config.json"))?;
        let path = folder.dir.join(TOKENIZER);
        let tokenizer = match path.symlink_metadata() {
            Err(_) => None,
            Ok(_) => Some(read_limited(&path, "the tokenizer (bytes)", MAX_TOKENIZER_BYTES)?),
        };
        Ok(Self { dir: folder.dir, config, weights: folder.weights, tokenizer })
    }

    /// Writes a folder, replacing a model folder that is there. Names of `tensors`
    /// are those of the network (`blocks.0.ln1.weight`).
    ///
    /// `parts.first_stage` and `parts.condition_stage` are copied inside, where
    /// `config` should then name them: `StageRef::at("first_stage", ..)`.
    ///
    /// # Errors
    /// When the configuration is not valid, what is there is no model folder, or
    /// writing fails; then nothing has changed.
    pub fn replace<'a, N: AsRef<str>>(
        dir: impl AsRef<Path>,
        config: &TransformerConfig,
        tensors: impl IntoIterator<Item = (N, &'a Tensor)>,
        card: &str,
        parts: TransformerParts<'_>,
    ) -> Result<Self> {
        let folder = ModelFolder::replace_with(dir, &config.to_value()?, tensors, card, parts)?;
        Self::open(folder.dir)
    }
}

impl TransformerFolder {
    /// Copies the model to the folder `out`, with its codecs inside, wherever they were: a
    /// folder to hand on, unless a shared codec is asked for. Numbers are read back as f32
    /// whatever they are stored as.
    ///
    /// A codec that was rounded, or has another decoder, is another one by its identity, and
    /// the copy names that one; the provenance then has `trained_with_codec_sha256`.
    ///
    /// # Errors
    /// When a codec is not in a model folder of ours or not the one that is named, when the
    /// model cannot draw as is asked for or has other classes, when what is at `out` is no model folder or not to
    /// be replaced, or writing fails; then nothing has changed.
    pub fn copy(&self, out: impl AsRef<Path>, options: &CopyOptions) -> Result<Self> {
        let &CopyOptions { dtype, weights, replace, .. } = options;
        let mut config = self.config.clone();
        config.change_sampling(&options.sampling)?;
        if let Some(names) = &options.class_names {
            config.name_classes(names)?;
        }
        let trained = config.first_stage.codec_sha256.clone();
        let instead = options.first_stage.as_ref();
        let first = self.inside(&mut config.first_stage, instead, "first_stage", dtype)?;
        let mut first_stage = Some(first);
        if let Some(place) = &options.shared_first_stage {
            config.first_stage.path = Some(place.clone());
            check_shared(&beside(out.as_ref(), place)?, &config.first_stage)?;
            first_stage = None;
        }
        let condition_stage = match &mut config.condition {
            ConditionConfig::Grid(GridCondition { codec: Some(stage), .. }) => {
                Some(self.inside(stage, None, "condition_stage", dtype)?)
            }
            _ => None,
        };
        let mut card = ModelFolder::open(&self.dir)?.card.unwrap_or_default();
        if let Value::Object(provenance) = &mut config.provenance {
            if let Some(dtype) = dtype {
                provenance.insert("numbers".to_owned(), dtype.as_str().into());
            }
            if trained != config.first_stage.codec_sha256 {
                provenance.insert("trained_with_codec_sha256".to_owned(), trained.into());
            }
        }
        if let Some(dtype) = dtype {
            let line = format!("\nNumbers are stored as {}.\n", dtype.as_str());
            if !card.contains(&line) {
                card += &line;
            }
        }
        let file = TensorFile::open(&self.weights)?;
        let mut copies = Copies::of_all(&file, dtype);
        if let Some(format) = weights.filter(|_| config.weights.is_none()) {
            copies.blocks = network::block_names(&config.architecture, format)?;
            config.weights = weights;
            card += &convert::blocks_line(format);
            if let Value::Object(provenance) = &mut config.provenance {
                provenance.insert("weights".to_owned(), format.name().into());
                provenance.insert(
                    "weights_made_of_sha256".to_owned(),
                    sha256_file(&self.weights)?.into(),
                );
            }
        }
        let parts = Parts {
            tokenizer: self.tokenizer.as_deref(),
            first_stage: first_stage.as_deref(),
            condition_stage: condition_stage.as_deref(),
            stage_dtype: dtype,
        };
        let folder = ModelFolder::copy(out, &config.to_value()?, &[copies], &card, parts, replace)?;
        Self::open(folder.dir)
    }

    /// The folder of the codec that `stage` names, or of the one that is wanted `instead`;
    /// `stage` then names it as it will be: inside at `place`, its numbers being `dtype`.
    fn inside(
        &self,
        stage: &mut StageRef,
        instead: Option<&ModelSpec>,
        place: &str,
        dtype: Option<DType>,
    ) -> Result<PathBuf> {
        let own = ModelSpec::new(stage.place(&self.dir));
        let found = instead.unwrap_or(&own).find()?;
        let file = found.weights.file.path().to_path_buf();
        let folder = file.parent().unwrap_or(Path::new("")).to_path_buf();
        if ModelFolder::open(&folder).map(|ours| ours.weights).ok().as_ref() != Some(&file) {
            return Err(Error::model(
                file,
                "this codec is in no model folder of ours; synth-cli convert makes one of it",
            ));
        }
        let sha256 = convert::identity(&found, None)?;
        if instead.is_some() {
            convert::check_substitute(&found, &sha256, stage, &self.dir)?;
        } else if sha256 != stage.codec_sha256 {
            return Err(Error::model(
                file,
                format!(
                    "this is not the codec that the transformer was trained with: it has sha256 \
                     {sha256}, and {} was",
                    stage.codec_sha256
                ),
            ));
        }
        *stage = StageRef::at(place, convert::identity(&found, dtype)?);
        Ok(folder)
    }
}

/// `place` as seen from the folder `out`, which need not be there yet.
fn beside(out: &Path, place: &str) -> Result<PathBuf> {
    let mut path = std::path::absolute(out).map_err(|e| Error::model(out, e.to_string()))?;
    for part in Path::new(place).components() {
        match part {
            Component::ParentDir => {
                path.pop();
            }
            part => path.push(part),
        }
    }
    Ok(path)
}

/// Checks that the codec at `place` is the one that `stage` says it is.
fn check_shared(place: &Path, stage: &StageRef) -> Result<()> {
    let found = ModelSpec::new(place).find()?;
    let sha256 = convert::identity(&found, None)?;
    if sha256 != stage.codec_sha256 {
        return Err(Error::model(
            place,
            format!(
                "this is not the first stage of the model: it has sha256 {sha256}, and that one, \
                 its numbers as they are asked for, {}",
                stage.codec_sha256
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};
    use cond_transformer::{GptConfig, Order};

    use super::*;
    use crate::transformer_config::{
        Architecture, ConditionConfig, SamplingDefaults, StageRef, TextCondition,
    };

    #[test]
    fn written_folders_open() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let config = TransformerConfig {
            architecture: Architecture::Gpt(GptConfig {
                vocab_size: 20,
                block_size: 8,
                n_layer: 1,
                n_head: 1,
                n_embd: 4,
                n_unmasked: 0,
            }),
            weights: None,
            first_stage: StageRef::at("first_stage", "0".repeat(64)),
            codes: 10,
            grid: [2, 2],
            permuter: Order::Identity,
            condition: ConditionConfig::Text(TextCondition {
                tokens: 4,
                offset: 11,
                pad: 10,
                null: Some(10),
            }),
            sampling: SamplingDefaults::default(),
            preprocessing: serde_json::json!({}),
            provenance: serde_json::json!({ "steps": 1 }),
        };
        let path = dir.path().join("model");
        let one = Tensor::new(1_f32, &Device::Cpu)?;
        let parts = TransformerParts { tokenizer: Some(b"{}"), ..Default::default() };
        let written = TransformerFolder::replace(&path, &config, [("a", &one)], "# T\n", parts)?;
        assert_eq!(written.config, config);
        assert_eq!(written.tokenizer.as_deref(), Some(&b"{}"[..]));
        assert!(TransformerFolder::is_one(&path) && !TransformerFolder::is_one(dir.path()));

        // A codec is none, and says so.
        let other = dir.path().join("codec");
        let codec = serde_json::json!({ "kind": crate::KIND, "architecture": {} });
        ModelFolder::write(&other, &codec, [("a", &one)], "")?;
        assert!(!TransformerFolder::is_one(&other));
        let Err(error) = TransformerFolder::open(&other) else { anyhow::bail!("opened a codec") };
        assert!(error.to_string().contains(crate::KIND), "{error}");
        Ok(())
    }
}
