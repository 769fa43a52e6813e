//! What this crate computes on NVIDIA GPUs, behind the feature `cuda`.
//!
//! The kernels are CUDA C++ beside these files, compiled to PTX by nvcc when the crate
//! is built: candle's own kernels need nvcc then too, so that asks for nothing more, and
//! a kernel that does not compile is found where there is no GPU. The driver translates
//! PTX for the GPU at hand when a kernel is first used, and keeps the result.
//!
//! | file | what |
//! |---|---|
//! | `prepare.cu` | norms, and values in f16 in the order in which tensor cores read them |
//! | `sweep_tensor.cu` | scores on Hopper's tensor cores; what may be the nearest is kept |
//! | `sweep_scalar.cu` | the same in f32: few dimensions, and all other GPUs |
//! | `resolve.cu` | exact distances of what was kept |
//! | `argmax.cu` | the first of the largest, of each row |
//! | `sums.cu` | sums and counts of the vectors of each code |

mod argmax;
mod nearest;
mod plan;
mod sums;

use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaSlice, CudaStream, CudaView, DeviceRepr, LaunchArgs, LaunchConfig,
    ValidAsZeroBits,
};
use candle_core::cuda_backend::{CudaDType, CudaDevice, CudaStorage};
use candle_core::{Layout, Result, bail};

pub(crate) use argmax::argmax;
pub(crate) use nearest::nearest;
pub(crate) use sums::sums_and_counts;

mod ptx {
    #![allow(missing_docs)]
    include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
}

/// A kernel, and the stream on which candle has everything else run.
struct Kernel {
    function: CudaFunction,
    stream: Arc<CudaStream>,
}

impl Kernel {
    fn builder(&self) -> LaunchArgs<'_> {
        self.stream.launch_builder(&self.function)
    }
}

/// The kernel `name` of the file that `ptx` was compiled from.
fn kernel(device: &CudaDevice, file: &str, ptx: &str, name: &str) -> Result<Kernel> {
    let function = device.get_or_load_custom_func(name, &format!("codebook/{file}"), ptx)?;
    Ok(Kernel { function: function.into_cuda_function(), stream: device.cuda_stream() })
}

/// A launch of `blocks` blocks (`x` and `y`) of `threads` threads.
fn launch((x, y): (u32, u32), threads: u32, shared: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (x, y, 1), block_dim: (threads, 1, 1), shared_mem_bytes: shared }
}

/// How many blocks of `each` make up `count`, as a launch takes it.
fn blocks(count: usize, each: usize) -> Result<u32> {
    match i32::try_from(count.div_ceil(each)) {
        Ok(blocks) => Ok(blocks as u32),
        Err(_) => bail!("{count} elements are too many for one launch on a GPU"),
    }
}

/// A size as kernels take it.
fn int(size: usize) -> Result<i32> {
    match i32::try_from(size) {
        Ok(size) => Ok(size),
        Err(_) => bail!("a size of {size} is too large for a GPU kernel"),
    }
}

/// The elements of a contiguous storage.
fn view<'a, T: CudaDType + DeviceRepr>(
    storage: &'a CudaStorage,
    layout: &Layout,
) -> Result<CudaView<'a, T>> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(storage.as_cuda_slice::<T>()?.slice(start..end)),
        None => bail!("a CUDA kernel got a non-contiguous tensor {layout:?}"),
    }
}

/// Memory that a kernel writes before anything reads it.
fn uninitialised<T: DeviceRepr>(device: &CudaDevice, len: usize) -> Result<CudaSlice<T>> {
    // SAFETY: the callers write every element that they or later kernels read; types are
    // plain numbers, for which any bits are a value.
    unsafe { device.alloc::<T>(len.max(1)) }
}

/// Zeros.
fn zeros<T: DeviceRepr + ValidAsZeroBits>(device: &CudaDevice, len: usize) -> Result<CudaSlice<T>> {
    device.alloc_zeros::<T>(len.max(1))
}
