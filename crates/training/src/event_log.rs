//! TensorBoard's event file, beside `metrics.jsonl`.
//!
//! A file of records, each framed as TFRecord does (length, its checksum, bytes, their
//! checksum) and holding one protocol buffer `tensorflow.Event`. Only the few fields that
//! scalars and pictures need are written, so the encoding is spelled out here
//! (tensorflow `core/util/event.proto`, `core/framework/summary.proto`).

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::observer::Terms;

/// TensorBoard looks for `tfevents` in a name.
const FILE: &str = "events.out.tfevents.0.synth";
/// What the first record of a file says, and TensorBoard checks.
const VERSION: &str = "brain.Event:2";
/// Fields of `Event`.
const WALL_TIME: u64 = 1;
const STEP: u64 = 2;
const FILE_VERSION: u64 = 3;
const SUMMARY: u64 = 5;

/// Appends scalars and pictures to the event file of a run.
pub struct EventLog {
    path: PathBuf,
    file: File,
}

impl EventLog {
    /// Opens the event file in `folder` for a run that stands at `step`: events of later
    /// steps, left by a process that died after its last checkpoint, are dropped, and so
    /// is a record that is cut short or damaged, with all after it.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub fn open(folder: &Path, step: u64) -> Result<Self> {
        let path = folder.join(FILE);
        let place = || path.display().to_string();
        let old = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error).with_context(place),
        };
        let mut kept = Vec::new();
        for (record, data) in Records(&old) {
            if step_of(data).is_some_and(|logged| logged <= step) {
                kept.extend_from_slice(record);
            }
        }
        if kept.is_empty() {
            let mut event = event(0);
            bytes(&mut event, FILE_VERSION, VERSION.as_bytes());
            kept = frame(&event);
        }
        if kept != old {
            checkpoints::atomic_write(&path, |file| file.write_all(&kept))?;
        }
        let file = OpenOptions::new().append(true).open(&path).with_context(place)?;
        Ok(Self { path, file })
    }

    /// Writes one event with all of `terms`, called `kind/term`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn scalars(&mut self, step: u64, kind: &str, terms: &Terms) -> Result<()> {
        let mut summary = Vec::new();
        for (name, &value) in terms {
            let mut scalar = Vec::new();
            bytes(&mut scalar, 1, format!("{kind}/{name}").as_bytes());
            key(&mut scalar, 2, 5);
            scalar.extend_from_slice(&(value as f32).to_le_bytes());
            bytes(&mut summary, 1, &scalar);
        }
        self.write(step, &summary)
    }

    /// Writes the picture `png`, a PNG file of RGB pixels, called `tag`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn picture(&mut self, step: u64, tag: &str, png: &[u8]) -> Result<()> {
        const RGB: u64 = 3;
        // Width and height begin the first chunk, behind 16 bytes of signature and name.
        let side = |at: usize| Some(u32::from_be_bytes(png.get(at..at + 4)?.try_into().ok()?));
        let (w, h) = (side(16).unwrap_or(0), side(20).unwrap_or(0));
        let mut image = Vec::new();
        for (field, value) in [(1, u64::from(h)), (2, u64::from(w)), (3, RGB)] {
            key(&mut image, field, 0);
            varint(&mut image, value);
        }
        bytes(&mut image, 4, png);
        let mut value = Vec::new();
        bytes(&mut value, 1, tag.as_bytes());
        bytes(&mut value, 4, &image);
        let mut summary = Vec::new();
        bytes(&mut summary, 1, &value);
        self.write(step, &summary)
    }

    fn write(&mut self, step: u64, summary: &[u8]) -> Result<()> {
        let mut event = event(step);
        bytes(&mut event, SUMMARY, summary);
        // One call, so that a process that dies leaves at most one record cut short.
        self.file.write_all(&frame(&event)).with_context(|| self.path.display().to_string())
    }
}

/// The start of an event: now, and its step.
fn event(step: u64) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut event = Vec::new();
    key(&mut event, WALL_TIME, 1);
    event.extend_from_slice(&now.as_secs_f64().to_le_bytes());
    key(&mut event, STEP, 0);
    varint(&mut event, step);
    event
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn key(out: &mut Vec<u8>, field: u64, wire: u64) {
    varint(out, field << 3 | wire);
}

fn bytes(out: &mut Vec<u8>, field: u64, data: &[u8]) {
    key(out, field, 2);
    varint(out, data.len() as u64);
    out.extend_from_slice(data);
}

/// The step of an event as [`event`] begins it.
fn step_of(event: &[u8]) -> Option<u64> {
    let rest = event.strip_prefix(&[(WALL_TIME << 3 | 1) as u8])?.get(8..)?;
    let rest = rest.strip_prefix(&[(STEP << 3) as u8])?;
    let mut step = 0;
    for (i, &byte) in rest.iter().take(10).enumerate() {
        step |= u64::from(byte & 0x7f).checked_shl(7 * i as u32)?;
        if byte < 0x80 {
            return Some(step);
        }
    }
    None
}

fn frame(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend_from_slice(&length);
    record.extend_from_slice(&masked_crc(&length));
    record.extend_from_slice(data);
    record.extend_from_slice(&masked_crc(data));
    record
}

/// TFRecord's checksum: CRC-32C, rotated and shifted so that a checksum of data that hold
/// checksums is no special case.
fn masked_crc(data: &[u8]) -> [u8; 4] {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// The intact records at the start of a file: each whole, and its data.
struct Records<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (length, rest) = self.0.split_at_checked(8)?;
        let (length_crc, rest) = rest.split_at_checked(4)?;
        let len = usize::try_from(u64::from_le_bytes(length.try_into().ok()?)).ok()?;
        let (data, rest) = rest.split_at_checked(len)?;
        let (data_crc, rest) = rest.split_at_checked(4)?;
        if length_crc != masked_crc(length) || data_crc != masked_crc(data) {
            return None;
        }
        let record = &self.0[..self.0.len() - rest.len()];
        self.0 = rest;
        Some((record, data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(folder: &Path) -> Result<Vec<Option<u64>>> {
        let bytes = fs::read(folder.join(FILE))?;
        let whole: usize = Records(&bytes).map(|(record, _)| record.len()).sum();
        assert_eq!(whole, bytes.len());
        Ok(Records(&bytes).map(|(_, data)| step_of(data)).collect())
    }

    #[test]
    fn later_and_broken_events_go_on_reopening() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let mut log = EventLog::open(dir.path(), 0)?;
        for step in [1, 2, 300] {
            log.scalars(step, "train", &Terms::from([("loss", 0.5), ("lr", 1e-4)]))?;
        }
        log.picture(2, "preview", b"png")?;
        assert_eq!(steps(dir.path())?, [0, 1, 2, 300, 2].map(Some));
        log.file.write_all(&frame(b"whole, but no event")[..20])?;
        drop(log);
        EventLog::open(dir.path(), 2)?.scalars(3, "train", &Terms::new())?;
        assert_eq!(steps(dir.path())?, [0, 1, 2, 2, 3].map(Some));
        // Nothing to mend: the file stays as it is.
        let before = fs::read(dir.path().join(FILE))?;
        EventLog::open(dir.path(), 3)?;
        assert_eq!(fs::read(dir.path().join(FILE))?, before);
        fs::write(dir.path().join(FILE), "no event file")?;
        EventLog::open(dir.path(), 3)?;
        assert_eq!(steps(dir.path())?, [Some(0)]);
        Ok(())
    }

    #[test]
    fn a_scalar_is_encoded_as_tensorflow_does() -> Result<()> {
        let dir = tempfile::tempdir()?;
        EventLog::open(dir.path(), 0)?.scalars(300, "train", &Terms::from([("a", 1.5)]))?;
        let file = fs::read(dir.path().join(FILE))?;
        let (_, data) = Records(&file).nth(1).context("a second event")?;
        // tag "train/a" (7 bytes) and simple_value 1.5, in a value, in a summary.
        let mut expected = vec![0x10, 0xac, 0x02, 0x2a, 16, 0x0a, 14, 0x0a, 7];
        expected.extend_from_slice(b"train/a");
        expected.extend_from_slice(&[0x15, 0, 0, 0xc0, 0x3f]);
        assert_eq!(&data[9..], expected);
        // The check value of CRC-32C (RFC 3720, B.4: 32 bytes of zeros), then masked.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        Ok(())
    }
}
