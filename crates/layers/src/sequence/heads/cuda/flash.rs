//! Attention without the matrix of weights (Dao et al. 2022, 2023): see
//! `cuda/attention.cuh`. Nothing here waits for the device.

use candle_core::cuda_backend::cudarc::driver::{DeviceRepr, LaunchConfig, PushKernelArg};
use candle_core::{CudaDevice, DType, Device, Result, Tensor, WithDType};

use super::{Sizes, scale};
use crate::cuda::{self, Element, Module, Operand, by_dtype};
use crate::sequence::Dropout;

/// Threads of a block, as in `attention_tiles.cuh`.
const THREADS: u32 = 128;
/// Queries or keys that a block owns, as there.
const TILE: usize = 64;
/// Floats behind each row of a tile, as there.
const PAD: usize = 4;
/// Most dimensions of a head.
const MOST_DIM: usize = 128;

/// The sizes as kernels take them.
#[repr(C)]
#[derive(Clone, Copy)]
struct Shape {
    len: u32,
    dim: u32,
    heads: u32,
    shared: u32,
    unmasked: u32,
    aligned: u32,
}

// SAFETY: numbers without padding, as the kernels declare them.
unsafe impl DeviceRepr for Shape {}

/// The kernels.
#[derive(Clone, Copy)]
enum Pass {
    Forward,
    Stats,
    BackKeys,
    BackQueries,
}

impl Pass {
    fn name(self) -> &'static str {
        match self {
            Self::Forward => "attend",
            Self::Stats => "attend_stats",
            Self::BackKeys => "attend_back_keys",
            Self::BackQueries => "attend_back_queries",
        }
    }

    /// Bytes of shared memory for heads of `room` dimensions: the sums of
    /// `attention_tiles.cuh`.
    fn shared_bytes(self, room: usize) -> u32 {
        let whole = TILE * (room + PAD);
        // What the way back takes at a time of what it goes over.
        let count = if room > 64 { TILE / 2 } else { TILE };
        let part = count * (room + PAD);
        let floats = match self {
            Self::Forward | Self::Stats => 2 * whole + whole.max(TILE * (TILE + PAD)),
            Self::BackKeys => 2 * whole + 2 * part + count * (TILE + PAD) + 2 * count,
            Self::BackQueries => 2 * whole + part + part.max(TILE * (count + PAD)) + 2 * TILE,
        };
        (floats * size_of::<f32>()) as u32
    }
}

/// The dimensions of a head that the kernels have room for: of those compiled, the fewest
/// that are enough.
fn room(sizes: &Sizes) -> usize {
    sizes.dim.next_power_of_two().max(32)
}

/// Whether the kernels take it. Which weights dropout leaves out comes in blocks of a
/// row, which no thread here has.
pub(super) fn takes(sizes: &Sizes, queries: &Tensor, dropout: &Dropout) -> Result<bool> {
    let Device::Cuda(device) = queries.device() else { return Ok(false) };
    if dropout.is_on() || sizes.dim > MOST_DIM {
        return Ok(false);
    }
    let most = cuda::most_shared(device)?;
    let passes = [Pass::Forward, Pass::Stats, Pass::BackKeys, Pass::BackQueries];
    Ok(passes.iter().all(|pass| pass.shared_bytes(room(sizes)) <= most))
}

/// How one pass runs.
struct Launch<'a> {
    device: &'a CudaDevice,
    sizes: &'a Sizes,
    shape: Shape,
    /// What products are multiplied by to be exponents of two.
    factor: f32,
}

impl<'a> Launch<'a> {
    fn new(sizes: &'a Sizes, operands: &[Operand<'a>]) -> Result<Self> {
        let Some(first) = operands.first() else { candle_core::bail!("attention of nothing") };
        // Each row of each head begins at a multiple of four, if the tensor does.
        let aligned = sizes.dim.is_multiple_of(4) && operands.iter().all(|o| o.is_aligned(4));
        let shape = Shape {
            // All of a tile behind the last position has a number.
            len: cuda::index(sizes.len)?,
            dim: cuda::index(sizes.dim)?,
            heads: cuda::index(sizes.heads.heads)?,
            shared: cuda::index(sizes.heads.shared)?,
            // More than there are positions is all of them.
            unmasked: cuda::index(sizes.heads.unmasked.min(sizes.len))?,
            aligned: u32::from(aligned),
        };
        let factor = scale(sizes) * std::f32::consts::LOG2_E;
        Ok(Self { device: first.device(), sizes, shape, factor })
    }

    fn kernel<T: Element + WithDType>(&self, pass: Pass) -> Result<cuda::Function> {
        let room = room(self.sizes);
        let module = match T::DTYPE {
            DType::F32 => Module::ATTENTION_F32,
            DType::F16 => Module::ATTENTION_F16,
            _ => Module::ATTENTION_BF16,
        };
        let name = format!("{}_{}_{room}", pass.name(), T::SUFFIX);
        let kernel = cuda::function(self.device, module, &name)?;
        kernel.allow_shared(pass.shared_bytes(room))?;
        Ok(kernel)
    }

    /// A block for each tile of `heads` heads.
    fn grid(&self, pass: Pass, heads: usize) -> Result<LaunchConfig> {
        let tiles = self.sizes.len.div_ceil(TILE);
        Ok(LaunchConfig {
            grid_dim: (cuda::index(tiles * self.sizes.batch * heads)?, 1, 1),
            block_dim: (THREADS, 1, 1),
            shared_mem_bytes: pass.shared_bytes(room(self.sizes)),
        })
    }
}

/// What the heads read, `[B, T, H D]`.
pub(super) fn forward(sizes: &Sizes, tensors: [&Tensor; 3]) -> Result<Tensor> {
    let shape = tensors[0].shape();
    cuda::with_operands(tensors, |operands| {
        let launch = Launch::new(sizes, &operands)?;
        let [queries, keys, values] = operands;
        by_dtype!(tensors[0].dtype(), T => {
            let (q, k, v) = (queries.view::<T>()?, keys.view::<T>()?, values.view::<T>()?);
            // SAFETY: the kernel writes all of it.
            let mut read = unsafe { launch.device.alloc::<T>(shape.elem_count())? };
            let kernel = launch.kernel::<T>(Pass::Forward)?;
            let mut args = kernel.builder();
            args.arg(&q).arg(&k).arg(&v).arg(&launch.shape).arg(&launch.factor).arg(&mut read);
            // SAFETY: the arguments are those of the kernel; the tensors have the shapes
            // that `Sizes` has seen to, and tiles end where they do.
            unsafe { args.launch(launch.grid(Pass::Forward, sizes.heads.heads)?) }?;
            Ok(cuda::tensor(read, shape, launch.device))
        })
    })
}

/// The gradients to queries, keys and values for that of what was read.
pub(super) fn backward(sizes: &Sizes, tensors: [&Tensor; 4]) -> Result<[Tensor; 3]> {
    let shapes = [tensors[0].shape(), tensors[1].shape()];
    let Sizes { batch, len, .. } = *sizes;
    let (heads, shared) = (sizes.heads.heads, sizes.heads.shared);
    cuda::with_operands(tensors, |operands| {
        let launch = Launch::new(sizes, &operands)?;
        let [queries, keys, values, read] = operands;
        let (device, scale) = (launch.device, scale(sizes));
        by_dtype!(tensors[0].dtype(), T => {
            let (q, k, v) = (queries.view::<T>()?, keys.view::<T>()?, values.view::<T>()?);
            let dy = read.view::<T>()?;
            // SAFETY: the kernels write all of all.
            let (mut stats, mut dq, mut dk, mut dv) = unsafe {
                let [queries, keys] = shapes.map(|shape| shape.elem_count());
                (
                    device.alloc::<f32>(2 * batch * heads * len)?,
                    device.alloc::<T>(queries)?,
                    device.alloc::<T>(keys)?,
                    device.alloc::<T>(keys)?,
                )
            };
            let kernel = launch.kernel::<T>(Pass::Stats)?;
            let mut args = kernel.builder();
            args.arg(&q).arg(&k).arg(&v).arg(&dy).arg(&launch.shape).arg(&launch.factor);
            args.arg(&mut stats);
            // SAFETY: as in `forward`; it writes two numbers for each query of each head.
            unsafe { args.launch(launch.grid(Pass::Stats, heads)?) }?;
            let kernel = launch.kernel::<T>(Pass::BackKeys)?;
            let mut args = kernel.builder();
            args.arg(&q).arg(&k).arg(&v).arg(&dy).arg(&stats).arg(&launch.shape);
            args.arg(&launch.factor).arg(&scale).arg(&mut dk).arg(&mut dv);
            // SAFETY: as in `forward`; it reads what the first wrote.
            unsafe { args.launch(launch.grid(Pass::BackKeys, shared)?) }?;
            let kernel = launch.kernel::<T>(Pass::BackQueries)?;
            let mut args = kernel.builder();
            args.arg(&q).arg(&k).arg(&v).arg(&dy).arg(&stats).arg(&launch.shape);
            args.arg(&launch.factor).arg(&scale).arg(&mut dq);
            // SAFETY: as in `forward`; it reads what the first wrote.
            unsafe { args.launch(launch.grid(Pass::BackQueries, heads)?) }?;
            Ok([
                cuda::tensor(dq, shapes[0], device),
                cuda::tensor(dk, shapes[1], device),
                cuda::tensor(dv, shapes[1], device),
            ])
        })
    })
}
