//! Where the contestants compute.

use std::sync::OnceLock;

use candle_core::{Device, Result};

static DEVICE: OnceLock<Device> = OnceLock::new();

/// Sets the device of all cases, once, before any is made.
///
/// # Errors
/// If this build has no CUDA, or the machine no such GPU.
pub fn set_cuda() -> Result<()> {
    let device = Device::new_cuda_with_stream(0)?;
    ::layers::cuda::prepare(&device)?;
    // Nobody else can have set it: there is one thread here.
    let _ = DEVICE.set(device);
    Ok(())
}

/// The device of all cases; the CPU if none was set.
pub fn device() -> &'static Device {
    DEVICE.get().unwrap_or(&Device::Cpu)
}
