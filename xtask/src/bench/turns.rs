//! Several benches at once that measure one after the other.
//!
//! On a GPU nearly all of the time goes to what comes before measuring: Python compiles
//! LlamaGen for a minute or more for each size. Benches that share a file (`--turns`) do
//! that at the same time, and measure while nobody does anything else.

use std::fs::{File, OpenOptions};
use std::path::Path;

use anyhow::{Context, Result};

/// The file, where there is one: shared by those who prepare, and for one who measures.
pub struct Turns(Option<File>);

/// One's turn, until it is dropped.
pub struct Turn<'a>(Option<&'a File>);

impl Turns {
    /// # Errors
    /// If the file cannot be made.
    pub fn new(path: Option<&Path>) -> Result<Self> {
        let open = |path: &Path| {
            let file = OpenOptions::new().create(true).append(true).open(path);
            file.with_context(|| format!("cannot make {}, which benches share", path.display()))
        };
        Ok(Self(path.map(open).transpose()?))
    }

    /// Waits for whoever measures; others may prepare, too.
    ///
    /// # Errors
    /// If the file cannot be locked.
    pub fn prepare(&self) -> Result<Turn<'_>> {
        self.turn(File::lock_shared)
    }

    /// Waits for everybody.
    ///
    /// # Errors
    /// If the file cannot be locked.
    pub fn measure(&self) -> Result<Turn<'_>> {
        self.turn(File::lock)
    }

    fn turn(&self, lock: impl Fn(&File) -> std::io::Result<()>) -> Result<Turn<'_>> {
        if let Some(file) = &self.0 {
            lock(file).context("cannot wait for other benches")?;
        }
        Ok(Turn(self.0.as_ref()))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(file) = self.0 {
            // It is gone with the process at the latest.
            let _ = file.unlock();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_measures_is_alone() -> Result<()> {
        let path = std::env::temp_dir().join(format!("synth-turns-{}", std::process::id()));
        let (a, b) = (Turns::new(Some(&path))?, Turns::new(Some(&path))?);
        let other = File::options().append(true).open(&path)?;
        {
            let _together = (a.prepare()?, b.prepare()?);
            assert!(other.try_lock().is_err() && other.try_lock_shared().is_ok());
            other.unlock()?;
        }
        {
            let _alone = a.measure()?;
            assert!(other.try_lock_shared().is_err());
        }
        assert!(other.try_lock().is_ok());
        std::fs::remove_file(path)?;
        let nobody = Turns::new(None)?;
        let _both = (nobody.measure()?, nobody.measure()?);
        Ok(())
    }
}
