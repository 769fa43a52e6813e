//! Functions of single elements: see `pointwise.cu`.

use candle_core::cuda_backend::cudarc::driver::{CudaView, PushKernelArg};
use candle_core::{Result, Tensor};

use super::launch::{Module, function, grid, threads};
use super::operand::{Element, Operand, by_dtype, tensor, with_operands};

/// Blocks that a device of any size is busy with.
const MOST_BLOCKS: usize = 1 << 14;

/// The tensors that the kernel `name` makes of those of one shape and type, and a number.
pub(crate) fn map<const IN: usize, const OUT: usize>(
    name: &str,
    tensors: [&Tensor; IN],
    scalar: f32,
) -> Result<[Tensor; OUT]> {
    let Some(first) = tensors.first() else { candle_core::bail!("{name} of nothing") };
    if let Some(other) = tensors.iter().find(|t| t.shape() != first.shape()) {
        candle_core::bail!("{name}: {:?} with {:?}", first.shape(), other.shape())
    }
    with_operands(
        tensors,
        |operands| by_dtype!(first.dtype(), T => run::<T, IN, OUT>(name, first, operands, scalar)),
    )
}

fn run<T: Element, const IN: usize, const OUT: usize>(
    name: &str,
    first: &Tensor,
    operands: [Operand; IN],
    scalar: f32,
) -> Result<[Tensor; OUT]> {
    let (device, len) = (operands[0].device(), first.elem_count());
    let aligned = len.is_multiple_of(4) && operands.iter().all(|o| o.is_aligned(4));
    let vector = if aligned { 4 } else { 1 };
    let views: Result<Vec<CudaView<T>>> = operands.iter().map(Operand::view::<T>).collect();
    let views = views?;
    let mut made = Vec::with_capacity(OUT);
    for _ in 0..OUT {
        // SAFETY: the kernel writes all of it.
        made.push(unsafe { device.alloc::<T>(len)? });
    }
    let kernel = function(device, Module::POINTWISE, &format!("{name}_{}_{vector}", T::SUFFIX))?;
    let work = len.div_ceil(vector);
    let threads = threads(work);
    let grid = grid(work.div_ceil(threads).min(MOST_BLOCKS), 1, threads)?;
    let count = len as u64;
    let mut launch = kernel.builder();
    views.iter().for_each(|view| {
        launch.arg(view);
    });
    launch.arg(&scalar).arg(&count);
    made.iter_mut().for_each(|slice| {
        launch.arg(slice);
    });
    // SAFETY: the arguments are those of a kernel of as many inputs and outputs, all of
    // `count` elements.
    unsafe { launch.launch(grid) }?;
    let made = made.into_iter().map(|slice| tensor(slice, first.shape(), device));
    match made.collect::<Vec<_>>().try_into() {
        Ok(made) => Ok(made),
        Err(_) => candle_core::bail!("{name}: the wrong number of results"),
    }
}
