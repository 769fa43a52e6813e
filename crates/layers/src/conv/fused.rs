//! A convolution and its neighbour in one pass, for inference: the feature map between
//! the two is never written. `None` where that is not to be had, and the two have to run
//! one after the other.

use candle_core::{Result, Shape, Tensor};
use simd::tiles::Native;

use super::Conv2d;
use super::geometry::Geometry;
use super::tiled::{self, Tiled, few_outputs};
use super::weight::Weight;
use super::winograd::{self, Extras};
use super::{fast, halved};
use crate::cpu;
use crate::group_norm::NormSilu;
use crate::isa::Isa;

/// `conv(x)` of what is to be normed first, with `residual` added.
pub(super) fn normed(
    conv: &Conv2d,
    x: &NormSilu,
    residual: Option<&Tensor>,
) -> Result<Option<Tensor>> {
    let input = x.input();
    if residual.is_some_and(|residual| !cpu::supports(residual) || residual.track_op()) {
        return Ok(None);
    }
    let halved = halved::takes(conv, input);
    if !halved && !is_plain(conv, input) {
        return Ok(None);
    }
    let g = Geometry::new(input.shape(), conv.weight.shape(), conv.config)?;
    let dims = [g.batch, g.out_channels, g.oh, g.ow];
    let norms = if halved { halved::norms(conv, &g) } else { fast::norms(&g) };
    // What does not fit is an error of the slow way.
    if !norms || residual.is_some_and(|residual| residual.dims() != dims) {
        return Ok(None);
    }
    let Some(channels) = x.channels()? else { return Ok(None) };
    if halved {
        return halved::forward(conv, input, Some(&channels), residual).map(Some);
    }
    // `input` stands in for what is not there.
    let run = |[x, other]: [&[f32]; 2]| {
        let residual = residual.is_some().then_some(other);
        convolve(conv, &g, x, Extras { residual, norm: Some(&channels), ..Extras::default() })
    };
    cpu::with_slices([input, residual.unwrap_or(input)], run)?.map(Some)
}

/// `conv(x)` where it is not done as with gradients: with a weight that is packed once, or pairs.
pub(super) fn alone(conv: &Conv2d, x: &Tensor) -> Result<Option<Tensor>> {
    if !is_plain(conv, x) {
        return Ok(None);
    }
    let g = Geometry::new(x.shape(), conv.weight.shape(), conv.config)?;
    // What does not fit is an error of the slow way.
    let differs = takes_pairs(conv, &g) || tiled::splits(&g);
    if !differs || conv.bias.as_ref().is_some_and(|b| b.dims() != [g.out_channels]) {
        return Ok(None);
    }
    cpu::with_slices([x], |[x]| convolve(conv, &g, x, Extras::default()))?.map(Some)
}

/// `residual + conv(x)`.
pub(super) fn add(conv: &Conv2d, x: &Tensor, residual: &Tensor) -> Result<Option<Tensor>> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return add_cuda(conv, x, residual);
    }
    let Some(g) = geometry(conv, x, x.shape())? else { return Ok(None) };
    let fits = residual.dims() == [g.batch, g.out_channels, g.oh, g.ow];
    if !fits || !cpu::supports(residual) || residual.track_op() {
        return Ok(None);
    }
    let run = |[x, residual]: [&[f32]; 2]| {
        convolve(conv, &g, x, Extras { residual: Some(residual), ..Extras::default() })
    };
    cpu::with_slices([x, residual], run)?.map(Some)
}

/// The same on an NVIDIA GPU, where the residual is added with the bias.
#[cfg(feature = "cuda")]
fn add_cuda(conv: &Conv2d, x: &Tensor, residual: &Tensor) -> Result<Option<Tensor>> {
    let bias = conv.bias.as_ref().unwrap_or(&conv.weight);
    let tensors = [x, &conv.weight, bias, residual];
    if !crate::cuda::supports(&tensors) || tensors.into_iter().any(Tensor::track_op) {
        return Ok(None);
    }
    let g = Geometry::new(x.shape(), conv.weight.shape(), conv.config)?;
    let fits = residual.dims() == [g.batch, g.out_channels, g.oh, g.ow];
    // What does not fit is an error of the slow way.
    if !fits || conv.bias.as_ref().is_some_and(|bias| bias.dims() != [g.out_channels]) {
        return Ok(None);
    }
    super::cuda::forward_untracked(&g, x, conv, Some(residual)).map(Some)
}

/// `conv` of `x` with every pixel four times.
pub(super) fn upsample(conv: &Conv2d, x: &Tensor) -> Result<Option<Tensor>> {
    let (b, c, h, w) = x.dims4()?;
    let Some(g) = geometry(conv, x, &Shape::from((b, c, 2 * h, 2 * w)))? else {
        return Ok(None);
    };
    let run =
        |[x]: [&[f32]; 1]| convolve(conv, &g, x, Extras { upsample: true, ..Extras::default() });
    cpu::with_slices([x], run)?.map(Some)
}

/// The sizes of `conv` on an input of this `shape`, if it can run fused.
fn geometry(conv: &Conv2d, x: &Tensor, shape: &Shape) -> Result<Option<Geometry>> {
    if !is_plain(conv, x) {
        return Ok(None);
    }
    let g = Geometry::new(shape, conv.weight.shape(), conv.config)?;
    Ok(Some(g).filter(winograd::suits))
}

/// Whether factors may be pairs, and the layer gains by it.
fn takes_pairs(conv: &Conv2d, g: &Geometry) -> bool {
    conv.pairs && few_outputs::suits(g) && simd::tiles::are_available()
}

/// Whether all is f32 on a CPU, and no gradient is asked for.
fn is_plain(conv: &Conv2d, x: &Tensor) -> bool {
    let tensors = [Some(x), Some(&conv.weight), conv.bias.as_ref()];
    tensors.into_iter().flatten().all(|t| cpu::supports(t) && !t.track_op())
}

fn convolve(conv: &Conv2d, g: &Geometry, x: &[f32], extras: Extras) -> Result<Tensor> {
    let run = |[weight, bias]: [&[f32]; 2]| {
        let extras = Extras { bias: conv.bias.is_some().then_some(bias), ..extras };
        let weight = Weight::plain(weight);
        if takes_pairs(conv, g) {
            // SAFETY: the machine has the registers.
            return unsafe {
                few_outputs::forward::<Native, 2>(Isa::detect(), g, x, weight, extras)
            };
        }
        if tiled::splits(g) {
            let packed = conv.split.get_or_init(|| Tiled::new(Isa::detect(), g, weight));
            return tiled::forward(g, x, packed, extras);
        }
        fast::convolve(g, x, weight, extras, false)
    };
    let y = cpu::with_slices([&conv.weight, conv.bias.as_ref().unwrap_or(&conv.weight)], run)?;
    Tensor::from_vec(y, (g.batch, g.out_channels, g.oh, g.ow), conv.weight.device())
}

#[cfg(test)]
mod tests;
