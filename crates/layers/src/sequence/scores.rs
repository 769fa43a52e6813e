//! Soft-max of scores and logits, and dropout, on NVIDIA GPUs: see `cuda/sequence.cu`.

use candle_core::cuda_backend::cudarc::driver::{CudaView, PushKernelArg};
use candle_core::{D, Result, Tensor};

use crate::cuda::{self, Args, Element, Module, Operand, by_dtype};

/// Weights of attention from scores `[.., T, T]` by rows, scaled first; the first
/// `unmasked` positions see each other, all others what lies before them.
pub(crate) fn attention_weights(scores: &Tensor, unmasked: usize, scale: f32) -> Result<Tensor> {
    let len = scores.dim(D::Minus1)?;
    let rows = scores.elem_count() / len.max(1);
    cuda::with_operands([scores], |[data]| {
        let device = data.device();
        by_dtype!(scores.dtype(), T => {
            let from = data.view::<T>()?;
            // SAFETY: the kernel writes all of it.
            let mut weights = unsafe { device.alloc::<T>(rows * len)? };
            let name = format!("attention_weights_{}", T::SUFFIX);
            let kernel = cuda::function(device, Module::SEQUENCE, &name)?;
            let grid = cuda::grid(rows, 1, cuda::threads(len))?;
            let (len, unmasked) = (cuda::index(len)?, cuda::index(unmasked)?);
            let mut launch = kernel.builder();
            launch.arg(&from).arg(&len).arg(&unmasked).arg(&scale).arg(&mut weights);
            // SAFETY: the arguments are those of the kernel; it goes over `rows` of `len`.
            unsafe { launch.launch(grid) }?;
            Ok(cuda::tensor(weights, scores.shape(), device))
        })
    })
}

/// The gradient to the scores of [`attention_weights`] for that of the weights.
pub(crate) fn attention_weights_back(
    weights: &Tensor,
    gradients: &Tensor,
    scale: f32,
) -> Result<Tensor> {
    let len = weights.dim(D::Minus1)?;
    let rows = weights.elem_count() / len.max(1);
    if gradients.dims() != weights.dims() {
        candle_core::bail!("attention: {:?} for {:?}", gradients.shape(), weights.shape())
    }
    cuda::with_operands([weights, gradients], |[data, gradients]| {
        let device = data.device();
        by_dtype!(weights.dtype(), T => {
            let (from, gradients) = (data.view::<T>()?, gradients.view::<T>()?);
            // SAFETY: the kernel writes all of it.
            let mut scores = unsafe { device.alloc::<T>(rows * len)? };
            let name = format!("attention_weights_back_{}", T::SUFFIX);
            let kernel = cuda::function(device, Module::SEQUENCE, &name)?;
            let grid = cuda::grid(rows, 1, cuda::threads(len))?;
            let len = cuda::index(len)?;
            let mut launch = kernel.builder();
            launch.arg(&from).arg(&gradients).arg(&len).arg(&scale).arg(&mut scores);
            // SAFETY: the arguments are those of the kernel; it goes over `rows` of `len`.
            unsafe { launch.launch(grid) }?;
            Ok(cuda::tensor(scores, weights.shape(), device))
        })
    })
}

/// The negative log-likelihoods of `targets`, which are below V, under rows of logits
/// `[R, V]`: `[R]`, f32; with a `share` also the gradient of that share of their sum.
pub(super) fn surprise(
    logits: &Tensor,
    targets: &Tensor,
    share: Option<f32>,
) -> Result<(Tensor, Option<Tensor>)> {
    let (rows, classes) = logits.dims2()?;
    cuda::with_operands([logits, targets], |[data, targets]| {
        let targets = targets.numbers()?;
        by_dtype!(logits.dtype(), T => {
            let device = data.device();
            let from = data.view::<T>()?;
            let len = if share.is_some() { rows * classes } else { 1 };
            // SAFETY: the kernel writes all of both, of the second only with a share.
            let (mut nll, mut gradients) =
                unsafe { (device.alloc::<f32>(rows)?, device.alloc::<T>(len)?) };
            let name = format!("surprise_{}", T::SUFFIX);
            let kernel = cuda::function(device, Module::SEQUENCE, &name)?;
            let grid = cuda::grid(rows, 1, cuda::threads(classes))?;
            let (classes_arg, factor) = (cuda::index(classes)?, share.unwrap_or(0.0));
            let mut launch = kernel.builder();
            launch.arg(&from).arg(&targets).arg(&classes_arg).arg(&factor).arg(&mut nll);
            if share.is_some() {
                launch.arg(&mut gradients);
            } else {
                launch.optional::<T>(None::<&CudaView<T>>);
            }
            // SAFETY: the arguments are those of the kernel; it goes over `rows` of
            // `classes`, and targets are below that.
            unsafe { launch.launch(grid) }?;
            let gradients =
                share.map(|_| cuda::tensor(gradients, (rows, classes), device));
            Ok((cuda::tensor(nll, rows, device), gradients))
        })
    })
}

/// What [`super::Dropout`] makes of `x` `[.., C]`: `key` is its seed's key, `stream` its
/// stream, of 65536 values the lowest `threshold` leave an element out.
pub(super) fn leave_out(
    x: &Tensor,
    key: [u8; 32],
    stream: u64,
    threshold: u16,
    scale: f32,
) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    let rows = x.elem_count() / width.max(1);
    let words = key.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let words: Vec<u32> = words.chain([stream as u32, (stream >> 32) as u32]).collect();
    cuda::with_operands(
        [x],
        |[data]| by_dtype!(x.dtype(), T => run::<T>(data, x, (rows, width), &words, threshold, scale)),
    )
}

fn run<T: Element>(
    data: Operand,
    x: &Tensor,
    (rows, width): (usize, usize),
    words: &[u32],
    threshold: u16,
    scale: f32,
) -> Result<Tensor> {
    let device = data.device();
    let from = data.view::<T>()?;
    let key = device.clone_htod(words)?;
    // SAFETY: the kernel writes all of it.
    let mut y = unsafe { device.alloc::<T>(rows * width)? };
    let kernel = cuda::function(device, Module::SEQUENCE, &format!("dropout_{}", T::SUFFIX))?;
    let blocks = rows * width.div_ceil(32);
    let grid = cuda::grid(blocks.div_ceil(128), 1, 128)?;
    let (rows, width, threshold) = (rows as u64, cuda::index(width)?, u32::from(threshold));
    let mut launch = kernel.builder();
    launch.arg(&from).arg(&rows).arg(&width).arg(&key).arg(&threshold).arg(&scale).arg(&mut y);
    // SAFETY: the arguments are those of the kernel; it goes over `rows` of `width` and
    // reads ten words of `key`.
    unsafe { launch.launch(grid) }?;
    Ok(cuda::tensor(y, x.shape(), device))
}
