//! The reference's YAML configurations, as OmegaConf reads them.
//!
//! A configuration is a tree whose nodes `{target: NAME, params: {...}}` name a
//! Python class and its arguments. Names stay names here: whoever builds models
//! maps those that it knows. `${a.b}` stands for the node at that path.

mod interpolation;
mod run;

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::read_limited::read_limited;

pub use run::ReferenceRun;

/// The largest configuration file; the reference's have about 2 KB.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// The most nodes, aliases followed.
const MAX_NODES: usize = 1 << 16;
/// How deep nodes nest.
const MAX_DEPTH: usize = 64;
/// The most aliases.
const MAX_ALIASES: usize = 1 << 10;

/// A configuration, interpolations resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct ReferenceConfig {
    path: PathBuf,
    root: Value,
}

/// A Python class and the arguments to build it with.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// The class: `taming.models.vqgan.VQModel`.
    pub target: String,
    /// The arguments, an object.
    pub params: Value,
    /// The learning rate per example, where the configuration has one.
    pub base_learning_rate: Option<f64>,
}

impl ReferenceConfig {
    /// Reads a configuration.
    ///
    /// # Errors
    /// When the file is too large, not YAML, or its interpolations lead nowhere.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        Self::read_merged(&[path.as_ref()])
    }

    /// Reads several configurations, of which later ones override earlier ones
    /// node by node (lists as a whole), as `OmegaConf.merge` does.
    ///
    /// # Errors
    /// As [`read`](Self::read); when there is no file at all.
    pub fn read_merged(paths: &[impl AsRef<Path>]) -> Result<Self> {
        let mut root = Value::Null;
        for path in paths {
            merge(&mut root, read_yaml(path.as_ref())?);
        }
        let path = paths.last().map(|path| path.as_ref().to_path_buf()).unwrap_or_default();
        Self::resolve(path, &root)
    }

    /// Parses a configuration; `path` is for messages.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(path: impl AsRef<Path>, text: &str) -> Result<Self> {
        let path = path.as_ref();
        Self::resolve(path.to_path_buf(), &parse_yaml(path, text)?)
    }

    fn resolve(path: PathBuf, root: &Value) -> Result<Self> {
        if !root.is_object() {
            return Err(Error::format(&path, "is not a configuration: its top is not a mapping"));
        }
        match interpolation::resolve(root) {
            Ok(root) => Ok(Self { path, root }),
            Err(reason) => Err(Error::format(&path, reason)),
        }
    }

    /// The whole tree.
    pub fn root(&self) -> &Value {
        &self.root
    }

    /// The model: the node `model`, else the top itself if that is one.
    ///
    /// # Errors
    /// When there is no such node, or it is not of that form.
    pub fn model(&self) -> Result<ModelSpec> {
        let node = match self.root.get("model") {
            Some(node) => node,
            None if self.root.get("target").is_some() => &self.root,
            None => {
                let keys = self.root.as_object().into_iter().flatten();
                let keys: Vec<_> = keys.map(|(key, _)| key.as_str()).take(8).collect();
                let reason = format!(
                    "has no `model:` (its top has {}): \
                     the `*-project.yaml` of a run is needed, not its lightning.yaml",
                    keys.join(", ")
                );
                return Err(Error::format(&self.path, reason));
            }
        };
        let spec = ModelSpec::from_node(node)
            .map_err(|reason| Error::format(&self.path, format!("`model`: {reason}")))?;
        Ok(spec)
    }
}

impl ModelSpec {
    /// Reads a node `{target: NAME, params: {...}}`, such as `first_stage_config`.
    ///
    /// # Errors
    /// The reason, when it is not of that form.
    pub fn from_node(node: &Value) -> std::result::Result<Self, String> {
        let target = node
            .get("target")
            .and_then(Value::as_str)
            .ok_or("it has no `target`, the name of a class")?
            .to_string();
        let params = match node.get("params") {
            None | Some(Value::Null) => Value::Object(serde_json::Map::new()),
            Some(params @ Value::Object(_)) => params.clone(),
            Some(_) => return Err("its `params` are not a mapping".to_string()),
        };
        let base_learning_rate = node.get("base_learning_rate").and_then(Value::as_f64);
        Ok(Self { target, params, base_learning_rate })
    }
}

fn read_yaml(path: &Path) -> Result<Value> {
    let text = read_limited(path, "the configuration (bytes)", MAX_FILE_BYTES)?;
    let text = String::from_utf8(text).map_err(|_| {
        Error::format(path, "is not text: the configuration is a YAML file, not the weights")
    })?;
    parse_yaml(path, &text)
}

fn parse_yaml(path: &Path, text: &str) -> Result<Value> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_aliases: MAX_ALIASES,
            max_documents: 1,
            max_recorded_anchor_bytes: MAX_FILE_BYTES as usize,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_NODES,
        },
        // OmegaConf's safe loader refuses `!!python/object` and the like too.
        reject_unsupported_tags: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let reason: String = error.to_string().chars().take(400).collect();
        Error::format(path, format!("is not a YAML configuration: {reason}"))
    })
}

fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

#[cfg(test)]
mod tests;
