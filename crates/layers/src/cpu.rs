//! Access to the f32 data of CPU tensors, for custom ops.

use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor};

/// Whether the fast CPU kernels can take `x`.
pub(crate) fn supports(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// The elements of a contiguous f32 storage.
pub(crate) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => candle_core::bail!("a fast CPU op got a non-contiguous tensor {layout:?}"),
    }
}

/// Calls `f` with the elements of f32 CPU tensors, copied first where they are not
/// contiguous.
pub(crate) fn with_slices<const N: usize, T>(
    tensors: [&Tensor; N],
    f: impl FnOnce([&[f32]; N]) -> T,
) -> Result<T> {
    let mut contiguous = Vec::with_capacity(N);
    for tensor in tensors {
        contiguous.push(tensor.contiguous()?);
    }
    let storages: Vec<_> = contiguous.iter().map(Tensor::storage_and_layout).collect();
    let mut slices = [&[][..]; N];
    for (target, (storage, layout)) in slices.iter_mut().zip(&storages) {
        match &**storage {
            Storage::Cpu(storage) => *target = slice(storage, layout)?,
            _ => candle_core::bail!("a fast CPU op got a tensor of another device"),
        }
    }
    Ok(f(slices))
}
