//! What transformers are made of, on NVIDIA GPUs: see `cuda/rows.cu` and
//! `cuda/sequence.cu`. Nothing here waits for the device.

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, PushKernelArg};
use candle_core::{CudaDevice, D, Result, Tensor};

use crate::cuda::{self, Args, Element, Module, Operand, by_dtype};

/// Rows that a thread adds up.
const ROWS: usize = 64;
/// Most parts of rows.
const MOST_PARTS: usize = 256;

/// Rows and width of `x: [.., width]`.
fn sizes(x: &Tensor) -> Result<(usize, usize)> {
    let width = x.dim(D::Minus1)?;
    Ok((x.elem_count() / width.max(1), width))
}

/// The kernel `name` for elements of type `T`.
fn kernel<T: Element>(device: &CudaDevice, module: Module, name: &str) -> Result<cuda::Function> {
    cuda::function(device, module, &format!("{name}_{}", T::SUFFIX))
}

/// `y` `[R, C]`, which nobody else has, with `bias` `[C]` and `residual` `[R, C]` added.
pub(super) fn add_row(
    y: Tensor,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    if bias.is_none() && residual.is_none() {
        return Ok(y);
    }
    let (rows, width) = sizes(&y)?;
    let tensors = [&y, bias.unwrap_or(&y), residual.unwrap_or(&y)];
    cuda::with_operands(tensors, |[data, bias_data, other]| {
        let (bias, residual) = (bias.map(|_| bias_data), residual.map(|_| other));
        let device = data.device();
        by_dtype!(y.dtype(), T => {
            let from = data.view::<T>()?;
            let bias = bias.map(|bias| bias.view::<T>()).transpose()?;
            let residual = residual.map(|residual| residual.view::<T>()).transpose()?;
            // SAFETY: the kernel writes all of it.
            let mut to = unsafe { device.alloc::<T>(rows * width)? };
            let kernel = kernel::<T>(device, Module::ROWS, "add_row")?;
            let threads = cuda::threads(width);
            let grid = cuda::grid(rows, width.div_ceil(threads), threads)?;
            let width = cuda::index(width)?;
            let mut launch = kernel.builder();
            launch.arg(&from).optional(bias.as_ref()).optional(residual.as_ref());
            launch.arg(&width).arg(&mut to);
            // SAFETY: the arguments are those of the kernel; it goes over `rows` of `width`.
            unsafe { launch.launch(grid) }?;
            Ok(cuda::tensor(to, y.shape(), device))
        })
    })
}

/// The sums of the columns of `x` `[.., C]`: `[C]`.
pub(super) fn column_sums(x: &Tensor) -> Result<Tensor> {
    let (rows, width) = sizes(x)?;
    cuda::with_operands([x], |[data]| {
        by_dtype!(x.dtype(), T => {
            let (sums, _) = columns::<T>(data, None, rows, width)?;
            Ok(cuda::tensor(sums, width, data.device()))
        })
    })
}

/// The sums of the columns of `dy`, and with an input and its rows' mean and reciprocal
/// deviation also those of `dy` times the normed input.
fn columns<T: Element>(
    dy: Operand,
    normed: Option<(Operand, Operand)>,
    rows: usize,
    width: usize,
) -> Result<(CudaSlice<T>, Option<CudaSlice<T>>)> {
    let (device, dy) = (dy.device(), dy.view::<T>()?);
    let x = normed.map(|(x, _)| x.view::<T>()).transpose()?;
    let stats = normed.map(|(_, stats)| stats.view::<f32>()).transpose()?;
    let (part, parts) = cuda::parts(rows, ROWS, MOST_PARTS);
    // SAFETY: the kernel writes all of both, of the second only where there is an input.
    let (mut sums, mut products) = unsafe {
        let products = if x.is_some() { width * parts } else { 1 };
        (device.alloc::<f32>(width * parts)?, device.alloc::<f32>(products)?)
    };
    let first = kernel::<T>(device, Module::ROWS, "column_sums")?;
    let threads = cuda::threads(width);
    let blocks = width.div_ceil(threads);
    let grid = cuda::grid(blocks, parts, threads)?;
    let (rows, part, width_arg) = (cuda::index(rows)?, cuda::index(part)?, cuda::index(width)?);
    let mut launch = first.builder();
    launch.arg(&dy).optional(x.as_ref()).optional(stats.as_ref()).arg(&rows).arg(&part);
    launch.arg(&width_arg).arg(&mut sums).arg(&mut products);
    // SAFETY: the arguments are those of the kernel; it reads `rows` of `width` of tensors
    // of one shape and writes a number for each column of each part.
    unsafe { launch.launch(grid) }?;
    let parts = cuda::index(parts)?;
    let total = |partial: &CudaSlice<f32>| -> Result<CudaSlice<T>> {
        // SAFETY: the kernel writes all of it.
        let mut to = unsafe { device.alloc::<T>(width)? };
        let second = kernel::<T>(device, Module::ROWS, "sum_parts")?;
        let mut launch = second.builder();
        launch.arg(partial).arg(&parts).arg(&width_arg).arg(&mut to);
        // SAFETY: the arguments are those of the kernel; it reads what the first wrote.
        unsafe { launch.launch(cuda::grid(blocks, 1, threads)?) }?;
        Ok(to)
    };
    let found = total(&sums)?;
    let products = x.is_some().then(|| total(&products)).transpose()?;
    Ok((found, products))
}

/// The norm of the rows of `x`, RMS norm without a `bias`; and mean and reciprocal
/// deviation of each row, `[R, 2]`, f32.
pub(super) fn row_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    eps: f64,
) -> Result<(Tensor, Tensor)> {
    let (rows, width) = sizes(x)?;
    cuda::with_operands([x, weight, bias.unwrap_or(weight)], |[data, weight, bias_data]| {
        let bias = bias.map(|_| bias_data);
        let device = data.device();
        by_dtype!(x.dtype(), T => {
            let (from, weight) = (data.view::<T>()?, weight.view::<T>()?);
            let bias = bias.map(|bias| bias.view::<T>()).transpose()?;
            // SAFETY: the kernel writes all of both.
            let (mut y, mut stats) =
                unsafe { (device.alloc::<T>(rows * width)?, device.alloc::<f32>(2 * rows)?) };
            let kernel = kernel::<T>(device, Module::ROWS, "row_norm")?;
            let grid = cuda::grid(rows, 1, cuda::threads(width))?;
            let (width, eps) = (cuda::index(width)?, eps as f32);
            let mut launch = kernel.builder();
            launch.arg(&from).arg(&weight).optional(bias.as_ref()).arg(&width).arg(&eps);
            launch.arg(&mut stats).arg(&mut y);
            // SAFETY: the arguments are those of the kernel; it goes over `rows` of `width`
            // and writes two numbers for each to `stats`.
            unsafe { launch.launch(grid) }?;
            let stats = cuda::tensor(stats, (rows, 2), device);
            Ok((cuda::tensor(y, x.shape(), device), stats))
        })
    })
}

/// The gradients of [`row_norm`] to input, with `plus` added, weight and bias.
pub(super) fn row_norm_back(
    [x, weight, stats]: [&Tensor; 3],
    centred: bool,
    dy: &Tensor,
    plus: Option<&Tensor>,
) -> Result<[Tensor; 3]> {
    let (rows, width) = sizes(x)?;
    let tensors = [x, weight, stats, dy, plus.unwrap_or(x)];
    cuda::with_operands(tensors, |[data, weight, stats, dy, other]| {
        let device = data.device();
        by_dtype!(x.dtype(), T => {
            let plus = plus.map(|_| other.view::<T>()).transpose()?;
            let (from, weight, back) = (data.view::<T>()?, weight.view::<T>()?, dy.view::<T>()?);
            let moments = stats.view::<f32>()?;
            // SAFETY: the kernel writes all of it.
            let mut dx = unsafe { device.alloc::<T>(rows * width)? };
            let kernel = kernel::<T>(device, Module::ROWS, "row_norm_back")?;
            let grid = cuda::grid(rows, 1, cuda::threads(width))?;
            let (width_arg, centred) = (cuda::index(width)?, u32::from(centred));
            let mut launch = kernel.builder();
            launch.arg(&from).arg(&back).optional(plus.as_ref()).arg(&weight).arg(&moments);
            launch.arg(&width_arg).arg(&centred).arg(&mut dx);
            // SAFETY: the arguments are those of the kernel; it goes over `rows` of `width`
            // of tensors of one shape.
            unsafe { launch.launch(grid) }?;
            let (dbias, dweight) = columns::<T>(dy, Some((data, stats)), rows, width)?;
            let Some(dweight) = dweight else { candle_core::bail!("row norm: no products") };
            Ok([
                cuda::tensor(dx, x.shape(), device),
                cuda::tensor(dweight, width, device),
                cuda::tensor(dbias, width, device),
            ])
        })
    })
}

/// See [`super::rotate`]; `cosine` and `sine` are f32.
pub(super) fn rotate(x: &Tensor, cosine: &Tensor, sine: &Tensor, back: bool) -> Result<Tensor> {
    let (rows, width) = sizes(x)?;
    let (positions, half) = cosine.dims2()?;
    cuda::with_operands([x, cosine, sine], |[data, cosine, sine]| {
        let device = data.device();
        by_dtype!(x.dtype(), T => {
            let (from, cosine, sine) =
                (data.view::<T>()?, cosine.view::<f32>()?, sine.view::<f32>()?);
            // SAFETY: the kernel writes all of it.
            let mut y = unsafe { device.alloc::<T>(rows * width)? };
            let kernel = kernel::<T>(device, Module::SEQUENCE, "rotate")?;
            let pairs = width / 2;
            let threads = cuda::threads(pairs);
            let grid = cuda::grid(rows, pairs.div_ceil(threads), threads)?;
            let (positions, half) = (cuda::index(positions)?, cuda::index(half)?);
            let (pairs, sign) = (cuda::index(pairs)?, if back { -1f32 } else { 1.0 });
            let mut launch = kernel.builder();
            launch.arg(&from).arg(&cosine).arg(&sine).arg(&positions).arg(&half).arg(&pairs);
            launch.arg(&sign).arg(&mut y);
            // SAFETY: the arguments are those of the kernel; it goes over `rows` of `pairs`
            // and reads angles of `positions` times `half`.
            unsafe { launch.launch(grid) }?;
            Ok(cuda::tensor(y, x.shape(), device))
        })
    })
}

/// The rows of `table` that `tokens`, u32, name: `[R, C]`, NaN for those that name none.
pub(super) fn embed(table: &Tensor, tokens: &Tensor) -> Result<Tensor> {
    let (len, width) = table.dims2()?;
    let count = tokens.elem_count();
    cuda::with_operands([table, tokens], |[data, tokens]| {
        let device = data.device();
        let tokens = tokens.numbers()?;
        by_dtype!(table.dtype(), T => {
            let from = data.view::<T>()?;
            // SAFETY: the kernel writes all of it.
            let mut y = unsafe { device.alloc::<T>(count * width)? };
            let kernel = kernel::<T>(device, Module::SEQUENCE, "embed")?;
            let grid = cuda::grid(count, 1, cuda::threads(width))?;
            let (len, width_arg) = (cuda::index(len)?, cuda::index(width)?);
            let mut launch = kernel.builder();
            launch.arg(&from).arg(&tokens).arg(&len).arg(&width_arg).arg(&mut y);
            // SAFETY: the arguments are those of the kernel; it reads rows below `len` and
            // writes `count` of `width`.
            unsafe { launch.launch(grid) }?;
            Ok(cuda::tensor(y, (count, width), device))
        })
    })
}

/// The sums of those rows of `dy` `[R, C]` that came from each of the `len` rows of a
/// table: `[len, C]`.
pub(super) fn embed_back(dy: &Tensor, tokens: &Tensor, len: usize) -> Result<Tensor> {
    let (count, width) = dy.dims2()?;
    if tokens.elem_count() != count {
        candle_core::bail!("embedding: a gradient {:?} for {:?}", dy.shape(), tokens.shape())
    }
    cuda::with_operands([dy, tokens], |[data, tokens]| {
        let device = data.device();
        let tokens = tokens.numbers()?;
        by_dtype!(dy.dtype(), T => {
            let from = data.view::<T>()?;
            // SAFETY: the kernel writes all of it.
            let mut sums = unsafe { device.alloc::<T>(len * width)? };
            let kernel = kernel::<T>(device, Module::SEQUENCE, "embed_back")?;
            let grid = cuda::grid(len, 1, cuda::threads(1024))?;
            let (count, width_arg) = (cuda::index(count)?, cuda::index(width)?);
            let mut launch = kernel.builder();
            launch.arg(&from).arg(&tokens).arg(&count).arg(&width_arg).arg(&mut sums);
            // SAFETY: the arguments are those of the kernel; it reads `count` rows of
            // `width` and writes `len`.
            unsafe { launch.launch(grid) }?;
            Ok(cuda::tensor(sums, (len, width), device))
        })
    })
}
