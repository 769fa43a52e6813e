//! What the operating system says of this process.

use anyhow::{Context, Result};

/// Peaks of the resident memory of a process, in KiB.
#[derive(Clone, Copy, Debug)]
pub struct Peak {
    /// Before it had a model: program and libraries.
    pub bare: u64,
    /// In the end.
    pub peak: u64,
}

/// The peak of this process's resident memory, in KiB. Linux only.
pub fn peak() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")
        .context("peak memory is read from /proc/self/status, which only Linux has")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let value = line.and_then(|line| line.split_whitespace().next()).and_then(|v| v.parse().ok());
    value.context("/proc/self/status has no VmHWM")
}
