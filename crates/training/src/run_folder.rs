//! The folder of one run: who may write it, and what lies where.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::config::RunConfig;

/// A run folder held by this process alone.
///
/// ```text
/// config.toml       the resolved configuration
/// checkpoints/      weights, optimiser and position, see `Checkpoints`
/// metrics.jsonl     one line per logged step or validation
/// events.out....    the same for TensorBoard, with the previews
/// previews/         originals over reconstructions, or samples
/// codes/            codes of the pictures, for a second stage
/// model/            the model folder that synth-cli loads
/// lock              held while a process trains
/// ```
pub struct RunFolder {
    path: PathBuf,
    /// Locked until it is dropped; the operating system drops it for a process
    /// that is killed.
    _lock: File,
}

impl RunFolder {
    /// Creates `path` if need be and takes its lock.
    ///
    /// # Errors
    /// If another process trains there, or the folder cannot be written.
    pub fn open(path: &Path) -> Result<Self> {
        let place = || format!("run folder {}", path.display());
        fs::create_dir_all(path.join("checkpoints")).with_context(place)?;
        fs::create_dir_all(path.join("previews")).with_context(place)?;
        let file = path.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&file)
            .with_context(|| file.display().to_string())?;
        match lock.try_lock() {
            Ok(()) => {
                let folder = Self { path: path.to_path_buf(), _lock: lock };
                folder.sweep().with_context(place)?;
                Ok(folder)
            }
            Err(TryLockError::WouldBlock) => bail!(
                "another process trains in {}: wait for it, or choose another run=FOLDER",
                path.display()
            ),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| file.display().to_string())
            }
        }
    }

    /// Removes what a process that was killed left half-written.
    fn sweep(&self) -> std::io::Result<()> {
        let folders =
            [self.path.clone(), self.checkpoints(), self.path.join("previews"), self.codes()];
        for folder in folders.into_iter().filter(|folder| folder.is_dir()) {
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let half = [".tmp", ".part"].iter().any(|end| name.ends_with(end));
                if !(name.starts_with('.') && half) {
                    continue;
                }
                match entry.file_type()?.is_dir() {
                    true => fs::remove_dir_all(entry.path())?,
                    false => fs::remove_file(entry.path())?,
                }
            }
        }
        Ok(())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where checkpoints are.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// Where the finished model goes.
    pub fn model(&self) -> PathBuf {
        self.path.join("model")
    }

    /// Where codes of pictures are kept.
    pub fn codes(&self) -> PathBuf {
        self.path.join("codes")
    }

    /// The metrics' file.
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// The preview of `step`.
    pub fn preview(&self, step: u64) -> PathBuf {
        self.path.join("previews").join(format!("step-{step:08}.png"))
    }

    /// Compares `config` with the one the run was begun with, if it was `begun`, and
    /// writes it down. A run without a checkpoint, which failed to start say, is not.
    ///
    /// # Errors
    /// If the run was begun with something that may not change, naming every
    /// such key.
    pub fn settle_config<C: RunConfig>(&self, config: &C, begun: bool) -> Result<()> {
        let path = self.path.join("config.toml");
        if begun && path.exists() {
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let begun = C::parse(&text, &[]).with_context(|| format!("in {}", path.display()))?;
            let conflicts = begun.conflicts(config)?;
            if !conflicts.is_empty() {
                bail!(
                    "{} was begun with another configuration ({}): choose another run=FOLDER, \
                     or delete it to start over",
                    self.path.display(),
                    conflicts.join(", ")
                );
            }
        }
        let text = config.to_toml()?;
        checkpoints::atomic_write(&path, |file| file.write_all(text.as_bytes()))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TrainConfig;

    #[test]
    fn one_writer_at_a_time() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let first = RunFolder::open(dir.path())?;
        let error = RunFolder::open(dir.path()).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("another process"), "{error}");
        drop(first);
        // Left by a process that was killed.
        let half = dir.path().join("checkpoints/.step-00000001.safetensors.7-0.tmp");
        fs::write(&half, "half")?;
        fs::create_dir(dir.path().join(".model.7-1.tmp"))?;
        RunFolder::open(dir.path())?;
        assert!(!half.exists() && !dir.path().join(".model.7-1.tmp").exists());
        Ok(())
    }

    #[test]
    fn another_model_is_refused() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let run = RunFolder::open(dir.path())?;
        let config = TrainConfig::default();
        run.settle_config(&config, false)?;
        run.settle_config(&TrainConfig { steps: 5, ..config.clone() }, true)?;
        let other = TrainConfig { seed: 24, ..config };
        let error =
            run.settle_config(&other, true).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("seed: 23 -> 24"), "{error}");
        run.settle_config(&other, false)?;
        Ok(())
    }
}
