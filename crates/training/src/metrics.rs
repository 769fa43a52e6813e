//! `metrics.jsonl`: one JSON object per line, each with a `step`.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use crate::observer::Terms;

/// Appends lines to the metrics of a run.
pub struct MetricsLog {
    path: PathBuf,
    file: File,
}

impl MetricsLog {
    /// Opens the log of a run that stands at `step`: lines of later steps,
    /// left by a process that died after its last checkpoint, are dropped, and
    /// so is a half-written line.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        let place = || path.display().to_string();
        if path.exists() {
            let text = fs::read_to_string(path).with_context(place)?;
            let kept: String = text
                .lines()
                .filter(|line| step_of(line).is_some_and(|logged| logged <= step))
                .flat_map(|line| [line, "\n"])
                .collect();
            if kept != text {
                checkpoints::atomic_write(path, |file| file.write_all(kept.as_bytes()))?;
            }
        }
        let file = OpenOptions::new().create(true).append(true).open(path).with_context(place)?;
        Ok(Self { path: path.to_path_buf(), file })
    }

    /// Writes one line. A number that JSON cannot hold (NaN) becomes null.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&mut self, step: u64, kind: &str, terms: &Terms) -> Result<()> {
        let mut line = Map::new();
        line.insert("step".into(), step.into());
        line.insert("kind".into(), kind.into());
        for (&name, &value) in terms {
            line.insert(name.into(), value.into());
        }
        let text = format!("{}\n", Value::Object(line));
        self.file.write_all(text.as_bytes()).with_context(|| self.path.display().to_string())
    }
}

fn step_of(line: &str) -> Option<u64> {
    serde_json::from_str::<Value>(line).ok()?["step"].as_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_and_broken_lines_go_on_reopening() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("metrics.jsonl");
        let mut log = MetricsLog::open(&path, 0)?;
        for step in 1..=3 {
            log.write(step, "train", &Terms::from([("loss", 0.5), ("bad", f64::NAN)]))?;
        }
        log.file.write_all(b"{\"step\": 2, \"lo")?;
        drop(log);
        MetricsLog::open(&path, 2)?.write(3, "train", &Terms::new())?;
        let text = fs::read_to_string(&path)?;
        let steps: Vec<_> = text.lines().filter_map(step_of).collect();
        assert_eq!(steps, [1, 2, 3]);
        assert!(text.contains("\"bad\":null") && text.contains("\"loss\":0.5"), "{text}");
        Ok(())
    }
}
