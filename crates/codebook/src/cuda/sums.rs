//! Sums and counts of the vectors of each code on a GPU, the same in every run.

use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use candle_core::cuda_backend::{CudaStorage, WrapErr};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use super::{blocks, int, kernel, launch, ptx, uninitialised, view, zeros};

const OP: &str = "sums-of-codes";

/// `(vectors: [N, D], codes: [N]) -> [K, D + 1]`, f32: sums, and behind them counts.
struct SumsOfCodes {
    len: usize,
}

/// The sums `[K, D]` and counts `[K]` of the `vectors` `[N, D]` (f32) that have each of
/// `len` `codes` `[N]` (u32).
///
/// Sums are in fixed point, 2^-41 of the largest magnitude: the order in which threads
/// add makes no difference. A value that is not finite makes all sums NaN.
pub(crate) fn sums_and_counts(
    vectors: &Tensor,
    codes: &Tensor,
    len: usize,
) -> Result<(Tensor, Tensor)> {
    let dim = vectors.dim(1)?;
    let op = SumsOfCodes { len };
    let both = vectors.contiguous()?.apply_op2_no_bwd(&codes.contiguous()?, &op)?;
    let counts = both.narrow(1, dim, 1)?.squeeze(1)?.contiguous()?;
    Ok((both.narrow(1, 0, dim)?.contiguous()?, counts))
}

impl CustomOp2 for SumsOfCodes {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        bail!("{OP}: on the CPU, index_add does it")
    }

    fn cuda_fwd(
        &self,
        vectors: &CudaStorage,
        vectors_layout: &Layout,
        codes: &CudaStorage,
        codes_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let device = vectors.device.clone();
        let (n, dim) = vectors_layout.shape().dims2()?;
        if codes_layout.shape().dims1()? != n {
            bail!("{OP}: {n} vectors, codes {:?}", codes_layout.shape());
        }
        let values = self.len * (dim + 1);
        let vectors = view::<f32>(vectors, vectors_layout)?;
        let codes = view::<u32>(codes, codes_layout)?;
        let mut largest = zeros::<u32>(&device, 1)?;
        let mut sums = zeros::<u64>(&device, values)?;
        let mut out = uninitialised::<f32>(&device, values)?;
        let (rows, len, dim_arg) = (n as i64, int(self.len)?, int(dim)?);
        if n * dim > 0 {
            let elements = (n * dim) as i64;
            let function = kernel(&device, "prepare", ptx::PREPARE, "largest_magnitude")?;
            let mut args = function.builder();
            args.arg(&vectors).arg(&elements).arg(&mut largest);
            let grid = (blocks(n * dim, 256)?.min(1024), 1);
            // SAFETY: reads the view's elements and changes one number.
            unsafe { args.launch(launch(grid, 256, 0)) }.w()?;
        }
        if n > 0 {
            let function = kernel(&device, "sums", ptx::SUMS, "add_to_codes")?;
            let mut args = function.builder();
            args.arg(&vectors).arg(&codes).arg(&rows).arg(&len).arg(&dim_arg);
            args.arg(&largest).arg(&mut sums);
            let grid = (blocks(n * (dim + 1), 256)?, 1);
            // SAFETY: reads n rows and codes; codes beyond `len` are left out, so that what
            // is changed is within `sums`.
            unsafe { args.launch(launch(grid, 256, 0)) }.w()?;
        }
        let count = values as i64;
        let function = kernel(&device, "sums", ptx::SUMS, "sums_to_floats")?;
        let mut args = function.builder();
        args.arg(&sums).arg(&count).arg(&dim_arg).arg(&largest).arg(&mut out);
        // SAFETY: reads and writes `values` elements, which both have.
        unsafe { args.launch(launch((blocks(values, 256)?, 1), 256, 0)) }.w()?;
        Ok((CudaStorage::wrap_cuda_slice(out, device), Shape::from((self.len, dim + 1))))
    }
}
