//! Our model folder: what training writes, what `--model` reads, what goes to
//! a hub.
//!
//! ```text
//! config.json          kind, format_version, architecture, preprocessing, provenance
//! model.safetensors    keys = code paths; metadata: format version, config hash, blocks
//! README.md            model card
//! tokenizer.json       of a model that reads text
//! first_stage/         model folders of their own, of a transformer that brings
//! condition_stage/     its codecs along (a pipeline folder)
//! ```
//!
//! The hash in the weights is that of the configuration's content (sorted keys,
//! no white space), so that a folder whose parts come from two models is
//! noticed, and one that was only reformatted is not.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use serde_json::Value;

use crate::atomic::{atomic_write, beside, folder_beside, parent, sync_folder};
use crate::copies::{Copies, copy_safetensors};
use crate::error::{Error, Result};
use crate::hash::{sha256_bytes, sha256_file};
use crate::read_limited::read_limited;
use crate::tensor_file::TensorFile;
use crate::write::save_safetensors;

/// The newest version of the folder's format, which this crate reads. It writes the oldest
/// that has what the folder holds: matrices in blocks are of version 2.
pub const FORMAT_VERSION: u64 = 2;
/// The version of a folder whose weights are all numbers.
const NUMBERS_VERSION: u64 = 1;

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const CARD: &str = "README.md";
const TOKENIZER: &str = "tokenizer.json";
const FIRST_STAGE: &str = "first_stage";
const CONDITION_STAGE: &str = "condition_stage";
/// Everything that a folder may hold and still be replaced.
const FILES: [&str; 4] = [CONFIG, WEIGHTS, CARD, TOKENIZER];
/// The model folders that it may hold besides.
const STAGES: [&str; 2] = [FIRST_STAGE, CONDITION_STAGE];

/// The largest config.json.
const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// The largest model card.
const MAX_CARD_BYTES: u64 = 1 << 20;

/// A model folder that was opened.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelFolder {
    /// The folder.
    pub dir: PathBuf,
    /// `config.json`: an object with a string `kind`, a `format_version` and an
    /// `architecture`.
    pub config: Value,
    /// The path of the weights; see [`TensorFile::open`].
    pub weights: PathBuf,
    /// The model card, where there is one.
    pub card: Option<String>,
}

/// What a folder holds besides its own configuration, weights and card.
#[derive(Debug, Clone, Copy, Default)]
pub struct Parts<'a> {
    /// The content of `tokenizer.json`.
    pub tokenizer: Option<&'a [u8]>,
    /// A model folder that is copied to `first_stage/`.
    pub first_stage: Option<&'a Path>,
    /// A model folder that is copied to `condition_stage/`.
    pub condition_stage: Option<&'a Path>,
    /// What the numbers of both become: f32, bf16 or f16; `None` copies every byte.
    pub stage_dtype: Option<DType>,
}

impl ModelFolder {
    /// Whether `dir` looks like a model folder.
    pub fn is_one(dir: impl AsRef<Path>) -> bool {
        let dir = dir.as_ref();
        dir.join(CONFIG).is_file() && dir.join(WEIGHTS).is_file()
    }

    /// Opens a folder: reads the configuration and checks that the weights were
    /// written for it.
    ///
    /// # Errors
    /// When a part is missing, of a newer format, or of another model.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        if !dir.is_dir() {
            return Err(Error::format(dir, "is not a folder; a model folder was expected"));
        }
        let path = dir.join(CONFIG);
        let config = parse(&path, &read_text(&path, "config.json (bytes)", MAX_CONFIG_BYTES)?)?;
        check(&path, &config)?;
        let weights = dir.join(WEIGHTS);
        let stated = TensorFile::open(&weights)?.metadata().get("config_sha256").cloned();
        if stated != Some(hash(&config)) {
            let reason = "was not written for the config.json beside it: \
                          one of the two was changed or comes from another model, get both again";
            return Err(Error::format(&weights, reason));
        }
        let card = dir.join(CARD);
        let card = match card.is_file() {
            true => Some(read_text(&card, "the model card (bytes)", MAX_CARD_BYTES)?),
            false => None,
        };
        Ok(Self { dir: dir.to_path_buf(), config, weights, card })
    }

    /// The model's `kind`.
    pub fn kind(&self) -> &str {
        self.config["kind"].as_str().unwrap_or_default()
    }

    /// The SHA-256 of the weights file, which names the model.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn sha256(&self) -> Result<String> {
        sha256_file(&self.weights)
    }

    /// Writes a folder: beside `dir` first, then renamed. `config` is an object
    /// with a string `kind` and an `architecture`; `format_version` is set here.
    ///
    /// # Errors
    /// [`Error::Exists`] when there is something at `dir`; when the
    /// configuration is incomplete; when writing fails.
    pub fn write<'a, N: AsRef<str>>(
        dir: impl AsRef<Path>,
        config: &Value,
        tensors: impl IntoIterator<Item = (N, &'a Tensor)>,
        card: &str,
    ) -> Result<Self> {
        Self::write_with(dir, config, tensors, card, Parts::default())
    }

    /// [`write`](Self::write), with more parts than weights and card.
    ///
    /// # Errors
    /// As [`write`](Self::write); when a stage is not a model folder.
    pub fn write_with<'a, N: AsRef<str>>(
        dir: impl AsRef<Path>,
        config: &Value,
        tensors: impl IntoIterator<Item = (N, &'a Tensor)>,
        card: &str,
        parts: Parts<'_>,
    ) -> Result<Self> {
        let dir = dir.as_ref();
        if fs::symlink_metadata(dir).is_ok() {
            return Err(Error::Exists { path: dir.to_path_buf() });
        }
        let save = |path: &Path, metadata| save_safetensors(path, tensors, metadata);
        write_to(dir, config, (NUMBERS_VERSION, save), card, parts, false)
    }

    /// [`write`](Self::write), replacing a model folder that is there. A folder
    /// that holds anything else is not touched.
    ///
    /// # Errors
    /// As [`write`](Self::write); when what is there is not a model folder.
    pub fn replace<'a, N: AsRef<str>>(
        dir: impl AsRef<Path>,
        config: &Value,
        tensors: impl IntoIterator<Item = (N, &'a Tensor)>,
        card: &str,
    ) -> Result<Self> {
        Self::replace_with(dir, config, tensors, card, Parts::default())
    }

    /// [`replace`](Self::replace), with more parts than weights and card. What
    /// the folder held and `parts` does not name is gone afterwards; a stage may
    /// be copied from the folder itself.
    ///
    /// # Errors
    /// As [`replace`](Self::replace); when a stage is not a model folder.
    pub fn replace_with<'a, N: AsRef<str>>(
        dir: impl AsRef<Path>,
        config: &Value,
        tensors: impl IntoIterator<Item = (N, &'a Tensor)>,
        card: &str,
        parts: Parts<'_>,
    ) -> Result<Self> {
        let dir = dir.as_ref();
        let there = fs::symlink_metadata(dir).is_ok();
        if there {
            check_replaceable(dir, &STAGES)?;
        }
        let save = |path: &Path, metadata| save_safetensors(path, tensors, metadata);
        write_to(dir, config, (NUMBERS_VERSION, save), card, parts, there)
    }

    /// [`write_with`](Self::write_with), or [`replace_with`](Self::replace_with), of
    /// tensors of other files, which are read one at a time.
    ///
    /// # Errors
    /// As those two; when reading fails.
    pub fn copy(
        dir: impl AsRef<Path>,
        config: &Value,
        copies: &[Copies<'_>],
        card: &str,
        parts: Parts<'_>,
        replace: bool,
    ) -> Result<Self> {
        let dir = dir.as_ref();
        let there = fs::symlink_metadata(dir).is_ok();
        if there && !replace {
            return Err(Error::Exists { path: dir.to_path_buf() });
        }
        if there {
            check_replaceable(dir, &STAGES)?;
        }
        let mut version = NUMBERS_VERSION;
        for copies in copies {
            if copies.has_blocks()? {
                version = FORMAT_VERSION;
            }
        }
        let save = |path: &Path, metadata| copy_safetensors(path, copies, metadata);
        write_to(dir, config, (version, save), card, parts, there)
    }
}

fn write_to(
    dir: &Path,
    config: &Value,
    (version, save): (u64, impl FnOnce(&Path, [(String, String); 2]) -> Result<()>),
    card: &str,
    parts: Parts<'_>,
    replace: bool,
) -> Result<ModelFolder> {
    let mut config = config.clone();
    if let Value::Object(object) = &mut config {
        object.insert("format_version".to_string(), version.into());
    }
    check(dir, &config)?;
    let mut text =
        serde_json::to_string_pretty(&config).map_err(|e| Error::format(dir, e.to_string()))?;
    text.push('\n');
    // The hash is of what will be read back: printing may round a number.
    let config = parse(dir, &text)?;

    let (temporary, guard) = folder_beside(dir)?;
    let metadata = [
        ("format_version".to_string(), version.to_string()),
        ("config_sha256".to_string(), hash(&config)),
    ];
    save(&temporary.join(WEIGHTS), metadata)?;
    atomic_write(&temporary.join(CONFIG), |w| w.write_all(text.as_bytes()))?;
    atomic_write(&temporary.join(CARD), |w| w.write_all(card.as_bytes()))?;
    if let Some(tokenizer) = parts.tokenizer {
        atomic_write(&temporary.join(TOKENIZER), |w| w.write_all(tokenizer))?;
    }
    for (name, stage) in
        [(FIRST_STAGE, parts.first_stage), (CONDITION_STAGE, parts.condition_stage)]
    {
        if let Some(stage) = stage {
            copy_stage(stage, &temporary.join(name), parts.stage_dtype)?;
        }
    }
    if replace {
        swap(&temporary, dir)?;
    } else {
        fs::rename(&temporary, dir).map_err(Error::io(dir))?;
    }
    guard.keep();
    sync_folder(parent(dir)).map_err(Error::io(dir))?;
    ModelFolder::open(dir)
}

/// Copies the files of the model folder `from`, and nothing else that is in it, its
/// weights as `dtype`.
fn copy_stage(from: &Path, to: &Path, dtype: Option<DType>) -> Result<()> {
    ModelFolder::open(from)?;
    fs::create_dir(to).map_err(Error::io(to))?;
    for name in FILES {
        let source = from.join(name);
        if name == WEIGHTS && dtype.is_some() {
            let file = TensorFile::open(&source)?;
            let metadata = file.metadata().clone();
            copy_safetensors(to.join(name), &[Copies::of_all(&file, dtype)], metadata)?;
            continue;
        }
        if source.is_file() {
            let mut reader = fs::File::open(&source).map_err(Error::io(&source))?;
            atomic_write(&to.join(name), |mut w| std::io::copy(&mut reader, &mut w).map(|_| ()))?;
        }
    }
    Ok(())
}

/// Puts `new` in the place of `old`, which comes back if that fails.
fn swap(new: &Path, old: &Path) -> Result<()> {
    let (aside, ()) = beside(old, |candidate| fs::create_dir(candidate))?;
    fs::rename(old, &aside).map_err(Error::io(old))?;
    if let Err(error) = fs::rename(new, old) {
        fs::rename(&aside, old).map_err(Error::io(old))?;
        return Err(Error::io(old)(error));
    }
    fs::remove_dir_all(&aside).map_err(Error::io(&aside))
}

/// Refuses a folder that holds more than a model and model folders in `stages`.
fn check_replaceable(dir: &Path, stages: &[&str]) -> Result<()> {
    let refuse = |what: String| {
        Err(Error::format(dir, format!("{what}, so it is not replaced: choose another place")))
    };
    if !fs::symlink_metadata(dir).map_err(Error::io(dir))?.is_dir() {
        return refuse("is not a folder".to_string());
    }
    for entry in fs::read_dir(dir).map_err(Error::io(dir))? {
        let name = entry.map_err(Error::io(dir))?.file_name();
        if stages.iter().any(|stage| name == *stage) {
            check_replaceable(&dir.join(&name), &[])?;
        } else if !FILES.iter().any(|file| name == *file) {
            return refuse(format!("holds {name:?}, which is no part of a model folder"));
        }
    }
    Ok(())
}

fn read_text(path: &Path, what: &'static str, limit: u64) -> Result<String> {
    let bytes = read_limited(path, what, limit)?;
    String::from_utf8(bytes).map_err(|_| Error::format(path, "is not text (UTF-8)"))
}

fn parse(path: &Path, text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|e| Error::format(path, format!("is not valid JSON: {e}")))
}

fn check(path: &Path, config: &Value) -> Result<()> {
    if config["kind"].as_str().is_none_or(str::is_empty) {
        return Err(Error::format(path, "has no `kind`: is it a model's config.json?"));
    }
    match config["format_version"].as_u64() {
        Some(1..=FORMAT_VERSION) => {}
        Some(newer) => {
            let reason = format!(
                "has format version {newer}, and this program knows {FORMAT_VERSION}: \
                 use a newer one"
            );
            return Err(Error::format(path, reason));
        }
        None => return Err(Error::format(path, "has no `format_version`")),
    }
    if !config["architecture"].is_object() {
        return Err(Error::format(path, "has no `architecture` object"));
    }
    Ok(())
}

/// The SHA-256 of a configuration's content.
fn hash(config: &Value) -> String {
    let mut text = String::new();
    canonical(config, &mut text);
    sha256_bytes(text.as_bytes())
}

/// Compact JSON with sorted keys. Depth is bounded by the parser's limit.
fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(object) => {
            let mut keys: Vec<_> = object.keys().collect();
            keys.sort_unstable();
            out.push('{');
            for (i, key) in keys.into_iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                canonical(&object[key], out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                canonical(item, out);
            }
            out.push(']');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

#[cfg(test)]
mod tests;
