//! Convolutions with weights of half precision on a CPU, for inference. Feature maps stay f32.
//!
//! Where the machine multiplies tiles of bf16 ([`simd::tiles`]) and the weights are bf16, what
//! is read is rounded to bf16 and summed in f32. Else the weights become f32 again, which
//! loses nothing, and everything is as with weights of f32.

mod numbers;

use candle_core::{CpuStorage, DType, Result, Shape, Storage, Tensor};

use self::numbers::Numbers;
use super::geometry::Geometry;
use super::tiled::{Tiled, suits};
use super::weight::Weight;
use super::winograd::Extras;
use super::{Conv2d, fast, tiled, winograd};
use crate::cpu;
use crate::group_norm::Channels;
use crate::scratch::with_scratch;

/// Whether `conv` has weights of half precision on a CPU, and takes `x` of f32.
pub(super) fn takes(conv: &Conv2d, x: &Tensor) -> bool {
    let bias = conv.bias.as_ref();
    let tensors = [Some(x), Some(&conv.weight), bias];
    matches!(conv.weight.dtype(), DType::BF16 | DType::F16)
        && conv.weight.device().is_cpu()
        && cpu::supports(x)
        && bias.is_none_or(cpu::supports)
        && !tensors.into_iter().flatten().any(Tensor::track_op)
}

/// Whether the convolution also does the norm in front of it.
pub(super) fn norms(conv: &Conv2d, g: &Geometry) -> bool {
    has_tiles(conv.weight.dtype()) && suits(g) || fast::norms(g)
}

/// `conv` of `x`, normed first if so asked, with `residual` (of the output's shape) added.
pub(super) fn forward(
    conv: &Conv2d,
    x: &Tensor,
    norm: Option<&Channels>,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let g = Geometry::new(x.shape(), conv.weight.shape(), conv.config)?;
    if let Some(other) = residual.filter(|r| r.dims() != [g.batch, g.out_channels, g.oh, g.ow]) {
        candle_core::bail!("conv2d: a residual {:?} of an input {:?}", other.shape(), x.shape())
    }
    // `x` stands in for what is not there.
    let tensors = [x, residual.unwrap_or(x), conv.bias.as_ref().unwrap_or(x)];
    let y = cpu::with_slices(tensors, |[x, other, bias]| {
        let bias = conv.bias.is_some().then_some(bias);
        let residual = residual.is_some().then_some(other);
        convolve(conv, &g, x, Extras { bias, residual, norm, ..Extras::default() })
    })?;
    Tensor::from_vec(y?, (g.batch, g.out_channels, g.oh, g.ow), x.device())
}

/// `conv` of `x` with every pixel four times; `None` where that is not to be had in one pass.
pub(super) fn upsampled(conv: &Conv2d, x: &Tensor) -> Result<Option<Tensor>> {
    let (b, c, h, w) = x.dims4()?;
    let doubled = Shape::from((b, c, 2 * h, 2 * w));
    let g = Geometry::new(&doubled, conv.weight.shape(), conv.config)?;
    if !winograd::suits(&g) {
        return Ok(None);
    }
    let y = cpu::with_slices([x, conv.bias.as_ref().unwrap_or(x)], |[x, bias]| {
        let bias = conv.bias.is_some().then_some(bias);
        convolve(conv, &g, x, Extras { bias, upsample: true, ..Extras::default() })
    })?;
    Tensor::from_vec(y?, (g.batch, g.out_channels, g.oh, g.ow), x.device()).map(Some)
}

fn convolve(conv: &Conv2d, g: &Geometry, x: &[f32], extras: Extras) -> Result<Vec<f32>> {
    if extras.bias.is_some_and(|bias| bias.len() != g.out_channels) {
        candle_core::bail!("conv2d: the bias does not have {} elements", g.out_channels)
    }
    let tensor = conv.weight.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let numbers = match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::BF16(all)), Some((start, end))) => {
            Numbers::Bf16(&all[start..end])
        }
        (Storage::Cpu(CpuStorage::F16(all)), Some((start, end))) => Numbers::F16(&all[start..end]),
        _ => candle_core::bail!("conv2d: {:?} is no weight of half precision", conv.weight),
    };
    if let Numbers::Bf16(weight) = numbers
        && has_tiles(DType::BF16)
        && suits(g)
    {
        let weights = conv.rounded.get_or_init(|| Tiled::of_bf16(g, weight));
        return Ok(tiled::forward(g, x, weights, extras));
    }
    Ok(with_scratch(numbers.len(), |wide| {
        numbers.widen(wide);
        fast::convolve(g, x, Weight::plain(wide), extras, false)
    }))
}

/// Whether the machine multiplies tiles of weights of `dtype`.
fn has_tiles(dtype: DType) -> bool {
    dtype == DType::BF16 && simd::tiles::are_available()
}

#[cfg(test)]
mod tests;
