//! What the configurations of all runs have in common.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::document;
use super::sections::{CheckpointConfig, LogConfig};
use crate::schedule::Schedule;

/// The part of a configuration that the loop around the updates reads.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The run folder.
    pub run: &'a Path,
    /// Updates in the whole run.
    pub steps: u64,
    /// Minutes of one process; 0: no limit.
    pub minutes: f64,
    /// The learning rate.
    pub schedule: &'a Schedule,
    /// Steps in a row without a finite loss before the run stops.
    pub patience: u64,
    /// Steps between two validations; 0: only at the end.
    pub validate_every: u64,
    /// Metrics and previews.
    pub log: &'a LogConfig,
    /// When to save and what to keep.
    pub checkpoint: &'a CheckpointConfig,
}

/// What may change in every run that continues. A name that ends in a dot is a section.
const MAY_CHANGE: [&str; 5] = ["run", "steps", "minutes", "log.", "checkpoint."];

/// The configuration of a run: one TOML document, unknown keys refused.
pub trait RunConfig: Serialize + DeserializeOwned + Default {
    /// What the loop around the updates reads.
    fn frame(&self) -> Frame<'_>;

    /// What else may change when a run continues: keys, or sections with a dot behind.
    fn may_change() -> &'static [&'static str];

    /// Keys that only runs of another kind have, and why this one has not: they are refused
    /// with that, and not as misspelt.
    fn of_others() -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// Checks that values make sense, alone and together.
    ///
    /// # Errors
    /// Naming the key.
    fn validate(&self) -> Result<()>;

    /// Reads `path` and applies `overrides`, each `key.path=value`.
    ///
    /// # Errors
    /// If the file is not TOML, a key is unknown (the error names the nearest
    /// one) or of another kind of run, or a value makes no sense.
    fn read(path: &Path, overrides: &[String]) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the config {}", path.display()))?;
        let name = path.display().to_string();
        Self::parse(&text, overrides).with_context(|| format!("in {name}"))
    }

    /// The same from text.
    ///
    /// # Errors
    /// As [`RunConfig::read`].
    fn parse(text: &str, overrides: &[String]) -> Result<Self> {
        let config: Self = document::parse(text, overrides, &Self::default(), Self::of_others())?;
        config.validate()?;
        Ok(config)
    }

    /// The whole configuration as TOML, defaults written out.
    ///
    /// # Errors
    /// If a value cannot be written as TOML.
    fn to_toml(&self) -> Result<String> {
        toml::to_string(self).context("cannot write the config as TOML")
    }

    /// What differs between the run that `self` began and `other`, leaving out
    /// what may change when a run continues: `key: ours -> theirs`.
    ///
    /// # Errors
    /// If a value cannot be written as TOML.
    fn conflicts(&self, other: &Self) -> Result<Vec<String>> {
        let mut differences = document::differences(self, other)?;
        let free: Vec<_> = MAY_CHANGE.iter().chain(Self::may_change()).collect();
        differences.retain(|(key, _)| {
            !free
                .iter()
                .any(|free| key == *free || (free.ends_with('.') && key.starts_with(**free)))
        });
        Ok(differences.into_iter().map(|(_, text)| text).collect())
    }
}
