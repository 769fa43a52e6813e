//! The convolution as a candle custom op, for f32 on the CPU and for what NVIDIA GPUs
//! take: the seam where kernels go.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use simd::tiles::Native;

use super::geometry::Geometry;
use super::tiled::{Tiled, few_inputs, few_outputs};
use super::weight::Weight;
use super::winograd::Extras;
use super::{
    Conv2d, Conv2dConfig, Padding, kernels, narrow, panels, patches, pointwise, strided, tiled,
    winograd,
};
use crate::cpu;
use crate::factors::Factors;
use crate::isa::Isa;
use crate::tape::sum;

/// [`super::plain::conv2d`] where there are kernels, with gradients.
pub(super) fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    config: Conv2dConfig,
) -> Result<Tensor> {
    let (x, weight) = (dense(x)?, dense(weight)?);
    let trains = [Some(&x), Some(&weight), bias].into_iter().flatten().any(Tensor::track_op);
    let op = ConvOp { config, trains };
    match bias {
        Some(bias) => x.apply_op3(&weight, &bias.contiguous()?, op),
        None => x.apply_op2(&weight, op),
    }
}

/// `x` as the kernels of its device take it.
fn dense(x: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return crate::cuda::aligned(x);
    }
    x.contiguous()
}

/// Channels from which on convolutions that gradients go through are done by
/// transforms. Those round about five times as much as plain sums (2e-6 of a loss or a
/// gradient's norm), and Adam, which divides gradients by their own size, turns the
/// rounding of the smallest into steps as long as any. Small networks, whose
/// convolutions cost little, are spared that; and a few outputs of theirs are summed in the
/// order of all others, for the same reason.
const TRANSFORMED: usize = 64;

struct ConvOp {
    config: Conv2dConfig,
    /// Whether gradients will be asked for.
    trains: bool,
}

impl ConvOp {
    fn forward(
        &self,
        (x, x_layout): (&CpuStorage, &Layout),
        (weight, weight_layout): (&CpuStorage, &Layout),
        bias: Option<&[f32]>,
    ) -> Result<(CpuStorage, Shape)> {
        let g = Geometry::new(x_layout.shape(), weight_layout.shape(), self.config)?;
        if bias.is_some_and(|bias| bias.len() != g.out_channels) {
            candle_core::bail!("conv2d: the bias does not have {} elements", g.out_channels)
        }
        let (x, weight) = (cpu::slice(x, x_layout)?, cpu::slice(weight, weight_layout)?);
        let y = convolve(
            &g,
            x,
            Weight::plain(weight),
            Extras { bias, ..Extras::default() },
            self.trains,
        );
        Ok((CpuStorage::F32(y), Shape::from((g.batch, g.out_channels, g.oh, g.ow))))
    }

    /// Gradients to input and weight, each only where something tracks it.
    fn backward(
        &self,
        x: &Tensor,
        weight: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let g = Geometry::new(x.shape(), weight.shape(), self.config)?;
        let dx = x
            .track_op()
            .then(|| input_gradient(&g, weight, grad, None, Factors::F32))
            .transpose()?;
        let dw =
            weight.track_op().then(|| weight_gradient(&g, x, grad, Factors::F32)).transpose()?;
        Ok((dx, dw))
    }
}

/// The forward pass of what gradients will be asked for, but without a graph; on a CPU products
/// may be rounded to `factors`.
pub(super) fn forward_untracked(
    g: &Geometry,
    x: &Tensor,
    conv: &Conv2d,
    residual: Option<&Tensor>,
    factors: Factors,
) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return super::cuda::forward_untracked(g, x, conv, residual);
    }
    // Tensors that are there stand in for those that are not.
    let bias = conv.bias.as_ref().unwrap_or(&conv.weight);
    let tensors = [x, &conv.weight, bias, residual.unwrap_or(x)];
    let y = cpu::with_slices(tensors, |[x, weight, bias, other]| {
        let bias = conv.bias.is_some().then_some(bias);
        let residual = residual.is_some().then_some(other);
        let extras = Extras { bias, residual, ..Extras::default() };
        let weight = Weight::plain(weight);
        // A weight that nobody learns, as of LPIPS, is packed once.
        if !conv.weight.track_op() && tiled::rounds(g, factors) {
            let packed = conv.rounded.get_or_init(|| Tiled::new(Isa::detect(), g, weight));
            return tiled::forward(g, x, packed, extras);
        }
        convolve_trained(g, x, weight, extras, factors)
    })?;
    Tensor::from_vec(y, (g.batch, g.out_channels, g.oh, g.ow), x.device())
}

/// The gradient to the input, `[B, in, H, W]`, for `grad` `[B, out, H', W']`, and `plus`.
pub(super) fn input_gradient(
    g: &Geometry,
    weight: &Tensor,
    grad: &Tensor,
    plus: Option<&Tensor>,
    factors: Factors,
) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if grad.device().is_cuda() {
        return sum(super::cuda::input_gradient(g, weight, grad)?, plus);
    }
    let shape = (g.batch, g.in_channels, g.h, g.w);
    if let Some(plus) = plus.filter(|plus| !plus.dims4().is_ok_and(|dims| dims == shape)) {
        candle_core::bail!("conv2d: a gradient {:?} of an input {shape:?}", plus.shape())
    }
    if patches::suits(g) {
        let dx = cpu::with_slices([weight, grad], |[weight, grad]| {
            patches::input_gradient(g, weight, grad, factors)
        })?;
        return sum(Tensor::from_vec(dx, shape, grad.device())?, plus);
    }
    // With stride 1 it is a convolution of the gradient with the flipped kernel.
    let transposed = full_padding(g).map(|padding| {
        let kernel = Shape::from((g.in_channels, g.out_channels, g.kh, g.kw));
        Geometry::new(grad.shape(), &kernel, Conv2dConfig { stride: 1, padding })
    });
    if let Some(transposed) = transposed.transpose()? {
        // `grad` stands in for what is not there.
        let tensors = [weight, grad, plus.unwrap_or(grad)];
        let dx = cpu::with_slices(tensors, |[weight, grad, other]| {
            let extras = Extras { residual: plus.is_some().then_some(other), ..Extras::default() };
            convolve_trained(&transposed, grad, Weight::flipped(weight), extras, factors)
        })?;
        return Tensor::from_vec(dx, shape, grad.device());
    }
    let dx = cpu::with_slices([weight, grad], |[weight, grad]| {
        strided::input_gradient(Isa::detect(), g, weight, grad, factors)
            .unwrap_or_else(|| kernels::input_gradient(g, weight, grad))
    })?;
    sum(Tensor::from_vec(dx, shape, grad.device())?, plus)
}

/// The gradient to the weight, `[out, in, kh, kw]`, for an input `x` and `grad`
/// `[B, out, H', W']`.
pub(super) fn weight_gradient(
    g: &Geometry,
    x: &Tensor,
    grad: &Tensor,
    factors: Factors,
) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if grad.device().is_cuda() {
        return super::cuda::weight_gradient(g, x, grad);
    }
    let dw = cpu::with_slices([x, grad], |[x, grad]| match Isa::detect() {
        _ if patches::suits(g) => patches::weight_gradient(g, x, grad, factors),
        _ if tiled::rounds(g, factors) => tiled::weight_gradient(g, x, grad),
        _ if g.is_pointwise() => pointwise::weight_gradient(g, x, grad),
        isa if winograd::suits(g) => winograd::weight_gradient(isa, g, x, grad),
        isa if narrow::suits_gradient(g) && g.in_channels >= TRANSFORMED => {
            narrow::weight_gradient(isa, g, x, grad)
        }
        isa => panels::weight_gradient(isa, g, x, grad),
    })?;
    Tensor::from_vec(dw, (g.out_channels, g.in_channels, g.kh, g.kw), x.device())
}

/// The gradient to the bias, `[out]`, for `grad` `[B, out, H', W']`.
pub(super) fn bias_gradient(g: &Geometry, grad: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if grad.device().is_cuda() {
        return super::cuda::bias_gradient(g, grad);
    }
    let db = cpu::with_slices([grad], |[grad]| kernels::bias_gradient(g, grad))?;
    Tensor::from_vec(db, g.out_channels, grad.device())
}

/// Whether [`convolve`] also does a norm in front of it, where no gradient is asked for.
/// Transforms read a pixel up to twice: doing SiLU as often takes the time that it saves.
pub(super) fn norms(g: &Geometry) -> bool {
    narrow::suits(g)
}

/// The fastest forward kernel for a geometry, of what gradients go through if it
/// `trains`: then narrow layers are summed as they stand, see [`TRANSFORMED`].
pub(super) fn convolve(
    g: &Geometry,
    x: &[f32],
    weight: Weight,
    extras: Extras,
    trains: bool,
) -> Vec<f32> {
    let isa = Isa::detect();
    let thin = g.in_channels.min(g.out_channels) < TRANSFORMED;
    let tiles = simd::tiles::are_available();
    if tiles && few_inputs::is_fastest(g) && extras.norm.is_none() {
        // SAFETY: the machine has the registers.
        unsafe { few_inputs::forward::<Native>(isa, g, x, weight, extras) }
    } else if tiled::splits_once(g) {
        tiled::forward(g, x, &Tiled::<3>::new(isa, g, weight), extras)
    } else if winograd::suits(g) && !(trains && thin) {
        winograd::forward(isa, g, x, weight, extras)
    } else if narrow::suits(g) && !(trains && g.in_channels < TRANSFORMED) {
        if tiles && few_outputs::suits(g) {
            // SAFETY: the machine has the registers.
            return unsafe { few_outputs::forward::<Native, 3>(isa, g, x, weight, extras) };
        }
        narrow::forward(isa, g, x, weight, extras)
    } else if patches::suits(g) && !weight.flipped {
        patches::forward(g, x, weight.data, extras, Factors::F32)
    } else if g.is_pointwise() && g.batch > 0 {
        pointwise::forward(isa, g, x, weight, extras)
    } else {
        panels::forward(isa, g, x, weight, extras)
    }
}

/// [`convolve`] of what gradients go through, products rounded as they may be.
fn convolve_trained(
    g: &Geometry,
    x: &[f32],
    weight: Weight,
    extras: Extras,
    factors: Factors,
) -> Vec<f32> {
    if patches::suits(g) && !weight.flipped {
        patches::forward(g, x, weight.data, extras, factors)
    } else if tiled::rounds(g, factors) {
        tiled::forward(g, x, &Tiled::<1>::new(Isa::detect(), g, weight), extras)
    } else {
        convolve(g, x, weight, extras, true)
    }
}

/// The padding that turns the gradient to the input into a convolution, if there
/// is one.
fn full_padding(g: &Geometry) -> Option<Padding> {
    if g.config.stride != 1 || g.batch == 0 {
        return None;
    }
    let Padding { top, bottom, left, right } = g.config.padding;
    Some(Padding {
        top: (g.kh - 1).checked_sub(top)?,
        bottom: (g.kh - 1).checked_sub(bottom)?,
        left: (g.kw - 1).checked_sub(left)?,
        right: (g.kw - 1).checked_sub(right)?,
    })
}

impl CustomOp2 for ConvOp {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward((x, x_layout), (weight, weight_layout), None)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        super::cuda::forward_op(self.config, (x, x_layout), (weight, weight_layout), None)
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.backward(x, weight, grad)
    }
}

impl CustomOp3 for ConvOp {
    fn name(&self) -> &'static str {
        "conv2d"
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
        let bias = cpu::slice(bias, bias_layout)?;
        self.forward((x, x_layout), (weight, weight_layout), Some(bias))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
        bias: &CudaStorage,
        bias_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let bias = Some((bias, bias_layout));
        super::cuda::forward_op(self.config, (x, x_layout), (weight, weight_layout), bias)
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dx, dw) = self.backward(x, weight, grad)?;
        let g = Geometry::new(x.shape(), weight.shape(), self.config)?;
        let db = bias.track_op().then(|| bias_gradient(&g, grad));
        Ok((dx, dw, db.transpose()?))
    }
}
