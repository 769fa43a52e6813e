//! NVIDIA GPUs (feature `cuda`).
//!
//! Layers on CUDA tensors of f32, f16 or bf16 run kernels of this crate (`src/cuda/*.cu`,
//! compiled to PTX when the crate is built) and cuDNN's convolutions, forward and
//! backward; arithmetic is in f32 whatever the storage. What has no kernel runs on
//! candle's own ops, and so do tensors without elements. Results do not depend on the
//! order in which threads finish: the kernels add in a fixed order, and cuDNN's
//! algorithms that do not are left out.
//!
//! f32 means f32: products are not rounded to TF32 unless [`allow_tf32`] says so.

use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(feature = "cuda")]
use candle_core::Tensor;
use candle_core::{Device, Result};

#[cfg(feature = "cuda")]
pub mod foreach;
#[cfg(feature = "cuda")]
mod launch;
#[cfg(feature = "cuda")]
mod map;
#[cfg(feature = "cuda")]
mod memory;
#[cfg(feature = "cuda")]
mod operand;

#[cfg(feature = "cuda")]
pub(crate) use launch::{
    Args, Function, Module, PLANE_PART, function, grid, index, most_shared, parts, threads,
};
#[cfg(feature = "cuda")]
pub(crate) use map::map;
#[cfg(feature = "cuda")]
pub(crate) use operand::{Element, Operand, aligned, by_dtype, tensor, with_operands};

static TF32: AtomicBool = AtomicBool::new(false);

/// Whether f32 convolutions and matrix products on NVIDIA GPUs may round their factors to
/// TF32 (10 bits of mantissa) for the sake of tensor cores: several times as fast, with
/// errors of about 1e-3 instead of 1e-6. Off by default; holds for the whole process, for
/// what is run from now on. Without the feature `cuda` it does nothing.
pub fn allow_tf32(allowed: bool) {
    TF32.store(allowed, Ordering::Relaxed);
    candle_core::cuda::set_gemm_reduced_precision_f32(allowed);
}

/// What [`allow_tf32`] was last told.
pub fn tf32_is_allowed() -> bool {
    TF32.load(Ordering::Relaxed)
}

/// Makes an NVIDIA GPU's device ready for work in which the host is the bottleneck; to be
/// called once, before there are tensors. Does nothing on other devices.
///
/// Its driver keeps freed memory for the next tensors, as the allocators of other frameworks
/// do, rather than hand it back to the system whenever the device is waited for, after which
/// every tensor of a training step is mapped anew. That holds for the process.
///
/// And no events are recorded. A device made by `Device::new_cuda_with_stream` has one stream,
/// on which everything happens in the order in which it is asked for; unless told otherwise,
/// cudarc makes two events for every tensor, and has every kernel wait for and record those of
/// its arguments: more calls of the driver than launches.
///
/// # Errors
/// What the driver says.
pub fn prepare(device: &Device) -> Result<()> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        // SAFETY: nobody makes a second stream for this device's context: candle, cuBLAS,
        // cuDNN and the kernels here and elsewhere use the device's own, and memory is freed
        // on it, too.
        unsafe { device.disable_event_tracking() };
        return memory::keep(device);
    }
    let _ = device;
    Ok(())
}

/// The most bytes that tensors and workspaces of this process had at a time on an NVIDIA
/// GPU, which is what its driver's pool of memory counts; `None` for other devices.
///
/// # Errors
/// What the driver says.
pub fn peak_bytes(device: &Device) -> Result<Option<u64>> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return memory::peak_bytes(device).map(Some);
    }
    let _ = device;
    Ok(None)
}

/// Whether the CUDA kernels can take these tensors together.
#[cfg(feature = "cuda")]
pub(crate) fn supports(tensors: &[&Tensor]) -> bool {
    use candle_core::DType;
    let Some(first) = tensors.first() else { return false };
    tensors.iter().all(|t| {
        t.device().is_cuda()
            && t.device().same_device(first.device())
            && t.dtype() == first.dtype()
            && matches!(t.dtype(), DType::F32 | DType::F16 | DType::BF16)
            && t.elem_count() > 0
    })
}
