//! Access to the data of CUDA tensors, as `cpu.rs` gives it to that of others.

use candle_core::cuda::CudaDType;
use candle_core::cuda_backend::cudarc::cudnn::CudnnDataType;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaView, DeviceRepr};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, Layout, Result, Shape, Storage, Tensor};
use half::{bf16, f16};

/// An element type that the kernels have.
pub(crate) trait Element:
    CudaDType + DeviceRepr + CudnnDataType<Scalar = f32> + 'static
{
    /// How names of kernels of this type end.
    const SUFFIX: &'static str;
    /// For cuDNN's blending.
    const ZERO: Self;
    /// For cuDNN's blending.
    const ONE: Self;
}

impl Element for f32 {
    const SUFFIX: &'static str = "f32";
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
}

impl Element for f16 {
    const SUFFIX: &'static str = "f16";
    const ZERO: Self = f16::ZERO;
    const ONE: Self = f16::ONE;
}

impl Element for bf16 {
    const SUFFIX: &'static str = "bf16";
    const ZERO: Self = bf16::ZERO;
    const ONE: Self = bf16::ONE;
}

/// `$body` with the type `$t` that a `DType` stands for.
macro_rules! by_dtype {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::F32 => {
                type $t = f32;
                $body
            }
            candle_core::DType::F16 => {
                type $t = half::f16;
                $body
            }
            candle_core::DType::BF16 => {
                type $t = half::bf16;
                $body
            }
            other => candle_core::bail!("no CUDA kernel for {other:?}"),
        }
    };
}
pub(crate) use by_dtype;

/// The elements of a contiguous CUDA tensor.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    storage: &'a CudaStorage,
    start: usize,
    end: usize,
}

impl<'a> Operand<'a> {
    pub fn new(storage: &'a CudaStorage, layout: &Layout) -> Result<Self> {
        match layout.contiguous_offsets() {
            Some((start, end)) => Ok(Self { storage, start, end }),
            None => candle_core::bail!("a CUDA kernel got a non-contiguous tensor {layout:?}"),
        }
    }

    pub fn device(&self) -> &'a CudaDevice {
        &self.storage.device
    }

    pub fn view<T: Element>(&self) -> Result<CudaView<'a, T>> {
        let data = self.storage.as_cuda_slice::<T>()?;
        match data.try_slice(self.start..self.end) {
            Some(view) => Ok(view),
            None => candle_core::bail!("{}..{} of {}", self.start, self.end, data.len()),
        }
    }

    /// The elements of a tensor of u32.
    pub fn numbers(&self) -> Result<CudaView<'a, u32>> {
        let data = self.storage.as_cuda_slice::<u32>()?;
        match data.try_slice(self.start..self.end) {
            Some(view) => Ok(view),
            None => candle_core::bail!("{}..{} of {}", self.start, self.end, data.len()),
        }
    }

    /// Whether it begins at a multiple of `elements`: allocations do, of any number of
    /// them that is of interest here, but views of a tensor may not.
    pub fn is_aligned(&self, elements: usize) -> bool {
        self.start.is_multiple_of(elements)
    }
}

/// Calls `f` with the elements of CUDA tensors, copied first where they are not
/// contiguous.
pub(crate) fn with_operands<const N: usize, T>(
    tensors: [&Tensor; N],
    f: impl FnOnce([Operand; N]) -> Result<T>,
) -> Result<T> {
    let mut contiguous = Vec::with_capacity(N);
    for tensor in tensors {
        contiguous.push(tensor.contiguous()?);
    }
    let storages: Vec<_> = contiguous.iter().map(Tensor::storage_and_layout).collect();
    let mut operands = Vec::with_capacity(N);
    for (storage, layout) in &storages {
        match &**storage {
            Storage::Cuda(storage) => operands.push(Operand::new(storage, layout)?),
            _ => candle_core::bail!("a CUDA kernel got a tensor of another device"),
        }
    }
    match <[Operand; N]>::try_from(operands) {
        Ok(operands) => f(operands),
        Err(_) => candle_core::bail!("a CUDA kernel got the wrong number of tensors"),
    }
}

/// `x` for libraries that load several elements at once: without gaps, and beginning at a
/// multiple of 16 bytes.
pub(crate) fn aligned(x: &Tensor) -> Result<Tensor> {
    /// Elements of the smallest type in 16 bytes.
    const ELEMENTS: usize = 8;
    let x = x.contiguous()?;
    let offset = x.layout().start_offset();
    if offset.is_multiple_of(ELEMENTS) { Ok(x) } else { x.force_contiguous() }
}

/// A tensor, without a graph, of what a kernel wrote.
pub(crate) fn tensor<T: CudaDType>(
    data: CudaSlice<T>,
    shape: impl Into<Shape>,
    device: &CudaDevice,
) -> Tensor {
    let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(data, device.clone()));
    Tensor::from_storage(storage, shape, BackpropOp::none(), false)
}
