//! Drawing codes on NVIDIA GPUs (feature `cuda`): from the first code that is drawn to the
//! last, nothing waits for the host.
//!
//! | file | what |
//! |---|---|
//! | `model` | a model as the kernels see it |
//! | `linear.cu` | linear layers over a few rows, with the norm before and the activation after; for more rows what is around products |
//! | `products.cu` | linear layers of half precision over more rows, on tensor cores, with what becomes of their outputs |
//! | `attention.cu` | one new position of each sequence looks at the cache |
//! | `choose.cu` | guidance, top-k, top-p and the draw; the next position's input |
//! | `pass`, `kernels` | one position through the whole model |
//! | `launch` | kernels begin before those in front of them have ended |
//! | `draw` | all positions: the first by launches, the rest by replaying a graph of them |
//!
//! Activations are f32 whatever the weights are kept as. Where a code is and how far the
//! cache is filled are numbers in the device's memory, so that one CUDA graph serves all
//! positions: a launch of some 60 kernels costs the host as much as one.
//!
//! While a graph is recorded, what other threads ask of the same device would become part of
//! it: one thread uses a device at a time, which candle's handles want anyway.
//!
//! The plain twins are [`crate::decoder::Pass`] by candle's ops and
//! [`crate::Chooser::choose`]; a prefix is read by them here, too.

mod draw;
mod kernels;
mod launch;
mod model;
mod pass;

pub(crate) use draw::draw;
pub(crate) use model::{Affine, FeedForward, Layer, Model, Norm, NormKind};

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, CudaStream, DevicePtr, DeviceRepr, LaunchConfig, ValidAsZeroBits, sys,
};
use candle_core::{CudaDevice, Result};

/// The most dynamic shared memory that a block gets without asking, beside a little that
/// kernels declare.
const SHARED_BYTES: usize = (48 << 10) - 256;

/// A grid of blocks (`x` and `y`) of `threads` threads with `shared` bytes of memory.
fn grid(x: usize, y: usize, threads: u32, shared: usize) -> Result<LaunchConfig> {
    if y > 65_535 || shared > SHARED_BYTES {
        candle_core::bail!("a CUDA grid of {y} rows, {shared} bytes of shared memory")
    }
    Ok(LaunchConfig {
        grid_dim: (int(x)? as u32, y as u32, 1),
        block_dim: (threads, 1, 1),
        shared_mem_bytes: shared as u32,
    })
}

/// A size as kernels take it.
fn int(size: usize) -> Result<i32> {
    match i32::try_from(size) {
        Ok(size) => Ok(size),
        Err(_) => candle_core::bail!("a size of {size} is too large for a GPU kernel"),
    }
}

/// Memory of a device that kernels know by its address. The host only touches it where no
/// kernel is to run in between.
struct Memory<T> {
    slice: CudaSlice<T>,
    address: u64,
}

impl<T: DeviceRepr + ValidAsZeroBits + Clone + 'static> Memory<T> {
    fn zeros(device: &CudaDevice, len: usize) -> Result<Self> {
        Ok(Self::of(device.alloc_zeros::<T>(len.max(1))?))
    }

    fn from_slice(device: &CudaDevice, values: &[T]) -> Result<Self> {
        if values.is_empty() {
            return Self::zeros(device, 1);
        }
        Ok(Self::of(device.clone_htod(values)?))
    }

    fn of(slice: CudaSlice<T>) -> Self {
        let stream = slice.stream().clone();
        let (address, _sync) = slice.device_ptr(&stream);
        drop(_sync);
        Self { address, slice }
    }

    fn read(&self, device: &CudaDevice) -> Result<Vec<T>> {
        device.clone_dtoh(&self.slice)
    }
}

/// Begins to record what is launched instead of running it.
fn record(stream: &CudaStream) -> Result<()> {
    // What other threads do with the driver is no concern of this.
    stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).w()
}
