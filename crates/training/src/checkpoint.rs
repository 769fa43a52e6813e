//! Checkpoints of a run: whole, checksummed, newest first.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use checkpoints::{TensorFile, atomic_write, save_safetensors, sha256_file};
use image_data::Position;
use serde::{Deserialize, Serialize};

/// Everything of a run that is no tensor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps done; decides every random stream.
    pub step: u64,
    /// Where the next batch begins.
    pub position: Position,
    /// Updates of the autoencoder's optimiser: steps less those skipped.
    pub updates: u64,
    /// Updates of the discriminator's optimiser.
    pub critic_updates: u64,
    /// Steps in a row that were skipped because a term was not finite.
    pub broken_in_a_row: u64,
    /// All steps that were.
    #[serde(default)]
    pub broken: u64,
}

/// The stamp beside the tensors: written last, so without it there is no
/// checkpoint.
#[derive(Serialize, Deserialize)]
struct Stamp {
    sha256: String,
    progress: Progress,
}

/// The folder of a run's checkpoints: `step-N.safetensors`, and `step-N.json`
/// with its checksum.
pub struct Checkpoints {
    folder: PathBuf,
    keep: usize,
}

impl Checkpoints {
    /// Checkpoints in `folder`, of which the newest `keep` (at least one) stay.
    pub fn new(folder: PathBuf, keep: usize) -> Self {
        Self { folder, keep: keep.max(1) }
    }

    fn files(&self, step: u64) -> (PathBuf, PathBuf) {
        let stem = format!("step-{step:08}");
        (self.folder.join(format!("{stem}.safetensors")), self.folder.join(format!("{stem}.json")))
    }

    /// Writes a checkpoint and removes those that are too old.
    ///
    /// # Errors
    /// If the disk does not take it; older checkpoints are untouched then.
    pub fn save(&self, progress: &Progress, tensors: &BTreeMap<String, Tensor>) -> Result<PathBuf> {
        let (weights, stamp) = self.files(progress.step);
        save_safetensors(&weights, tensors, [])?;
        let text = serde_json::to_string_pretty(&Stamp {
            sha256: sha256_file(&weights)?,
            progress: progress.clone(),
        })?;
        atomic_write(&stamp, |file| file.write_all(text.as_bytes()))?;
        for old in self.steps(".json")?.into_iter().skip(self.keep) {
            let (_, stamp) = self.files(old);
            fs::remove_file(&stamp).with_context(|| stamp.display().to_string())?;
        }
        // Those of the stamps just removed, and of a process that died between the two.
        let stamped = self.steps(".json")?;
        for orphan in self.steps(".safetensors")?.into_iter().filter(|s| !stamped.contains(s)) {
            let (weights, _) = self.files(orphan);
            fs::remove_file(&weights).with_context(|| weights.display().to_string())?;
        }
        Ok(weights)
    }

    /// Whether there is a checkpoint, intact or not.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn any(&self) -> Result<bool> {
        Ok(self.folder.is_dir() && !self.steps(".json")?.is_empty())
    }

    /// The newest checkpoint that is intact, and complaints about newer ones
    /// that are not.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn newest(&self, device: &Device) -> Result<(Option<Loaded>, Vec<String>)> {
        let mut complaints = Vec::new();
        for step in self.steps(".json")? {
            match self.load(step, device) {
                Ok(loaded) => return Ok((Some(loaded), complaints)),
                Err(error) => {
                    complaints.push(format!("the checkpoint of step {step} is damaged: {error:#}"))
                }
            }
        }
        Ok((None, complaints))
    }

    /// The steps that have a stamp (`.json`), or weights, newest first.
    fn steps(&self, extension: &str) -> Result<Vec<u64>> {
        let place = || self.folder.display().to_string();
        let mut steps = Vec::new();
        for entry in fs::read_dir(&self.folder).with_context(place)? {
            let name = entry.with_context(place)?.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.strip_prefix("step-")?.strip_suffix(extension))
                .and_then(|number| number.parse::<u64>().ok());
            steps.extend(number);
        }
        steps.sort_unstable_by_key(|&step| std::cmp::Reverse(step));
        Ok(steps)
    }

    fn load(&self, step: u64, device: &Device) -> Result<Loaded> {
        let (weights, stamp) = self.files(step);
        let stamp: Stamp = serde_json::from_str(&fs::read_to_string(&stamp)?)?;
        let actual = sha256_file(&weights)?;
        anyhow::ensure!(
            actual == stamp.sha256,
            "{} has the checksum {actual}, not {}",
            weights.display(),
            stamp.sha256
        );
        let file = TensorFile::open(&weights)?;
        let mut tensors = HashMap::new();
        for name in file.names() {
            let name = name.to_string();
            let tensor = file.tensor(&name, device)?;
            tensors.insert(name, tensor);
        }
        Ok(Loaded { path: weights, progress: stamp.progress, tensors })
    }
}

/// A checkpoint in memory.
pub struct Loaded {
    /// Its file.
    pub path: PathBuf,
    /// Where the run stood.
    pub progress: Progress,
    /// All tensors.
    pub tensors: HashMap<String, Tensor>,
}

impl Loaded {
    /// The tensors under `prefix`, without it.
    pub fn section(&self, prefix: &str) -> HashMap<String, Tensor> {
        self.tensors
            .iter()
            .filter_map(|(name, tensor)| {
                Some((name.strip_prefix(prefix)?.to_string(), tensor.clone()))
            })
            .collect()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Adds `tensors` to `all` under `prefix`.
pub(crate) fn add_section(
    all: &mut BTreeMap<String, Tensor>,
    prefix: &str,
    tensors: BTreeMap<String, Tensor>,
) {
    all.extend(tensors.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors(value: f32) -> Result<BTreeMap<String, Tensor>> {
        Ok(BTreeMap::from([("model.w".to_string(), Tensor::new(&[value], &Device::Cpu)?)]))
    }

    #[test]
    fn the_newest_intact_one_is_used_and_old_ones_go() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let store = Checkpoints::new(dir.path().to_path_buf(), 2);
        assert!(store.newest(&Device::Cpu)?.0.is_none());
        for step in 1..=3 {
            store.save(&Progress { step, ..Progress::default() }, &tensors(step as f32)?)?;
        }
        assert_eq!(store.steps(".json")?, [3, 2]);
        assert_eq!(store.steps(".safetensors")?, [3, 2]);

        let (weights, _) = store.files(3);
        let mut bytes = fs::read(&weights)?;
        if let Some(last) = bytes.last_mut() {
            *last ^= 1;
        }
        fs::write(&weights, bytes)?;
        // A checkpoint whose stamp was never written does not exist.
        fs::write(store.files(4).0, b"half")?;
        let (loaded, complaints) = store.newest(&Device::Cpu)?;
        let loaded = loaded.context("an intact checkpoint is left")?;
        assert_eq!(loaded.progress.step, 2);
        assert_eq!(loaded.section("model.")["w"].to_vec1::<f32>()?, [2.0]);
        assert!(complaints.len() == 1 && complaints[0].contains("step 3"), "{complaints:?}");
        store.save(&Progress { step: 5, ..Progress::default() }, &tensors(5.0)?)?;
        assert_eq!(store.steps(".safetensors")?, [5, 3]);
        Ok(())
    }
}
