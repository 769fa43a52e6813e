//! `config.json` of our model folder, for a transformer over the codes of a
//! first stage: what it is, what it was trained with, what comes in front.
//!
//! One JSON object, `kind` being [`TRANSFORMER_KIND`]; README.md of the folder
//! and the tests beside show whole ones. Codes are tokens `0..codes`. Condition
//! tokens of models that we train have rows of their own behind them; the
//! reference has one table for both (`offset` 0).

mod classes;
mod condition;
mod sampling;

use std::path::{Path, PathBuf};

use cond_transformer::{GptConfig, LlamaConfig, Order, Permuter, PrefixConfig, WeightFormat};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use condition::{
    CaptionCondition, ClassCondition, ConditionConfig, CoordinateCondition, GridCondition,
    GridInput, LayoutCondition, StartCondition, TextCondition,
};
pub use sampling::{SamplingChange, SamplingDefaults};

use crate::error::{Error, Result};

/// `kind` in the `config.json` of a transformer over codes.
pub const TRANSFORMER_KIND: &str = "code_transformer";

/// The identity of a codec that is not loaded yet.
pub(crate) const UNKNOWN: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What a transformer's `config.json` says.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct TransformerConfig {
    /// The network.
    pub architecture: Architecture,
    /// What the matrices of its linear layers are stored in blocks of: q8 or q4. None: they
    /// are stored as numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<WeightFormat>,
    /// The codec whose codes it draws.
    pub first_stage: StageRef,
    /// Codes of the first stage. Tokens at and beyond it are never drawn.
    pub codes: usize,
    /// Height and width of the code grid that it was trained on.
    pub grid: [usize; 2],
    /// The order in which a grid's codes come.
    #[serde(default)]
    pub permuter: Order,
    /// What comes in front of the codes.
    pub condition: ConditionConfig,
    /// How to sample where the user says nothing.
    #[serde(default)]
    pub sampling: SamplingDefaults,
    /// How pictures were prepared for training; for people.
    #[serde(default)]
    pub preprocessing: Value,
    /// Data, steps, metrics; for people.
    #[serde(default)]
    pub provenance: Value,
}

/// The network, by its layout.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(tag = "layout", rename_all = "snake_case")]
pub enum Architecture {
    /// minGPT-style: learned positions, conditions as tokens.
    Gpt(GptConfig),
    /// LlamaGen-style: rotary positions, a class or a caption in front.
    Llama(LlamaConfig),
}

impl Architecture {
    /// Rows of the table of codes.
    pub fn vocabulary(&self) -> usize {
        match self {
            Self::Gpt(config) => config.vocab_size,
            Self::Llama(config) => config.vocab_size,
        }
    }

    /// Positions there are, condition included; the last code needs none.
    pub fn context(&self) -> usize {
        match self {
            Self::Gpt(config) => config.block_size,
            Self::Llama(config) => config.prefix_positions() + config.block_size,
        }
    }

    /// Numbers of a position.
    pub(crate) fn width(&self) -> usize {
        match self {
            Self::Gpt(config) => config.n_embd,
            Self::Llama(config) => config.dim,
        }
    }

    fn validate(&self) -> Result<()> {
        match self {
            Self::Gpt(config) => config.validate()?,
            Self::Llama(config) => config.validate()?,
        }
        Ok(())
    }
}

/// Another model that this one works with, and what must be there.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct StageRef {
    /// Its folder, relative to the folder that names it, with `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Its name on the hub: `owner/name` or `owner/name@revision`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub: Option<String>,
    /// The codec's identity; see `Codec::sha256`.
    pub codec_sha256: String,
}

impl StageRef {
    /// The codec in the folder `path`, relative to the transformer's.
    pub fn at(path: impl Into<String>, codec_sha256: impl Into<String>) -> Self {
        Self { path: Some(path.into()), hub: None, codec_sha256: codec_sha256.into() }
    }

    /// What to load for a model in `folder`: a path, or a name on the hub.
    pub fn place(&self, folder: &Path) -> PathBuf {
        match (&self.path, &self.hub) {
            (Some(path), _) => folder.join(path),
            (None, hub) => PathBuf::from(hub.as_deref().unwrap_or_default()),
        }
    }

    /// Whether `codec_sha256` may be the codec that this names. References' models do not
    /// say which theirs are.
    pub fn may_be(&self, codec_sha256: &str) -> bool {
        self.codec_sha256 == UNKNOWN || self.codec_sha256 == codec_sha256
    }

    fn validate(&self, what: &str) -> std::result::Result<(), String> {
        if self.path.is_some() == self.hub.is_some() {
            return Err(format!("{what} needs a `path` or a `hub` name, one of the two"));
        }
        let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        if self.codec_sha256.len() != 64 || !self.codec_sha256.chars().all(hex) {
            return Err(format!("{what}.codec_sha256 is not 64 lowercase hexadecimal digits"));
        }
        Ok(())
    }
}

impl TransformerConfig {
    /// Reads the content of a `config.json`, which came from `path`.
    ///
    /// # Errors
    /// When it is of another kind, or does not describe a model: one message
    /// that names the field.
    pub fn from_value(value: &Value, path: &Path) -> Result<Self> {
        let kind = value["kind"].as_str().unwrap_or_default();
        if kind != TRANSFORMER_KIND {
            return Err(Error::model(
                path,
                format!(
                    "this is a model of kind {kind:?}; transformers over codes are of kind \
                     {TRANSFORMER_KIND:?}"
                ),
            ));
        }
        let mut value = value.clone();
        if let Value::Object(fields) = &mut value {
            fields.remove("kind");
            fields.remove("format_version");
        }
        let config = Self::deserialize(value)
            .map_err(|e| Error::model(path, format!("not a transformer's configuration: {e}")))?;
        config.check().map_err(|reason| Error::model(path, reason))?;
        Ok(config)
    }

    /// The content of a `config.json`.
    ///
    /// # Errors
    /// When the parts do not fit together.
    pub fn to_value(&self) -> Result<Value> {
        let broken = |reason: String| Error::model("config.json", reason);
        self.check().map_err(broken)?;
        let mut value = serde_json::to_value(self).map_err(|e| broken(e.to_string()))?;
        value["kind"] = TRANSFORMER_KIND.into();
        Ok(value)
    }

    /// Checks every size, and that they fit together.
    ///
    /// # Errors
    /// One message that names the field.
    pub fn validate(&self) -> Result<()> {
        self.check().map_err(|reason| Error::model("config.json", reason))
    }

    /// Codes of a grid of the training size.
    pub fn grid_len(&self) -> usize {
        self.grid[0] * self.grid[1]
    }

    /// The order of a grid of the training size.
    ///
    /// # Errors
    /// When it is not defined there.
    pub fn permuter(&self) -> Result<Permuter> {
        Ok(Permuter::new(self.permuter, self.grid[0], self.grid[1])?)
    }

    /// Positions that the condition takes in front of the codes.
    pub fn condition_positions(&self) -> usize {
        match (&self.condition, &self.architecture) {
            (ConditionConfig::Caption(_), Architecture::Llama(config)) => config.prefix_positions(),
            (condition, _) => condition.positions(self.grid),
        }
    }

    fn check(&self) -> std::result::Result<(), String> {
        self.architecture.validate().map_err(|e| format!("architecture: {e}"))?;
        self.check_weights()?;
        self.first_stage.validate("first_stage")?;
        let vocabulary = self.architecture.vocabulary();
        if self.codes == 0 || self.codes > vocabulary {
            return Err(format!("{} codes do not fit a vocabulary of {vocabulary}", self.codes));
        }
        let [height, width] = self.grid;
        Permuter::new(self.permuter, height, width).map_err(|e| e.to_string())?;
        self.condition.validate(vocabulary)?;
        self.check_front(vocabulary)?;
        let positions = self
            .condition_positions()
            .checked_add(height * width - 1)
            .ok_or("the condition has too many positions")?;
        if positions > self.architecture.context() {
            return Err(format!(
                "condition and codes take {positions} positions, the model has {}",
                self.architecture.context()
            ));
        }
        self.sampling.validate().map_err(|e| e.to_string())
    }

    /// Checks that matrices of this network can be in such blocks.
    fn check_weights(&self) -> std::result::Result<(), String> {
        let Some(format) = self.weights else { return Ok(()) };
        let width = self.architecture.width();
        match format.block() {
            None => Err(format!(
                "weights {format}: only q8 and q4 are stored in blocks; numbers in a file say \
                 themselves what they are"
            )),
            Some(block) if !width.is_multiple_of(block) => Err(format!(
                "weights {format}: rows of {width} numbers are not cut into blocks of {block}"
            )),
            Some(_) => Ok(()),
        }
    }

    /// Checks that the network takes this kind of condition.
    fn check_front(&self, vocabulary: usize) -> std::result::Result<(), String> {
        match (&self.architecture, &self.condition) {
            (Architecture::Llama(config), condition) => match (&config.prefix, condition) {
                (PrefixConfig::Class { classes }, ConditionConfig::Class(class)) => {
                    let own = class.offset == 0 && class.names.len() == *classes;
                    let null = class.null.is_none_or(|null| null as usize == *classes);
                    if own && null {
                        return Ok(());
                    }
                    Err(format!(
                        "this network has {classes} classes from 0 on, and {classes} stands for \
                         none; the condition says otherwise"
                    ))
                }
                (PrefixConfig::Caption { .. }, ConditionConfig::Caption(_)) => Ok(()),
                (prefix, condition) => Err(format!(
                    "a network with the prefix {prefix:?} takes no condition of kind {}",
                    condition.kind()
                )),
            },
            (Architecture::Gpt(_), ConditionConfig::Caption(_)) => {
                Err("captions are embeddings, which only the layout \"llama\" takes".to_owned())
            }
            (Architecture::Gpt(_), condition) => condition.check_tokens(vocabulary),
        }
    }
}

#[cfg(test)]
#[path = "transformer_config/tests.rs"]
mod tests;
