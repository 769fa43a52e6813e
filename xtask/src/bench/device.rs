//! Where the contestants compute.

use std::sync::OnceLock;
use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};

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

/// GFLOP/s of a GPU's tensor cores in bf16, sums in f32: the median of some products of
/// 8192 x 8192 by cuBLAS, of noise (zeros are faster).
///
/// # Errors
/// If the device has no room.
pub fn tensor_gflops() -> Result<f64> {
    const SIDE: usize = 8192;
    const RUNS: usize = 9;
    let noise = || Tensor::randn(0f32, 1.0, (SIDE, SIDE), device())?.to_dtype(DType::BF16);
    let (a, b) = (noise()?, noise()?);
    let mut seconds = Vec::with_capacity(RUNS);
    // The first loads cuBLAS's kernel.
    for _ in 0..=RUNS {
        device().synchronize()?;
        let begun = Instant::now();
        a.matmul(&b)?;
        device().synchronize()?;
        seconds.push(begun.elapsed().as_secs_f64());
    }
    let seconds = &mut seconds[1..];
    seconds.sort_by(f64::total_cmp);
    Ok(2.0 * (SIDE as f64).powi(3) / seconds[RUNS / 2] / 1e9)
}
