//! The nearest-code search on a GPU: a sweep over scores that may be a little off, then
//! exact distances of the few codes that it leaves. The codes found are the CPU's.

#[cfg(not(tensor_sweep))]
use candle_core::bail;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaView, PushKernelArg, sys};
use candle_core::cuda_backend::{CudaDevice, CudaStorage, WrapErr};
use candle_core::{Layout, Result};

use super::plan::{CANDIDATES, Sweep, TILE};
use super::{Kernel, blocks, int, kernel, launch, ptx, uninitialised, view, zeros};

/// Vectors that are searched for at a time: what a search needs beside its arguments does
/// not grow with their number.
const AT_ONCE: usize = 1 << 16;
/// Dimensions that the scalar sweeps' bound on errors holds for: as on the CPU.
const MAX_DIM: usize = 1 << 16;

/// The nearest of `codebook` `[K, D]` for each of `vectors` `[N, D]`, both contiguous and
/// f32, or both f64; and whether a distance was not a finite number (its code is
/// `u32::MAX` then), for the caller to look at.
pub(crate) fn nearest(
    vectors: &CudaStorage,
    vectors_layout: &Layout,
    codebook: &CudaStorage,
    codebook_layout: &Layout,
) -> Result<(CudaStorage, CudaSlice<u32>)> {
    let device = vectors.device.clone();
    let (n, dim) = vectors_layout.shape().dims2()?;
    let (k, _) = codebook_layout.shape().dims2()?;
    let mut codes = uninitialised::<u32>(&device, n)?;
    let mut failed = zeros::<u32>(&device, 1)?;
    let search = Search { device: &device, n, k, dim };
    if vectors.as_cuda_slice::<f32>().is_ok() {
        let vectors = view::<f32>(vectors, vectors_layout)?;
        let codebook = view::<f32>(codebook, codebook_layout)?;
        if dim <= MAX_DIM {
            search.swept(&vectors, &codebook, &mut codes, &mut failed)?;
        } else {
            search.all_codes("all_codes_f32", &vectors, &codebook, &mut codes, &mut failed)?;
        }
    } else {
        let vectors = view::<f64>(vectors, vectors_layout)?;
        let codebook = view::<f64>(codebook, codebook_layout)?;
        search.all_codes("all_codes_f64", &vectors, &codebook, &mut codes, &mut failed)?;
    }
    Ok((CudaStorage::wrap_cuda_slice(codes, device), failed))
}

/// Sizes: `n` vectors, `k` codes, `dim` dimensions.
struct Search<'a> {
    device: &'a CudaDevice,
    n: usize,
    k: usize,
    dim: usize,
}

/// The codebook as the sweeps want it.
struct Codes {
    largest: CudaSlice<u32>,
    image: CudaSlice<u16>,
    starts: CudaSlice<f32>,
    tiles: CudaSlice<f32>,
}

impl Search<'_> {
    /// Exact distances of all pairs.
    fn all_codes<T>(
        &self,
        name: &str,
        vectors: &CudaView<T>,
        codebook: &CudaView<T>,
        codes: &mut CudaSlice<u32>,
        failed: &mut CudaSlice<u32>,
    ) -> Result<()> {
        let all = kernel(self.device, "resolve", ptx::RESOLVE, name)?;
        let (n, k, dim) = (self.n as i64, int(self.k)?, int(self.dim)?);
        let mut args = all.builder();
        args.arg(vectors).arg(codebook).arg(&n).arg(&k).arg(&dim).arg(codes).arg(failed);
        // SAFETY: the kernel takes these arguments, reads n * dim and k * dim elements,
        // which the views have, and writes n codes.
        unsafe { args.launch(launch((blocks(self.n, 4)?, 1), 128, 0)) }.w()?;
        Ok(())
    }

    fn swept(
        &self,
        vectors: &CudaView<f32>,
        codebook: &CudaView<f32>,
        codes: &mut CudaSlice<u32>,
        failed: &mut CudaSlice<u32>,
    ) -> Result<()> {
        let context = self.device.cuda_stream().context().clone();
        let attribute = |a| context.attribute(a).w().map(|value| value as usize);
        use sys::CUdevice_attribute as Attribute;
        let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let hopper = context.compute_capability().w()? == (9, 0);
        let sweep = Sweep::choose(self.dim, hopper && cfg!(tensor_sweep));
        let prepared = self.prepare_codes(sweep, codebook)?;
        for first in (0..self.n).step_by(AT_ONCE) {
            let rows = AT_ONCE.min(self.n - first);
            let vectors = vectors.slice(first * self.dim..(first + rows) * self.dim);
            let parts = sweep.parts(rows, self.k, multiprocessors);
            let (image, facts) = self.prepare_vectors(sweep, &vectors, rows)?;
            let mut candidates = uninitialised::<u64>(self.device, rows * parts * CANDIDATES)?;
            let mut counts = uninitialised::<u32>(self.device, rows * parts)?;
            let mut limits = uninitialised::<f32>(self.device, rows * parts)?;
            let (rows_arg, k, dim) = (rows as i64, int(self.k)?, int(self.dim)?);
            let parts_arg = int(parts)?;
            let grid = (blocks(rows, sweep.vectors())?, parts as u32);
            let config = launch(grid, sweep.threads(), sweep.shared() as u32);
            let function = self.sweep_kernel(sweep)?;
            let mut args = function.builder();
            let (chunks, stages);
            if let Sweep::Tensor { chunks: c, stages: s, .. } = sweep {
                (chunks, stages) = (int(c)?, int(s)?);
                args.arg(&image).arg(&facts).arg(&prepared.image);
                args.arg(&prepared.starts).arg(&prepared.tiles).arg(&prepared.largest);
                args.arg(&rows_arg).arg(&k).arg(&dim).arg(&chunks).arg(&stages);
            } else {
                args.arg(&vectors).arg(&facts).arg(codebook);
                args.arg(&prepared.starts).arg(&prepared.tiles).arg(&prepared.largest);
                args.arg(&rows_arg).arg(&k).arg(&dim);
            }
            args.arg(&parts_arg).arg(&mut candidates).arg(&mut counts).arg(&mut limits);
            // SAFETY: the kernel takes these arguments. Images, starts and tiles are padded
            // to whole blocks; candidates, counts and limits have room for every vector in
            // every part, and each pair of them is one block's alone.
            unsafe { args.launch(config) }.w()?;

            let resolve = kernel(self.device, "resolve", ptx::RESOLVE, "resolve")?;
            let mut found = codes.slice_mut(first..first + rows);
            let mut args = resolve.builder();
            args.arg(&vectors).arg(&facts).arg(codebook).arg(&prepared.largest);
            args.arg(&candidates).arg(&counts).arg(&limits).arg(&rows_arg);
            args.arg(&k).arg(&dim).arg(&parts_arg).arg(&mut found).arg(&mut *failed);
            // SAFETY: as above; what a sweep leaves unwritten, because the codebook cannot
            // be swept, is not read: the kernel looks at `largest` first.
            unsafe { args.launch(launch((blocks(rows, 4)?, 1), 128, 0)) }.w()?;
        }
        Ok(())
    }

    fn sweep_kernel(&self, sweep: Sweep) -> Result<Kernel> {
        match sweep {
            Sweep::Few { dim, .. } => {
                let name = format!("sweep_few_{dim}");
                kernel(self.device, "sweep_scalar", ptx::SWEEP_SCALAR, &name)
            }
            Sweep::Many => kernel(self.device, "sweep_scalar", ptx::SWEEP_SCALAR, "sweep_many"),
            #[cfg(tensor_sweep)]
            Sweep::Tensor { steps, .. } => {
                let name = format!("sweep_tensor_{steps}");
                let function = kernel(self.device, "sweep_tensor", ptx::SWEEP_TENSOR, &name)?;
                use sys::CUfunction_attribute_enum as Attribute;
                let most = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                function.function.set_attribute(most, int(sweep.shared())?).w()?;
                Ok(function)
            }
            #[cfg(not(tensor_sweep))]
            Sweep::Tensor { .. } => bail!("the tensor-core sweep is not in this build"),
        }
    }

    fn prepare_codes(&self, sweep: Sweep, codebook: &CudaView<f32>) -> Result<Codes> {
        let device = self.device;
        let padded_rows = self.k.next_multiple_of(TILE);
        let mut prepared = Codes {
            largest: zeros(device, 1)?,
            image: uninitialised(device, padded_rows * sweep.image_dim())?,
            starts: uninitialised(device, padded_rows)?,
            tiles: zeros(device, padded_rows / TILE * 2)?,
        };
        let len = (self.k * self.dim) as i64;
        let largest = kernel(device, "prepare", ptx::PREPARE, "largest_magnitude")?;
        let mut args = largest.builder();
        args.arg(codebook).arg(&len).arg(&mut prepared.largest);
        let grid = blocks(self.k * self.dim, 256)?.min(1024);
        // SAFETY: the kernel reads `len` elements, which the view has, and changes one
        // number.
        unsafe { args.launch(launch((grid, 1), 256, 0)) }.w()?;

        let (k, padded_rows) = (self.k as i64, padded_rows as i64);
        let (dim, padded, tile) = (int(self.dim)?, int(sweep.image_dim())?, int(TILE)?);
        let prepare = kernel(device, "prepare", ptx::PREPARE, "prepare_codes")?;
        let no_image = 0u64;
        let mut args = prepare.builder();
        args.arg(codebook).arg(&k).arg(&padded_rows).arg(&dim).arg(&padded).arg(&tile);
        args.arg(&prepared.largest);
        if padded > 0 {
            args.arg(&mut prepared.image)
        } else {
            args.arg(&no_image)
        };
        args.arg(&mut prepared.starts).arg(&mut prepared.tiles);
        // SAFETY: the kernel reads k rows, and writes padded_rows rows of `padded` values
        // and starts, and two numbers for each 256 rows: what was allocated. A null
        // pointer for an image is what it takes for none.
        unsafe { args.launch(launch((blocks(padded_rows as usize, 8)?, 1), 256, 0)) }.w()?;
        Ok(prepared)
    }

    /// The image, and four numbers for each vector.
    fn prepare_vectors(
        &self,
        sweep: Sweep,
        vectors: &CudaView<f32>,
        rows: usize,
    ) -> Result<(CudaSlice<u16>, CudaSlice<f32>)> {
        let padded_rows = match sweep {
            Sweep::Tensor { .. } => rows.next_multiple_of(sweep.vectors()),
            _ => rows,
        };
        let mut image = uninitialised::<u16>(self.device, padded_rows * sweep.image_dim())?;
        let mut facts = uninitialised::<f32>(self.device, rows * 4)?;
        let prepare = kernel(self.device, "prepare", ptx::PREPARE, "prepare_vectors")?;
        let (rows, padded) = (rows as i64, int(sweep.image_dim())?);
        let (padded_arg, dim, tile) = (padded_rows as i64, int(self.dim)?, int(sweep.vectors())?);
        let no_image = 0u64;
        let mut args = prepare.builder();
        args.arg(vectors).arg(&rows).arg(&padded_arg).arg(&dim).arg(&padded).arg(&tile);
        if padded > 0 {
            args.arg(&mut image)
        } else {
            args.arg(&no_image)
        };
        args.arg(&mut facts);
        // SAFETY: the kernel reads `rows` rows and writes padded_rows rows of the image
        // and `rows` facts: what was allocated.
        unsafe { args.launch(launch((blocks(padded_rows, 8)?, 1), 256, 0)) }.w()?;
        Ok((image, facts))
    }
}
