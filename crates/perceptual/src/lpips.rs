//! LPIPS (Zhang et al. 2018): the distance of VGG-16 features, weighted by channel.
//!
//! As in taming/modules/losses/lpips.py, with two differences, both on purpose.
//! There is **no dropout**: the reference has `Dropout(0.5)` in front of every
//! `lin` layer, meant to be off but turned on in training by Lightning's
//! `model.train()`, so its published models were trained under it (a random half
//! of the channels, doubled). And the gradient at a position whose features are
//! **all zero is zero**: the reference's is NaN there (√ at 0).

use candle_core::{DType, Result, Tensor};
use candle_nn::VarBuilder;
use layers::Factors;
use serde::{Deserialize, Serialize};

use crate::distance::EPS;
use crate::vgg::{SLICES, Vgg16};

/// ImageNet's mean per channel, for images in `[-1, 1]`.
const SHIFT: [f32; 3] = [-0.030, -0.088, -0.188];
/// ImageNet's standard deviation per channel, for images in `[-1, 1]`.
const SCALE: [f32; 3] = [0.458, 0.448, 0.450];

/// Widths of the VGG below LPIPS. Default: VGG-16's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LpipsConfig {
    /// Channels of the five slices.
    pub channels: [usize; SLICES],
}

impl Default for LpipsConfig {
    fn default() -> Self {
        Self { channels: [64, 128, 256, 512, 512] }
    }
}

impl LpipsConfig {
    /// The widths of the weights in `vb`, read from `lin{i}.model.1.weight`.
    ///
    /// # Errors
    /// When `vb` lacks one of them or it is not `[1, C, 1, 1]`.
    pub fn of_weights(vb: &VarBuilder) -> Result<Self> {
        let mut channels = [0; SLICES];
        for (i, channels) in channels.iter_mut().enumerate() {
            let lin = vb.get_unchecked(&lin_key(i))?;
            *channels = match lin.dims() {
                &[1, c, 1, 1] => c,
                other => candle_core::bail!("lpips: {} is {other:?}, not [1, C, 1, 1]", lin_key(i)),
            };
        }
        Ok(Self { channels })
    }
}

/// The perceptual distance; weights are frozen, gradients flow to the images.
///
/// Keys: `scaling_layer.{shift,scale}` `[1, 3, 1, 1]` (constants: may be absent),
/// `net.slice{1..5}.{i}.{weight,bias}`, `lin{0..4}.model.1.weight` `[1, C, 1, 1]`.
#[derive(Clone, Debug)]
pub struct Lpips {
    shift: Tensor,
    scale: Tensor,
    net: Vgg16,
    /// `[C]` each.
    lins: Vec<Tensor>,
    factors: Factors,
}

impl Lpips {
    /// The distance with the widths of `config`.
    ///
    /// # Errors
    /// When `vb` lacks a key or holds it in another shape.
    pub fn new(config: &LpipsConfig, vb: VarBuilder) -> Result<Self> {
        let mut lins = Vec::with_capacity(SLICES);
        for (i, &channels) in config.channels.iter().enumerate() {
            let lin = vb.get((1, channels, 1, 1), &lin_key(i))?;
            lins.push(lin.detach().flatten_all()?);
        }
        Ok(Self {
            shift: constant("shift", SHIFT, &vb)?,
            scale: constant("scale", SCALE, &vb)?,
            net: Vgg16::new(&config.channels, vb.pp("net"))?,
            lins,
            factors: Factors::default(),
        })
    }

    /// The same distance; on a CPU the factors of VGG's products may be rounded so.
    pub fn with_factors(self, factors: Factors) -> Self {
        Self { factors, ..self }
    }

    /// The VGG-16 below.
    pub fn net(&self) -> &Vgg16 {
        &self.net
    }

    /// Images in `[-1, 1]`, `[B, 3, H, W]` (or `[B, 1, H, W]`, repeated), as VGG
    /// expects them: `(x - shift) / scale`.
    ///
    /// # Errors
    /// When the images have other than 1 or 3 channels.
    pub fn scaled(&self, images: &Tensor) -> Result<Tensor> {
        let (_, c, _, _) = images.dims4()?;
        if c != 1 && c != 3 {
            candle_core::bail!("lpips: images {:?} have neither 1 nor 3 channels", images.shape())
        }
        images.broadcast_sub(&self.shift)?.broadcast_div(&self.scale)
    }

    /// The distance of each image of `x` from that of `y`, both `[B, 3, H, W]` (or
    /// one channel) in `[-1, 1]` with sides of at least 16: `[B, 1, 1, 1]`, at
    /// least 0 with the published weights. By custom `y` is the reconstruction.
    ///
    /// # Errors
    /// When the shapes differ or do not fit.
    pub fn forward(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        if x.shape() != y.shape() {
            candle_core::bail!("lpips: images {:?} and {:?} differ in shape", x.shape(), y.shape())
        }
        let (x, y) = (self.scaled(x)?, self.scaled(y)?);
        if fast::suits(self, &x, &y) {
            return fast::forward(self, &x, &y);
        }
        self.composed(&x, &y)
    }

    /// The distance of scaled images, from candle's ops.
    fn composed(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        let (x, y) = (self.net.features(x)?, self.net.features(y)?);
        let mut sum: Option<Tensor> = None;
        for ((x, y), lin) in x.iter().zip(&y).zip(&self.lins) {
            let distance = slice_distance(x, y, lin)?;
            sum = Some(match sum {
                Some(sum) => (sum + distance)?,
                None => distance,
            });
        }
        match sum {
            Some(sum) => sum.reshape(((), 1, 1, 1)),
            None => candle_core::bail!("lpips: no slices"),
        }
    }
}

/// The distance `[B, 1]` of two feature maps `[B, C, H, W]`.
///
/// The reference's 1x1 convolution and spatial mean change places: both are
/// linear, and the mean first leaves almost nothing to convolve.
fn slice_distance(x: &Tensor, y: &Tensor, lin: &Tensor) -> Result<Tensor> {
    let difference = (unit_length(x)? - unit_length(y)?)?;
    let by_channel = difference.sqr()?.flatten_from(2)?.mean(2)?;
    by_channel.matmul(&lin.to_dtype(by_channel.dtype())?.unsqueeze(1)?)
}

/// `x / (‖x‖ + 1e-10)` over the channels of `[B, C, H, W]`; in f32 at least,
/// because 1e-10 is 0 in f16.
pub(crate) fn unit_length(x: &Tensor) -> Result<Tensor> {
    let x = if x.dtype() == DType::F64 { x.clone() } else { x.to_dtype(DType::F32)? };
    let squares = x.sqr()?.sum_keepdim(1)?;
    let dtype = squares.dtype();
    let zero = squares.eq(0.0)?.to_dtype(dtype)?;
    let nonzero = squares.gt(0.0)?.to_dtype(dtype)?;
    // Where all channels are 0 the square root sees a 1 instead, and the factor is
    // 0: value and gradient are 0, and no infinity arises to meet it.
    let norm = (squares + zero)?.sqrt()?;
    x.broadcast_mul(&nonzero.div(&(norm + EPS)?)?)
}

fn constant(name: &str, values: [f32; 3], vb: &VarBuilder) -> Result<Tensor> {
    let vb = vb.pp("scaling_layer");
    let shape = (1, 3, 1, 1);
    if vb.contains_tensor(name) {
        return Ok(vb.get(shape, name)?.detach());
    }
    Tensor::from_slice(&values, shape, vb.device())?.to_dtype(vb.dtype())
}

fn lin_key(i: usize) -> String {
    format!("lin{i}.model.1.weight")
}

mod fast;
#[cfg(test)]
mod tests;
