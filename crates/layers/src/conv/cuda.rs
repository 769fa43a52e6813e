//! Convolution on NVIDIA GPUs: cuDNN's, with kernels of ours (`cuda/planes.cu`) for what
//! it lacks: padding that differs from side to side, bias and residual in one pass.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaView, PushKernelArg};
use candle_core::{CudaDevice, CudaStorage, Layout, Result, Shape, Tensor};

use super::cudnn::{self, Problem};
use super::geometry::Geometry;
use super::{Conv2d, Conv2dConfig, Padding};
use crate::cuda::{self, Args, Element, Module, Operand, PLANE_PART, by_dtype};

/// Most elements of a tensor that cuDNN gets.
const MOST_ELEMENTS: usize = i32::MAX as usize;

/// The forward pass without a graph, `residual` added.
pub(super) fn forward_untracked(
    g: &Geometry,
    x: &Tensor,
    conv: &Conv2d,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let (x, weight) = (&cuda::aligned(x)?, &cuda::aligned(&conv.weight)?);
    // Tensors that are there stand in for those that are not.
    let tensors = [x, weight, conv.bias.as_ref().unwrap_or(weight), residual.unwrap_or(x)];
    cuda::with_operands(tensors, |[x_data, weight, bias, other]| {
        let bias = conv.bias.as_ref().map(|_| bias);
        let residual = residual.map(|_| other);
        by_dtype!(x.dtype(), T => {
            let y = forward::<T>(x_data.device(), g, [x_data, weight], bias, residual)?;
            Ok(cuda::tensor(y, (g.batch, g.out_channels, g.oh, g.ow), x_data.device()))
        })
    })
}

/// The forward pass in candle's graph.
pub(super) fn forward_op(
    config: Conv2dConfig,
    (x, x_layout): (&CudaStorage, &Layout),
    (weight, weight_layout): (&CudaStorage, &Layout),
    bias: Option<(&CudaStorage, &Layout)>,
) -> Result<(CudaStorage, Shape)> {
    let g = Geometry::new(x_layout.shape(), weight_layout.shape(), config)?;
    if bias.is_some_and(|(_, layout)| layout.dims() != [g.out_channels]) {
        candle_core::bail!("conv2d: the bias does not have {} elements", g.out_channels)
    }
    let operands = [Operand::new(x, x_layout)?, Operand::new(weight, weight_layout)?];
    let bias = bias.map(|(bias, layout)| Operand::new(bias, layout)).transpose()?;
    let device = &x.device;
    let y = by_dtype!(x.dtype(), T => {
        CudaStorage::wrap_cuda_slice(forward::<T>(device, &g, operands, bias, None)?, device.clone())
    });
    Ok((y, Shape::from((g.batch, g.out_channels, g.oh, g.ow))))
}

/// The gradient to the input, `[B, in, H, W]`, for `grad` `[B, out, H', W']`.
pub(super) fn input_gradient(g: &Geometry, weight: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let (weight, grad) = (&cuda::aligned(weight)?, &cuda::aligned(grad)?);
    cuda::with_operands([weight, grad], |[weight, dy]| {
        let device = dy.device();
        by_dtype!(grad.dtype(), T => {
            let dx = back_to_input::<T>(device, g, &weight.view()?, &dy.view()?)?;
            Ok(cuda::tensor(dx, (g.batch, g.in_channels, g.h, g.w), device))
        })
    })
}

/// The gradient to the weight, `[out, in, kh, kw]`, for an input `x` and `grad`
/// `[B, out, H', W']`.
pub(super) fn weight_gradient(g: &Geometry, x: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let (x, grad) = (&cuda::aligned(x)?, &cuda::aligned(grad)?);
    cuda::with_operands([x, grad], |[x, dy]| {
        let device = dy.device();
        by_dtype!(grad.dtype(), T => {
            let dw = back_to_weight::<T>(device, g, &x.view()?, &dy.view()?)?;
            Ok(cuda::tensor(dw, (g.out_channels, g.in_channels, g.kh, g.kw), device))
        })
    })
}

/// The gradient to the bias, `[out]`, for `grad` `[B, out, H', W']`.
pub(super) fn bias_gradient(g: &Geometry, grad: &Tensor) -> Result<Tensor> {
    cuda::with_operands([grad], |[dy]| {
        by_dtype!(grad.dtype(), T => {
            let db = sums::<T>(dy, g.batch, g.out_channels, g.out_pixels())?;
            Ok(cuda::tensor(db, g.out_channels, dy.device()))
        })
    })
}

/// How cuDNN sees a convolution: an input with the same padding on opposite sides, which
/// is given to it padded where that is not so.
#[derive(Clone, Copy)]
struct Padded {
    /// Size of what cuDNN gets.
    h: usize,
    w: usize,
    padding: [usize; 2],
    /// Whether that is not the input itself.
    copies: bool,
}

impl Padded {
    fn new(g: &Geometry) -> Self {
        let Padding { top, bottom, left, right } = g.config.padding;
        if top == bottom && left == right {
            return Self { h: g.h, w: g.w, padding: [top, left], copies: false };
        }
        Self { h: g.h + top + bottom, w: g.w + left + right, padding: [0; 2], copies: true }
    }

    /// The problem for `pictures` of the batch.
    fn problem(&self, g: &Geometry, pictures: usize) -> Problem {
        Problem {
            input: [pictures, g.in_channels, self.h, self.w],
            weight: [g.out_channels, g.in_channels, g.kh, g.kw],
            output: [pictures, g.out_channels, g.oh, g.ow],
            padding: self.padding,
            stride: g.config.stride,
        }
    }

    /// Blocks of pictures that cuDNN can take: `(first, count)`.
    fn blocks(&self, g: &Geometry) -> impl Iterator<Item = (usize, usize)> + use<> {
        let larger = (g.in_channels * self.h * self.w).max(g.out_channels * g.out_pixels());
        let (most, batch) = ((MOST_ELEMENTS / larger).max(1), g.batch);
        (0..batch).step_by(most).map(move |first| (first, most.min(batch - first)))
    }
}

/// The part of `data` that belongs to some pictures, of `len` elements each.
fn pictures<'a, T>(
    data: &'a CudaView<T>,
    (first, count): (usize, usize),
    len: usize,
) -> CudaView<'a, T> {
    data.slice(first * len..(first + count) * len)
}

fn forward<T: Element>(
    device: &CudaDevice,
    g: &Geometry,
    [x, weight]: [Operand; 2],
    bias: Option<Operand>,
    residual: Option<Operand>,
) -> Result<CudaSlice<T>> {
    let (x, weight) = (x.view::<T>()?, weight.view::<T>()?);
    let (in_len, out_len) = (g.in_channels * g.in_pixels(), g.out_channels * g.out_pixels());
    // SAFETY: cuDNN writes all of it.
    let mut y = unsafe { device.alloc::<T>(g.batch * out_len)? };
    let padded = Padded::new(g);
    for block in padded.blocks(g) {
        let problem = padded.problem(g, block.1);
        let x = pictures(&x, block, in_len);
        let mut y = y.slice_mut(block.0 * out_len..(block.0 + block.1) * out_len);
        if padded.copies {
            let x = pad(device, g, &padded, &x, block.1)?;
            cudnn::forward(device, &problem, &x.slice(..), &weight, &mut y)?;
        } else {
            cudnn::forward(device, &problem, &x, &weight, &mut y)?;
        }
    }
    add(device, g, &mut y, bias, residual)?;
    Ok(y)
}

fn back_to_input<T: Element>(
    device: &CudaDevice,
    g: &Geometry,
    weight: &CudaView<T>,
    dy: &CudaView<T>,
) -> Result<CudaSlice<T>> {
    let (in_len, out_len) = (g.in_channels * g.in_pixels(), g.out_channels * g.out_pixels());
    // SAFETY: cuDNN or the kernel that crops writes all of it.
    let mut dx = unsafe { device.alloc::<T>(g.batch * in_len)? };
    let padded = Padded::new(g);
    for block in padded.blocks(g) {
        let problem = padded.problem(g, block.1);
        let dy = pictures(dy, block, out_len);
        let mut dx = dx.slice_mut(block.0 * in_len..(block.0 + block.1) * in_len);
        if padded.copies {
            let planes = block.1 * g.in_channels;
            // SAFETY: cuDNN writes all of it.
            let mut whole = unsafe { device.alloc::<T>(planes * padded.h * padded.w)? };
            cudnn::input_gradient(device, &problem, &mut whole.slice_mut(..), weight, &dy)?;
            let name = format!("shift_{}", T::SUFFIX);
            let kernel = cuda::function(device, Module::PLANES, &name)?;
            let (h, w) = (cuda::index(padded.h)?, cuda::index(padded.w)?);
            let (top, left) = (distance(g.config.padding.top)?, distance(g.config.padding.left)?);
            let (to_h, to_w) = (cuda::index(g.h)?, cuda::index(g.w)?);
            let grid = cuda::grid(planes * g.h, 1, cuda::threads(g.w))?;
            let mut launch = kernel.builder();
            launch.arg(&whole).arg(&h).arg(&w).arg(&top).arg(&left).arg(&to_h).arg(&to_w);
            launch.arg(&mut dx);
            // SAFETY: the arguments are those of the kernel; it reads `planes` of `h` x `w`
            // and writes as many of `to_h` x `to_w`.
            unsafe { launch.launch(grid) }?;
        } else {
            cudnn::input_gradient(device, &problem, &mut dx, weight, &dy)?;
        }
    }
    Ok(dx)
}

fn back_to_weight<T: Element>(
    device: &CudaDevice,
    g: &Geometry,
    x: &CudaView<T>,
    dy: &CudaView<T>,
) -> Result<CudaSlice<T>> {
    let (in_len, out_len) = (g.in_channels * g.in_pixels(), g.out_channels * g.out_pixels());
    // SAFETY: cuDNN writes all of it: supported tensors are not empty, so there is a block.
    let mut dw = unsafe { device.alloc::<T>(g.out_channels * g.depth())? };
    let padded = Padded::new(g);
    for block in padded.blocks(g) {
        let problem = padded.problem(g, block.1);
        let (x, dy) = (pictures(x, block, in_len), pictures(dy, block, out_len));
        let adds = block.0 > 0;
        if padded.copies {
            let x = pad(device, g, &padded, &x, block.1)?;
            cudnn::weight_gradient(device, &problem, &x.slice(..), &mut dw, &dy, adds)?;
        } else {
            cudnn::weight_gradient(device, &problem, &x, &mut dw, &dy, adds)?;
        }
    }
    Ok(dw)
}

/// A distance as a kernel takes it.
fn distance(pixels: usize) -> Result<i32> {
    i32::try_from(pixels).map_err(candle_core::Error::wrap)
}

/// `count` pictures with zeros around them.
fn pad<T: Element>(
    device: &CudaDevice,
    g: &Geometry,
    padded: &Padded,
    x: &CudaView<T>,
    count: usize,
) -> Result<CudaSlice<T>> {
    let planes = count * g.in_channels;
    // SAFETY: the kernel writes all of it.
    let mut to = unsafe { device.alloc::<T>(planes * padded.h * padded.w)? };
    let kernel = cuda::function(device, Module::PLANES, &format!("shift_{}", T::SUFFIX))?;
    let (h, w) = (cuda::index(g.h)?, cuda::index(g.w)?);
    let (top, left) = (-distance(g.config.padding.top)?, -distance(g.config.padding.left)?);
    let (to_h, to_w) = (cuda::index(padded.h)?, cuda::index(padded.w)?);
    let grid = cuda::grid(planes * padded.h, 1, cuda::threads(padded.w))?;
    let mut launch = kernel.builder();
    launch.arg(x).arg(&h).arg(&w).arg(&top).arg(&left).arg(&to_h).arg(&to_w).arg(&mut to);
    // SAFETY: the arguments are those of the kernel; it reads `planes` of `h` x `w` and
    // writes as many of `to_h` x `to_w`.
    unsafe { launch.launch(grid) }?;
    Ok(to)
}

/// Adds bias and residual, where there are any, to `y`.
fn add<T: Element>(
    device: &CudaDevice,
    g: &Geometry,
    y: &mut CudaSlice<T>,
    bias: Option<Operand>,
    residual: Option<Operand>,
) -> Result<()> {
    if bias.is_none() && residual.is_none() {
        return Ok(());
    }
    let pixels = g.out_pixels();
    let aligned = residual.is_none_or(|residual| residual.is_aligned(4));
    let vector = if aligned && pixels.is_multiple_of(4) { 4 } else { 1 };
    let bias = bias.map(|bias| bias.view::<T>()).transpose()?;
    let residual = residual.map(|residual| residual.view::<T>()).transpose()?;
    let name = format!("add_bias_{}_{vector}", T::SUFFIX);
    let kernel = cuda::function(device, Module::PLANES, &name)?;
    let (part, parts) = cuda::parts(pixels, PLANE_PART, usize::MAX);
    let grid = cuda::grid(
        g.batch * g.out_channels,
        parts,
        cuda::threads(part.min(pixels).div_ceil(vector)),
    )?;
    let (channels, pixels, part) =
        (cuda::index(g.out_channels)?, cuda::index(pixels)?, cuda::index(part)?);
    let mut launch = kernel.builder();
    launch.arg(y).optional(bias.as_ref()).optional(residual.as_ref());
    launch.arg(&channels).arg(&pixels).arg(&part);
    // SAFETY: the arguments are those of the kernel; it goes over planes of `pixels` of
    // tensors of the output's shape, one of which is this function's own.
    unsafe { launch.launch(grid) }?;
    Ok(())
}

/// The sum of each channel of `[batch, channels, pixels]`.
fn sums<T: Element>(
    x: Operand,
    batch: usize,
    channels: usize,
    pixels: usize,
) -> Result<CudaSlice<T>> {
    let device = x.device();
    let vector = if x.is_aligned(4) && pixels.is_multiple_of(4) { 4 } else { 1 };
    let x = x.view::<T>()?;
    let (part, parts) = cuda::parts(pixels, PLANE_PART, usize::MAX);
    // SAFETY: the kernels write all of both.
    let (mut partial, mut to) =
        unsafe { (device.alloc::<f32>(batch * channels * parts)?, device.alloc::<T>(channels)?) };
    let name = format!("plane_sums_{}_{vector}", T::SUFFIX);
    let kernel = cuda::function(device, Module::PLANES, &name)?;
    let threads = cuda::threads(part.min(pixels).div_ceil(vector));
    let grid = cuda::grid(batch * channels, parts, threads)?;
    let (pixels, part) = (cuda::index(pixels)?, cuda::index(part)?);
    let mut launch = kernel.builder();
    launch.arg(&x).arg(&pixels).arg(&part).arg(&mut partial);
    // SAFETY: the arguments are those of the kernel; it reads `batch * channels` planes of
    // `pixels` and writes a number for each of their parts.
    unsafe { launch.launch(grid) }?;
    let kernel = cuda::function(device, Module::PLANES, &format!("channel_sums_{}", T::SUFFIX))?;
    let grid = cuda::grid(channels, 1, cuda::threads(cuda::index(batch * parts)? as usize))?;
    let (batch, channels, parts) =
        (cuda::index(batch)?, cuda::index(channels)?, cuda::index(parts)?);
    let mut launch = kernel.builder();
    launch.arg(&partial).arg(&batch).arg(&channels).arg(&parts).arg(&mut to);
    // SAFETY: the arguments are those of the kernel; it reads what the one before wrote and
    // writes a number for each channel.
    unsafe { launch.launch(grid) }?;
    Ok(to)
}
