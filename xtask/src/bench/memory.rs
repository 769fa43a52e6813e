//! What the operating system says of this process, or the driver of its part of a GPU.

use anyhow::{Context, Result};

use super::device::device;

/// Peaks of the memory of a process, in KiB: resident, or on a GPU that of tensors.
#[derive(Clone, Copy, Debug)]
pub struct Peak {
    /// Before it had a model: program and libraries.
    pub bare: u64,
    /// In the end.
    pub peak: u64,
}

/// The peak of this process's memory, in KiB. On the CPU Linux only.
pub fn peak() -> Result<u64> {
    device().synchronize()?;
    if let Some(bytes) = ::layers::cuda::peak_bytes(device())? {
        return Ok(bytes / 1024);
    }
    let status = std::fs::read_to_string("/proc/self/status")
        .context("peak memory is read from /proc/self/status, which only Linux has")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let value = line.and_then(|line| line.split_whitespace().next()).and_then(|v| v.parse().ok());
    value.context("/proc/self/status has no VmHWM")
}
