//! The numbers of a run: `metrics.jsonl`, one JSON object per line, each with a `step`,
//! and the same as TensorBoard events beside it.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use crate::event_log::EventLog;
use crate::observer::Terms;

/// Appends to the metrics of a run.
pub struct MetricsLog {
    path: PathBuf,
    file: File,
    events: EventLog,
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
        let events = EventLog::open(path.parent().unwrap_or(Path::new(".")), step)?;
        Ok(Self { path: path.to_path_buf(), file, events })
    }

    /// Writes one line, with the `time` in seconds since 1970, and one event. A number that
    /// JSON cannot hold (NaN) becomes null.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&mut self, step: u64, kind: &str, terms: &Terms) -> Result<()> {
        let mut line = Map::new();
        line.insert("step".into(), step.into());
        line.insert("kind".into(), kind.into());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        line.insert("time".into(), ((now.as_millis() as f64) / 1000.0).into());
        for (&name, &value) in terms {
            line.insert(name.into(), value.into());
        }
        let text = format!("{}\n", Value::Object(line));
        self.file.write_all(text.as_bytes()).with_context(|| self.path.display().to_string())?;
        self.events.scalars(step, kind, terms)
    }

    /// Shows the PNG file `path` in TensorBoard as `tag`.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn picture(&mut self, step: u64, tag: &str, path: &Path) -> Result<()> {
        let png = fs::read(path).with_context(|| path.display().to_string())?;
        self.events.picture(step, tag, &png)
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
