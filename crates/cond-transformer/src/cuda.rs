//! Drawing codes on NVIDIA GPUs (feature `cuda`): from the first code that is drawn to the
//! last, nothing waits for the host.
//!
//! | file | what |
//! |---|---|
//! | `model` | a model as the kernels see it |
//! | `linear.cu` | linear layers over a few rows, with the norm before and the activation after; for many rows what is around cuBLAS's products |
//! | `attention.cu` | one new position of each sequence looks at the cache |
//! | `choose.cu` | guidance, top-k, top-p and the draw; the next position's input |
//! | `pass` | one position through the whole model |
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
mod model;
mod pass;

pub(crate) use draw::draw;
pub(crate) use model::{Affine, FeedForward, Layer, Model, Norm, NormKind};

use std::sync::Arc;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaSlice, CudaStream, DevicePtr, DeviceRepr, LaunchArgs, LaunchConfig,
    ValidAsZeroBits, sys,
};
use candle_core::{CudaDevice, Result};

mod ptx {
    include!(concat!(env!("OUT_DIR"), "/ptx.rs"));
}

/// A file of kernels: its name, which no other has, and its code.
#[derive(Clone, Copy)]
struct Module(&'static str, &'static str);

impl Module {
    const ATTENTION: Self = Self("cond-transformer-attention", ptx::ATTENTION);
    const CHOOSE: Self = Self("cond-transformer-choose", ptx::CHOOSE);
    const LINEAR: Self = Self("cond-transformer-linear", ptx::LINEAR);
}

/// The most dynamic shared memory that a block gets without asking, beside a little that
/// kernels declare.
const SHARED_BYTES: usize = (48 << 10) - 256;

/// A kernel, and the stream on which candle has everything else run.
struct Kernel {
    function: CudaFunction,
    stream: Arc<CudaStream>,
}

impl Kernel {
    fn new(device: &CudaDevice, module: Module, name: &str) -> Result<Self> {
        let function = device.get_or_load_custom_func(name, module.0, module.1)?;
        Ok(Self { function: function.into_cuda_function(), stream: device.cuda_stream() })
    }

    fn builder(&self) -> LaunchArgs<'_> {
        self.stream.launch_builder(&self.function)
    }
}

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
