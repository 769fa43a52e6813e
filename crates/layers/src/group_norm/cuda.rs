//! Group norm on NVIDIA GPUs: see `cuda/group_norm.cu`.

use std::sync::Mutex;

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaView, PushKernelArg};
use candle_core::{CpuStorage, CudaDevice, CudaStorage, CustomOp3, Layout, Result, Shape, Tensor};

use super::fast::{GroupNormOp, geometry};
use super::kernels::Geometry;
use super::{Moments, kernels};
use crate::cuda::{self, Args, Element, Module, Operand, PLANE_PART, by_dtype};

/// Elements of a group that a block takes, and most blocks of a group.
const PART: usize = 4096;
const MOST_PARTS: usize = 256;

/// [`super::plain::group_norm`], then SiLU where asked, with gradients.
pub(super) fn group_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    op: GroupNormOp,
) -> Result<Tensor> {
    let op = CudaOp { op, stats: Mutex::new(None) };
    x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)
}

/// The same without a graph, and what [`gradients`] needs of it: mean and reciprocal
/// standard deviation of each group, `[B * groups, 2]`, f32.
pub(super) fn forward(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    op: GroupNormOp,
) -> Result<(Tensor, Tensor)> {
    let g = geometry((x.shape(), weight.shape(), bias.shape()), op.groups, op.eps)?;
    cuda::with_operands([x, weight, bias], |operands| {
        let device = operands[0].device();
        by_dtype!(x.dtype(), T => {
            let (y, stats) = run::<T>(device, &g, op.silu, operands)?;
            let stats = cuda::tensor(stats, (g.batch * g.groups, 2), device);
            Ok((cuda::tensor(y, x.shape(), device), stats))
        })
    })
}

/// Gradients of [`forward`] to input, weight and bias for the gradient `dy` of its output,
/// `plus` added to the first.
pub(super) fn gradients(
    [x, weight, bias, stats]: [&Tensor; 4],
    dy: &Tensor,
    plus: Option<&Tensor>,
    op: GroupNormOp,
) -> Result<[Tensor; 3]> {
    let g = geometry((x.shape(), weight.shape(), bias.shape()), op.groups, op.eps)?;
    if [Some(dy), plus].into_iter().flatten().any(|t| t.shape() != x.shape()) {
        candle_core::bail!("group_norm: a gradient {:?} for {:?}", dy.shape(), x.shape())
    }
    // `x` stands in for what is not there.
    let tensors = [x, weight, bias, dy, plus.unwrap_or(x), stats];
    cuda::with_operands(tensors, |[x_data, weight_data, bias_data, dy, other, stats]| {
        let device = x_data.device();
        let plus = plus.map(|_| other);
        by_dtype!(x.dtype(), T => {
            let operands = [x_data, weight_data, bias_data, dy];
            let (dx, dweight, dbias) =
                run_back::<T>(device, &g, op.silu, operands, plus, &stats.view()?)?;
            Ok([
                cuda::tensor(dx, x.shape(), device),
                cuda::tensor(dweight, g.channels, device),
                cuda::tensor(dbias, g.channels, device),
            ])
        })
    })
}

/// [`super::plain::group_norm_with`], then SiLU where asked, without gradients.
pub(super) fn group_norm_with(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    moments: &Moments,
    eps: f64,
    silu: bool,
) -> Result<Tensor> {
    let given = moments.groups().iter();
    let given =
        given.map(|&(mean, variance)| kernels::shift_and_scale((mean as f32, variance), eps));
    let given: Vec<f32> = given.flat_map(|(shift, scale)| [shift, scale]).collect();
    let shapes = (x.shape(), weight.shape(), bias.shape());
    let g = geometry(shapes, moments.groups().len(), eps)?;
    cuda::with_operands([x, weight, bias], |operands| {
        let device = operands[0].device();
        let given = device.clone_htod(&given)?;
        by_dtype!(x.dtype(), T => {
            // Nothing is written there.
            let mut stats = device.alloc_zeros::<f32>(2)?;
            let y = normalise::<T>(device, &g, silu, operands, (&given, 0), &mut stats)?;
            Ok(cuda::tensor(y, x.shape(), device))
        })
    })
}

/// How many elements a thread takes at a time.
fn vector(g: &Geometry, operands: &[Operand]) -> usize {
    // Vectors must not go over from one channel to the next.
    if g.pixels.is_multiple_of(4) && operands.iter().all(|o| o.is_aligned(4)) { 4 } else { 1 }
}

/// Length and number of a group's parts.
fn group_parts(g: &Geometry) -> (usize, usize) {
    cuda::parts(g.group_len(), PART, MOST_PARTS)
}

fn prefix(silu: bool) -> &'static str {
    if silu { "group_norm_silu_" } else { "group_norm_" }
}

/// The norm, and mean and reciprocal deviation of each group of each picture.
fn run<T: Element>(
    device: &CudaDevice,
    g: &Geometry,
    silu: bool,
    operands: [Operand; 3],
) -> Result<(CudaSlice<T>, CudaSlice<f32>)> {
    let (rows, vector) = (g.batch * g.groups, vector(g, &operands[..1]));
    let (part, parts) = group_parts(g);
    let x = operands[0].view::<T>()?;
    // SAFETY: the kernels write all of both.
    let (mut partial, mut stats) =
        unsafe { (device.alloc::<f32>(2 * rows * parts)?, device.alloc::<f32>(2 * rows)?) };
    let name = format!("group_moments_{}_{vector}", T::SUFFIX);
    let kernel = cuda::function(device, Module::GROUP_NORM, &name)?;
    let (len, part_len) = (cuda::index(g.group_len())?, cuda::index(part)?);
    let grid = cuda::grid(rows, parts, cuda::threads(part.min(g.group_len()).div_ceil(vector)))?;
    let mut launch = kernel.builder();
    launch.arg(&x).arg(&len).arg(&part_len).arg(&mut partial);
    // SAFETY: the arguments are those of the kernel; it reads `rows` groups of `len`
    // elements and writes two numbers for each part of them.
    unsafe { launch.launch(grid) }?;
    let y = normalise::<T>(device, g, silu, operands, (&partial, parts), &mut stats)?;
    Ok((y, stats))
}

/// The norm by the moments of each group's `parts`, which leaves those of the groups in
/// `stats`; or with 0 parts by mean and reciprocal deviation of each group, whatever the
/// picture.
fn normalise<T: Element>(
    device: &CudaDevice,
    g: &Geometry,
    silu: bool,
    operands: [Operand; 3],
    (partial, parts): (&CudaSlice<f32>, usize),
    stats: &mut CudaSlice<f32>,
) -> Result<CudaSlice<T>> {
    let (rows, vector) = (g.batch * g.groups, vector(g, &operands[..1]));
    let (part, blocks) = group_parts(g);
    let [x, weight, bias] = operands;
    let (x, weight, bias) = (x.view::<T>()?, weight.view::<T>()?, bias.view::<T>()?);
    // SAFETY: the kernel writes all of it.
    let mut y = unsafe { device.alloc::<T>(rows * g.group_len())? };
    let name = format!("{}apply_{}_{vector}", prefix(silu), T::SUFFIX);
    let kernel = cuda::function(device, Module::GROUP_NORM, &name)?;
    let parts = cuda::index(parts)?;
    let (part_len, len) = (cuda::index(part)?, cuda::index(g.group_len())?);
    let (pixels, channels) = (cuda::index(g.pixels)?, cuda::index(g.group_channels())?);
    let (groups, eps) = (cuda::index(g.groups)?, g.eps as f32);
    let grid = cuda::grid(rows, blocks, cuda::threads(part.min(g.group_len()).div_ceil(vector)))?;
    let mut launch = kernel.builder();
    launch.arg(&x).arg(&weight).arg(&bias).arg(partial).arg(&parts).arg(&part_len).arg(&len);
    launch.arg(&pixels).arg(&channels).arg(&groups).arg(&eps).arg(stats).arg(&mut y);
    // SAFETY: the arguments are those of the kernel; it reads `rows` groups of `len`
    // elements and writes as many, and two numbers for each group to `stats`, which this
    // function has for itself, unless there are 0 parts.
    unsafe { launch.launch(grid) }?;
    Ok(y)
}

/// The gradients to input, weight and bias.
fn run_back<T: Element>(
    device: &CudaDevice,
    g: &Geometry,
    silu: bool,
    operands: [Operand; 4],
    plus: Option<Operand>,
    stats: &CudaView<f32>,
) -> Result<(CudaSlice<T>, CudaSlice<T>, CudaSlice<T>)> {
    let (rows, planes) = (g.batch * g.groups, g.batch * g.channels);
    let [x, weight, bias, dy] = operands;
    let vector = vector(g, &[x, dy, plus.unwrap_or(x)]);
    let plus = plus.map(|plus| plus.view::<T>()).transpose()?;
    let (x, weight, bias, dy) =
        (x.view::<T>()?, weight.view::<T>()?, bias.view::<T>()?, dy.view::<T>()?);
    let (pixels, channels) = (cuda::index(g.pixels)?, cuda::index(g.channels)?);
    let (group_channels, groups) = (cuda::index(g.group_channels())?, cuda::index(g.groups)?);
    let (batch, len) = (cuda::index(g.batch)?, cuda::index(g.group_len())?);

    // Sums over parts of planes.
    let (part, parts) = cuda::parts(g.pixels, PLANE_PART, usize::MAX);
    let part_len = cuda::index(part)?;
    // SAFETY: the kernel writes all of it.
    let mut partial = unsafe { device.alloc::<f32>(2 * planes * parts)? };
    let name = format!("{}plane_sums_{}_{vector}", prefix(silu), T::SUFFIX);
    let kernel = cuda::function(device, Module::GROUP_NORM, &name)?;
    let grid = cuda::grid(planes, parts, cuda::threads(part.min(g.pixels).div_ceil(vector)))?;
    let mut launch = kernel.builder();
    launch.arg(&x).arg(&dy).arg(&weight).arg(&bias).arg(stats).arg(&pixels).arg(&part_len);
    launch.arg(&group_channels).arg(&channels).arg(&mut partial);
    // SAFETY: the arguments are those of the kernel; it reads `planes` of `pixels` from
    // `x` and `dy`, which have one shape, and writes two numbers for each part.
    unsafe { launch.launch(grid) }?;

    // Over planes and groups.
    // SAFETY: the kernel writes all of both.
    let (mut sums, mut through) =
        unsafe { (device.alloc::<f32>(2 * planes)?, device.alloc::<f32>(2 * rows)?) };
    let name = format!("group_sums_{}", T::SUFFIX);
    let kernel = cuda::function(device, Module::GROUP_NORM, &name)?;
    let parts = cuda::index(parts)?;
    let mut launch = kernel.builder();
    launch.arg(&partial).arg(&parts).arg(&weight).arg(&group_channels).arg(&groups).arg(&len);
    launch.arg(&mut sums).arg(&mut through);
    // SAFETY: the arguments are those of the kernel; it reads what was written above and
    // writes two numbers for each plane and group.
    unsafe { launch.launch(cuda::grid(rows, 1, 32)?) }?;

    // Over pictures.
    // SAFETY: the kernel writes all of both.
    let (mut dweight, mut dbias) =
        unsafe { (device.alloc::<T>(g.channels)?, device.alloc::<T>(g.channels)?) };
    let name = format!("group_parameters_{}", T::SUFFIX);
    let kernel = cuda::function(device, Module::GROUP_NORM, &name)?;
    let mut launch = kernel.builder();
    launch.arg(&sums).arg(&batch).arg(&channels).arg(&mut dweight).arg(&mut dbias);
    // SAFETY: the arguments are those of the kernel; it reads two numbers for each plane
    // and writes one for each channel to both.
    unsafe { launch.launch(cuda::grid(g.channels.div_ceil(128), 1, 128)?) }?;

    // SAFETY: the kernel writes all of it.
    let mut dx = unsafe { device.alloc::<T>(rows * g.group_len())? };
    let name = format!("{}input_gradient_{}_{vector}", prefix(silu), T::SUFFIX);
    let kernel = cuda::function(device, Module::GROUP_NORM, &name)?;
    let (part, parts) = group_parts(g);
    let part_len = cuda::index(part)?;
    let grid = cuda::grid(rows, parts, cuda::threads(part.min(g.group_len()).div_ceil(vector)))?;
    let mut launch = kernel.builder();
    launch.arg(&x).arg(&dy).optional(plus.as_ref()).arg(&weight).arg(&bias).arg(stats);
    launch.arg(&through).arg(&part_len).arg(&len).arg(&pixels).arg(&group_channels).arg(&groups);
    launch.arg(&mut dx);
    // SAFETY: the arguments are those of the kernel; it reads `rows` groups of `len`
    // elements of tensors of one shape and writes as many.
    unsafe { launch.launch(grid) }?;
    Ok((dx, dweight, dbias))
}

/// The norm in candle's graph.
struct CudaOp {
    op: GroupNormOp,
    /// What the forward pass left for the way back.
    stats: Mutex<Option<Tensor>>,
}

impl CustomOp3 for CudaOp {
    fn name(&self) -> &'static str {
        self.op.name()
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.op.cpu_fwd(x, x_layout, weight, weight_layout, bias, bias_layout)
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
        bias: &CudaStorage,
        bias_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let shapes = (x_layout.shape(), weight_layout.shape(), bias_layout.shape());
        let g = geometry(shapes, self.op.groups, self.op.eps)?;
        let operands = [
            Operand::new(x, x_layout)?,
            Operand::new(weight, weight_layout)?,
            Operand::new(bias, bias_layout)?,
        ];
        let device = &x.device;
        let (y, stats) = by_dtype!(candle_core::backend::BackendStorage::dtype(x), T => {
            let (y, stats) = run::<T>(device, &g, self.op.silu, operands)?;
            (CudaStorage::wrap_cuda_slice(y, device.clone()), stats)
        });
        if let Ok(mut left) = self.stats.lock() {
            *left = Some(cuda::tensor(stats, (g.batch * g.groups, 2), device));
        }
        Ok((y, x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let stats = self.stats.lock().ok().and_then(|left| left.clone());
        let Some(stats) = stats else {
            candle_core::bail!("{}: no forward pass on a CUDA device came before", self.name())
        };
        let [dx, dweight, dbias] = gradients([x, weight, bias, &stats], grad, None, self.op)?;
        Ok((
            x.track_op().then_some(dx),
            weight.track_op().then_some(dweight),
            bias.track_op().then_some(dbias),
        ))
    }
}
