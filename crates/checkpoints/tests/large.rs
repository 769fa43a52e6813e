//! A checkpoint of 4 GB, nearly all of it an optimiser's state, takes the memory of its
//! weights. The only test of its process, since it measures that process. The state is a
//! hole in the file, which takes no disk where the file system knows holes.

mod support;

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use checkpoints::{FileKind, TensorFile};
use support::{Pickle, archive, legacy};

const STATE_ELEMENTS: u64 = 1_000_000_000;
const STATE_BYTES: u64 = 4 * STATE_ELEMENTS;
const SIDE: i32 = 4096;
const WEIGHT_BYTES: usize = 4 * (SIDE * SIDE) as usize;
/// What opening and reading may take beside the weights.
const SLACK_BYTES: usize = 16 << 20;

/// `{"optimizer_states": [state], "state_dict": {"weight": weight}}`
fn pickle() -> Vec<u8> {
    Pickle::new()
        .raw(b"}(")
        .text("optimizer_states")
        .raw(b"](")
        .tensor("state", "FloatStorage", 0, &[STATE_ELEMENTS as i32], &[1])
        .raw(b"e")
        .text("state_dict")
        .raw(b"}(")
        .text("weight")
        .tensor("weight", "FloatStorage", 0, &[SIDE, SIDE], &[SIDE, 1])
        .raw(b"uu")
        .stop()
}

/// Writes `bytes` with a hole of [`STATE_BYTES`] at `at`.
fn write_with_hole(path: &Path, bytes: &[u8], at: usize) -> Result<()> {
    let mut file = File::create(path)?;
    file.write_all(&bytes[..at])?;
    file.seek(SeekFrom::Current(STATE_BYTES as i64))?;
    Ok(file.write_all(&bytes[at..])?)
}

/// The archive's last entry is the state; its sizes and what lies behind it are moved.
fn write_zip(path: &Path, weight: &[u8]) -> Result<()> {
    let mut bytes = archive(&pickle(), &[("weight", weight), ("state", &[])])?;
    let last = |bytes: &[u8], signature: &[u8; 4]| {
        bytes.windows(4).rposition(|window| window == signature).context("no such record")
    };
    let entry = last(&bytes, b"PK\x01\x02")?;
    let size = u32::try_from(STATE_BYTES)?.to_le_bytes();
    bytes[entry + 20..entry + 24].copy_from_slice(&size);
    bytes[entry + 24..entry + 28].copy_from_slice(&size);
    let end = last(&bytes, b"PK\x05\x06")?;
    let directory = u32::from_le_bytes(bytes[end + 16..end + 20].try_into()?);
    let moved = u32::try_from(u64::from(directory) + STATE_BYTES)?.to_le_bytes();
    bytes[end + 16..end + 20].copy_from_slice(&moved);
    write_with_hole(path, &bytes, directory as usize)
}

/// The state comes first, so that it has to be passed over.
fn write_legacy(path: &Path, weight: &[u8]) -> Result<()> {
    let mut bytes = legacy(&pickle(), &[("state", 4, &[]), ("weight", 4, weight)]);
    // The state's count, the weight's count and the weight are the end.
    let count = bytes.len() - weight.len() - 16;
    bytes[count..count + 8].copy_from_slice(&STATE_ELEMENTS.to_le_bytes());
    write_with_hole(path, &bytes, count + 8)
}

/// The most memory that this process has had, in bytes.
fn peak() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<usize>().ok()? << 10)
}

/// Starts a new measurement of [`peak`] at what is used now.
fn forget_peak() -> std::io::Result<()> {
    fs::write("/proc/self/clear_refs", "5")
}

#[test]
fn four_gigabytes_open_in_the_memory_of_their_weights() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let weight: Vec<u8> = (0..SIDE * SIDE).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let files = [
        (dir.path().join("zip.ckpt"), FileKind::TorchZip),
        (dir.path().join("legacy.ckpt"), FileKind::LegacyTorch),
    ];
    write_zip(&files[0].0, &weight)?;
    write_legacy(&files[1].0, &weight)?;
    drop(weight);
    for (path, kind) in files {
        assert!(fs::metadata(&path)?.len() > STATE_BYTES);
        let measured = forget_peak().is_ok();
        let before = peak().filter(|_| measured);
        let file = TensorFile::open(&path)?;
        assert_eq!(file.kind(), kind);
        assert_eq!(file.names().collect::<Vec<_>>(), ["weight"]);
        let tensor: Tensor = file.tensor("weight", &Device::Cpu)?;
        assert_eq!(tensor.get(1)?.get(7)?.to_scalar::<f32>()?, (SIDE + 7) as f32);
        match (before, peak()) {
            (Some(before), Some(after)) => {
                let grown = after - before;
                assert!(
                    grown <= WEIGHT_BYTES + SLACK_BYTES,
                    "{kind:?}: {grown} bytes to read {WEIGHT_BYTES}"
                );
                println!("{kind:?}: {grown} bytes to read {WEIGHT_BYTES}");
            }
            _ => println!("memory not checked: this system has no /proc/self/status"),
        }
    }
    Ok(())
}
