//! The folder that the reference's `main.py` writes.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

use super::ReferenceConfig;

const CONFIGS: &str = "configs";
const PROJECT_SUFFIX: &str = "-project.yaml";
const CHECKPOINTS: &str = "checkpoints";
const LAST: &str = "last.ckpt";
/// How many files of a folder a message shows, and how many are looked at.
const SHOWN: usize = 8;
const MAX_FILES: usize = 10_000;

/// A run: `configs/*-project.yaml` and `checkpoints/last.ckpt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceRun {
    /// The configurations by name, hence by date: a resumed run has several, of
    /// which later ones override earlier ones.
    pub configs: Vec<PathBuf>,
    /// The weights.
    pub checkpoint: PathBuf,
}

impl ReferenceRun {
    /// Whether `dir` looks like a run folder.
    pub fn is_one(dir: impl AsRef<Path>) -> bool {
        let dir = dir.as_ref();
        dir.join(CONFIGS).is_dir() && dir.join(CHECKPOINTS).is_dir()
    }

    /// Finds the parts of the run folder `dir`.
    ///
    /// # Errors
    /// When one is missing; the message says what was looked for and what is
    /// there instead.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let configs = project_configs(dir)?;
        if configs.is_empty() {
            return Err(missing(&dir.join(CONFIGS), "*-project.yaml"));
        }
        let checkpoint = dir.join(CHECKPOINTS).join(LAST);
        if !checkpoint.is_file() {
            return Err(missing(&dir.join(CHECKPOINTS), LAST));
        }
        Ok(Self { configs, checkpoint })
    }

    /// The run that a checkpoint lies in, if it lies in one:
    /// `RUN/checkpoints/NAME.ckpt`.
    pub fn of_checkpoint(path: impl AsRef<Path>) -> Option<Self> {
        let path = path.as_ref();
        let folder = path.parent()?;
        if folder.file_name()? != CHECKPOINTS {
            return None;
        }
        let configs = project_configs(folder.parent()?).ok()?;
        (!configs.is_empty()).then(|| Self { configs, checkpoint: path.to_path_buf() })
    }

    /// Reads the configuration.
    ///
    /// # Errors
    /// As [`ReferenceConfig::read_merged`].
    pub fn config(&self) -> Result<ReferenceConfig> {
        ReferenceConfig::read_merged(&self.configs)
    }
}

fn project_configs(dir: &Path) -> Result<Vec<PathBuf>> {
    let folder = dir.join(CONFIGS);
    let mut names = names(&folder)?;
    names.retain(|name| name.ends_with(PROJECT_SUFFIX));
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io(folder))?.take(MAX_FILES) {
        let name = entry.map_err(Error::io(folder))?.file_name();
        names.extend(name.into_string());
    }
    names.sort_unstable();
    Ok(names)
}

fn missing(folder: &Path, wanted: &str) -> Error {
    let there = match names(folder).unwrap_or_default() {
        names if names.is_empty() => "nothing".to_string(),
        names => names[..names.len().min(SHOWN)].join(", "),
    };
    let reason = format!(
        "has no {wanted} (it has {there}): name the checkpoint itself, and its YAML with --config"
    );
    Error::format(folder, reason)
}
