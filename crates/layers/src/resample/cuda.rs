//! Nearest upsampling on NVIDIA GPUs: see `cuda/planes.cu`.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, PushKernelArg};
use candle_core::{CudaStorage, Layout, Result, Shape, Tensor};

use crate::cuda::{self, Args, Element, Module, Operand, by_dtype};

/// `[B, C, H, W]` to `[B, C, 2H, 2W]`.
pub(super) fn forward(x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
    let (b, c, h, w) = layout.shape().dims4()?;
    let operand = Operand::new(x, layout)?;
    let y = by_dtype!(x.dtype(), T => {
        CudaStorage::wrap_cuda_slice(repeat::<T>(operand, b * c * h, w)?, x.device.clone())
    });
    Ok((y, Shape::from((b, c, 2 * h, 2 * w))))
}

/// The sums of 2x2 blocks, and `plus`: `[B, C, 2H, 2W]` to `[B, C, H, W]`.
pub(super) fn gradient(grad: &Tensor, plus: Option<&Tensor>) -> Result<Tensor> {
    let (b, c, h2, w2) = grad.dims4()?;
    let shape = (b, c, h2 / 2, w2 / 2);
    if plus.is_some_and(|plus| plus.dims() != [shape.0, shape.1, shape.2, shape.3]) {
        candle_core::bail!("upsample: a gradient to be added to {:?} does not fit", grad.shape())
    }
    // Pairs are read at once.
    let offset = grad.layout().start_offset();
    let grad = if offset.is_multiple_of(2) { grad.contiguous()? } else { grad.force_contiguous()? };
    // The gradient stands in for what is not there.
    cuda::with_operands([&grad, plus.unwrap_or(&grad)], |[dy, other]| {
        let plus = plus.map(|_| other);
        by_dtype!(grad.dtype(), T => {
            let dx = sums::<T>(dy, plus, b * c * (h2 / 2), w2 / 2)?;
            Ok(cuda::tensor(dx, shape, dy.device()))
        })
    })
}

/// `rows` of `w` pixels, each pixel four times.
fn repeat<T: Element>(x: Operand, rows: usize, w: usize) -> Result<CudaSlice<T>> {
    let (device, x) = (x.device(), x.view::<T>()?);
    // SAFETY: the kernel writes all of it.
    let mut y = unsafe { device.alloc::<T>(4 * rows * w)? };
    let kernel = cuda::function(device, Module::PLANES, &format!("upsample_{}", T::SUFFIX))?;
    let (grid, w) = (cuda::grid(rows, 1, cuda::threads(w))?, cuda::index(w)?);
    let mut launch = kernel.builder();
    launch.arg(&x).arg(&w).arg(&mut y);
    // SAFETY: the arguments are those of the kernel; it reads `rows` of `w` and writes four
    // times as much, in pairs, which an allocation is aligned for.
    unsafe { launch.launch(grid) }?;
    Ok(y)
}

/// `rows` of `w` sums.
fn sums<T: Element>(
    dy: Operand,
    plus: Option<Operand>,
    rows: usize,
    w: usize,
) -> Result<CudaSlice<T>> {
    let (device, dy) = (dy.device(), dy.view::<T>()?);
    let plus = plus.map(|plus| plus.view::<T>()).transpose()?;
    // SAFETY: the kernel writes all of it.
    let mut dx = unsafe { device.alloc::<T>(rows * w)? };
    let name = format!("upsample_gradient_{}", T::SUFFIX);
    let kernel = cuda::function(device, Module::PLANES, &name)?;
    let (grid, w) = (cuda::grid(rows, 1, cuda::threads(w))?, cuda::index(w)?);
    let mut launch = kernel.builder();
    launch.arg(&dy).arg(&w).optional(plus.as_ref()).arg(&mut dx);
    // SAFETY: the arguments are those of the kernel; it reads four times `rows` of `w`, in
    // pairs, which the caller has aligned, and `plus`, and writes `rows` of `w`.
    unsafe { launch.launch(grid) }?;
    Ok(dx)
}
