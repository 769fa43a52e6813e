//! The first of the largest of each row, on a GPU.

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, PushKernelArg};
use candle_core::cuda_backend::{CudaStorage, WrapErr};
use candle_core::{Layout, Result, bail};

use super::{blocks, kernel, launch, ptx, uninitialised, view, zeros};

/// The codes of `scores` `[N, K]`, contiguous, f32 or f64; and whether a score was NaN
/// (its row's code is `u32::MAX` then).
pub(crate) fn argmax(
    scores: &CudaStorage,
    layout: &Layout,
) -> Result<(CudaStorage, CudaSlice<u32>)> {
    let device = scores.device.clone();
    let (rows, len) = layout.shape().dims2()?;
    if len == 0 || len >= u32::MAX as usize {
        bail!("argmax-rows: rows of {len} scores");
    }
    let mut codes = uninitialised::<u32>(&device, rows)?;
    let mut failed = zeros::<u32>(&device, 1)?;
    if rows > 0 {
        let (grid, len) = ((blocks(rows, 1)?, 1), len as i64);
        let single = scores.as_cuda_slice::<f32>().is_ok();
        let name = if single { "argmax_f32" } else { "argmax_f64" };
        let function = kernel(&device, "argmax", ptx::ARGMAX, name)?;
        let (f32s, f64s);
        let mut args = function.builder();
        if single {
            f32s = view::<f32>(scores, layout)?;
            args.arg(&f32s);
        } else {
            f64s = view::<f64>(scores, layout)?;
            args.arg(&f64s);
        }
        args.arg(&len).arg(&mut codes).arg(&mut failed);
        // SAFETY: one block for each row reads `len` scores of it and writes its code.
        unsafe { args.launch(launch(grid, 256, 0)) }.w()?;
    }
    Ok((CudaStorage::wrap_cuda_slice(codes, device), failed))
}
