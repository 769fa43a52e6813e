//! Batch norm with leaky ReLU on NVIDIA GPUs, in f32: see `cuda/batch_norm.cu`.

use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use candle_core::{Result, Tensor};

use super::kernels::Shape;
use super::{BatchNormLeaky, BatchStatistics};
use crate::cuda::{self, Args, Module, Operand, PLANE_PART};

fn vector(shape: Shape, operands: &[Operand]) -> usize {
    let aligned = operands.iter().all(|operand| operand.is_aligned(4));
    if aligned && shape.pixels.is_multiple_of(4) { 4 } else { 1 }
}

/// The output, and mean and reciprocal deviation of each channel, `[C, 2]`; and the
/// statistics of the batch.
pub(super) fn forward(
    shape: Shape,
    norm: &BatchNormLeaky,
    x: &Tensor,
) -> Result<(Tensor, Tensor, BatchStatistics)> {
    cuda::with_operands([x, &norm.weight, &norm.bias], |[data, weight, bias]| {
        let (device, vector) = (data.device(), vector(shape, &[data]));
        let Shape { batch, channels, pixels } = shape;
        let planes = batch * channels;
        let (from, weight, bias) =
            (data.view::<f32>()?, weight.view::<f32>()?, bias.view::<f32>()?);
        let (part, parts) = cuda::parts(pixels, PLANE_PART, usize::MAX);
        // SAFETY: the kernels write all of them.
        let (mut partial, mut stats, mut means, mut variances, mut y) = unsafe {
            (
                device.alloc::<f32>(2 * planes * parts)?,
                device.alloc::<f32>(2 * channels)?,
                device.alloc::<f32>(channels)?,
                device.alloc::<f32>(channels)?,
                device.alloc::<f32>(planes * pixels)?,
            )
        };
        let threads = cuda::threads(part.min(pixels).div_ceil(vector));
        let over_planes = cuda::grid(planes, parts, threads)?;
        let over_channels = cuda::grid(channels, 1, cuda::threads(batch * parts))?;
        cuda::index(batch * parts)?;
        let (batch, channels_arg) = (cuda::index(batch)?, cuda::index(channels)?);
        let (pixels, part, parts) = (cuda::index(pixels)?, cuda::index(part)?, cuda::index(parts)?);
        let (eps, slope) = (norm.eps as f32, norm.slope as f32);

        let name = format!("group_moments_f32_{vector}");
        let kernel = cuda::function(device, Module::GROUP_NORM, &name)?;
        let mut launch = kernel.builder();
        launch.arg(&from).arg(&pixels).arg(&part).arg(&mut partial);
        // SAFETY: the arguments are those of the kernel; it reads `planes` of `pixels` and
        // writes two numbers for each of their parts.
        unsafe { launch.launch(over_planes) }?;

        let kernel = cuda::function(device, Module::BATCH_NORM, "batch_stats")?;
        let mut launch = kernel.builder();
        launch.arg(&partial).arg(&batch).arg(&channels_arg).arg(&pixels).arg(&parts).arg(&part);
        launch.arg(&eps).arg(&mut stats).arg(&mut means).arg(&mut variances);
        // SAFETY: the arguments are those of the kernel; it reads what the one before
        // wrote, and writes two numbers, one and one for each channel.
        unsafe { launch.launch(over_channels) }?;

        let name = format!("batch_norm_apply_{vector}");
        let kernel = cuda::function(device, Module::BATCH_NORM, &name)?;
        let mut launch = kernel.builder();
        launch.arg(&from).arg(&weight).arg(&bias).arg(&stats).arg(&channels_arg).arg(&pixels);
        launch.arg(&part).arg(&slope).arg(&mut y);
        // SAFETY: the arguments are those of the kernel; it goes over `planes` of `pixels`.
        unsafe { launch.launch(over_planes) }?;
        let statistics = BatchStatistics {
            mean: cuda::tensor(means, channels, device),
            unbiased_variance: cuda::tensor(variances, channels, device),
        };
        let stats = cuda::tensor(stats, (channels, 2), device);
        Ok((cuda::tensor(y, x.shape(), device), stats, statistics))
    })
}

/// The gradients of [`forward`] to input, with `plus` added, weight and bias.
pub(super) fn backward(
    shape: Shape,
    norm: &BatchNormLeaky,
    x: &Tensor,
    stats: &Tensor,
    dy: &Tensor,
    plus: Option<&Tensor>,
) -> Result<[Tensor; 3]> {
    // `x` stands in for what is not there.
    let tensors = [x, &norm.weight, &norm.bias, stats, dy, plus.unwrap_or(x)];
    cuda::with_operands(tensors, |[data, weight, bias, stats, dy, other]| {
        let (device, vector) = (data.device(), vector(shape, &[data, dy, other]));
        let Shape { batch, channels, pixels } = shape;
        let planes = batch * channels;
        let (from, weight, bias) =
            (data.view::<f32>()?, weight.view::<f32>()?, bias.view::<f32>()?);
        let (stats, dy) = (stats.view::<f32>()?, dy.view::<f32>()?);
        let plus = plus.map(|_| other.view::<f32>()).transpose()?;
        let (part, parts) = cuda::parts(pixels, PLANE_PART, usize::MAX);
        // SAFETY: the kernels write all of them.
        let (mut partial, mut dweight, mut dbias, mut dx) = unsafe {
            (
                device.alloc::<f32>(2 * planes * parts)?,
                device.alloc::<f32>(channels)?,
                device.alloc::<f32>(channels)?,
                device.alloc::<f32>(planes * pixels)?,
            )
        };
        let threads = cuda::threads(part.min(pixels).div_ceil(vector));
        let over_planes = cuda::grid(planes, parts, threads)?;
        let over_channels = cuda::grid(channels, 1, cuda::threads(batch * parts))?;
        let (slope, count) = (norm.slope as f32, (batch * pixels) as f32);
        let (batch, channels_arg) = (cuda::index(batch)?, cuda::index(channels)?);
        let (pixels, part, parts) = (cuda::index(pixels)?, cuda::index(part)?, cuda::index(parts)?);

        let name = format!("batch_norm_plane_sums_{vector}");
        let kernel = cuda::function(device, Module::BATCH_NORM, &name)?;
        let mut launch = kernel.builder();
        launch.arg(&from).arg(&dy).arg(&weight).arg(&bias).arg(&stats).arg(&channels_arg);
        launch.arg(&pixels).arg(&part).arg(&slope).arg(&mut partial);
        // SAFETY: the arguments are those of the kernel; it reads `planes` of `pixels` of
        // tensors of one shape and writes two numbers for each of their parts.
        unsafe { launch.launch(over_planes) }?;

        let kernel = cuda::function(device, Module::BATCH_NORM, "batch_parameters")?;
        let mut launch = kernel.builder();
        launch.arg(&partial).arg(&batch).arg(&channels_arg).arg(&parts);
        launch.arg(&mut dweight).arg(&mut dbias);
        // SAFETY: the arguments are those of the kernel; it reads what the one before wrote.
        unsafe { launch.launch(over_channels) }?;

        let name = format!("batch_norm_input_gradient_{vector}");
        let kernel = cuda::function(device, Module::BATCH_NORM, &name)?;
        let mut launch = kernel.builder();
        launch.arg(&from).arg(&dy).optional(plus.as_ref()).arg(&weight).arg(&bias).arg(&stats);
        launch.arg(&dweight).arg(&dbias).arg(&channels_arg).arg(&pixels).arg(&part).arg(&slope);
        launch.arg(&count).arg(&mut dx);
        // SAFETY: the arguments are those of the kernel; it goes over `planes` of `pixels`
        // of tensors of one shape.
        unsafe { launch.launch(over_planes) }?;
        Ok([
            cuda::tensor(dx, x.shape(), device),
            cuda::tensor(dweight, channels, device),
            cuda::tensor(dbias, channels, device),
        ])
    })
}
