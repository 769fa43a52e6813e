//! The PatchGAN discriminator (Isola et al. 2017; taming's `NLayerDiscriminator`).

use candle_core::{Result, Tensor};
use candle_nn::{Init, ModuleT, VarBuilder};
use layers::{Conv2d, Conv2dConfig, Padding, Tape, leaky_relu};
use serde::{Deserialize, Serialize};

use crate::Critic;
use crate::dual::Dual;
use crate::norm_layer::NormLayer;
use crate::spectral::{CriticConv, SpectralConv};

/// Side of every kernel.
const KERNEL: usize = 4;
/// Slope of the leaky ReLUs below 0.
pub(crate) const SLOPE: f64 = 0.2;
/// Channels grow up to this multiple of `ndf`.
const MAX_WIDTH: usize = 8;
/// Each layer halves the image: no image is large enough for more than these.
const MAX_LAYERS: usize = 16;

/// What normalises the inner layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// Batch norm, the reference's default; its convolutions have no bias.
    #[default]
    Batch,
    /// ActNorm (the reference's `use_actnorm`).
    ActNorm,
    /// Group norm with up to 32 groups (as many as divide the channels): the same
    /// in training and evaluation, and for any batch size. Not in the references.
    Group,
    /// None, as is usual under spectral norm. The layers keep the indices they have
    /// with one.
    None,
}

/// Sizes of a [`PatchGan`]. Default: the reference's, 3 channels, `ndf` 64, 3 layers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PatchGanConfig {
    /// Channels of the images (more, if a condition is stacked on them).
    pub in_channels: usize,
    /// Channels after the first convolution; they double each layer, up to 8 times.
    pub ndf: usize,
    /// Strided layers: each doubles the side of the patch a logit sees (3: 70x70).
    pub n_layers: usize,
    /// The norm of the inner layers.
    pub norm: Norm,
    /// Spectral norm of every convolution (Miyato et al. 2018), with the keys of
    /// `torch.nn.utils.spectral_norm`.
    pub spectral: bool,
}

impl Default for PatchGanConfig {
    fn default() -> Self {
        Self { in_channels: 3, ndf: 64, n_layers: 3, norm: Norm::Batch, spectral: false }
    }
}

impl PatchGanConfig {
    /// Checks the sizes.
    ///
    /// # Errors
    /// When a width is 0 or the layers are not 1 to 16.
    pub fn validate(&self) -> Result<()> {
        if self.in_channels == 0 || self.ndf == 0 || !(1..=MAX_LAYERS).contains(&self.n_layers) {
            candle_core::bail!(
                "patchgan: in_channels {}, ndf {} and n_layers {} must be at least 1, n_layers at most {MAX_LAYERS}",
                self.in_channels,
                self.ndf,
                self.n_layers
            )
        }
        Ok(())
    }

    /// The smallest image side that gives a logit, in pixels.
    pub fn min_side(&self) -> usize {
        // Strided layers give floor(side / 2^n); the two last convolutions take one
        // pixel each.
        3 << self.n_layers
    }

    /// Channels after inner layer `n` (0: the first convolution).
    fn width(&self, n: usize) -> usize {
        self.ndf * (1 << n.min(MAX_WIDTH.ilog2() as usize))
    }
}

/// A convolutional critic of image patches; keys `main.{i}.*` as in the reference.
///
/// A 4x4 convolution of stride 2 and leaky ReLU (0.2); then, doubling the
/// channels, `n_layers - 1` times convolution of stride 2, norm, leaky ReLU; once
/// the same with stride 1; last a convolution of stride 1 to one channel.
#[derive(Clone, Debug)]
pub struct PatchGan {
    config: PatchGanConfig,
    first: CriticConv,
    inner: Vec<(CriticConv, NormLayer)>,
    last: CriticConv,
}

impl PatchGan {
    /// The network of `config`. A fresh one starts as the reference does:
    /// convolutions N(0, 0.02), their biases uniform within ± fan_in^-½.
    ///
    /// # Errors
    /// When `config` is not valid, or `vb` lacks a key or holds it in another shape.
    pub fn new(config: &PatchGanConfig, vb: VarBuilder) -> Result<Self> {
        config.validate()?;
        let vb = vb.pp("main");
        let first = conv(config, (config.in_channels, config.ndf), 2, true, vb.pp(0))?;
        let bias = config.norm != Norm::Batch;
        let mut inner = Vec::with_capacity(config.n_layers);
        for n in 1..=config.n_layers {
            let stride = if n < config.n_layers { 2 } else { 1 };
            // Of every three indices one is a convolution, one a norm, one a ReLU.
            let i = 3 * n - 1;
            let width = config.width(n);
            inner.push((
                conv(config, (config.width(n - 1), width), stride, bias, vb.pp(i))?,
                NormLayer::new(config.norm, width, vb.pp(i + 1))?,
            ));
        }
        let sizes = (config.width(config.n_layers), 1);
        let last = conv(config, sizes, 1, true, vb.pp(3 * config.n_layers + 2))?;
        Ok(Self { config: config.clone(), first, inner, last })
    }

    /// The sizes.
    pub fn config(&self) -> &PatchGanConfig {
        &self.config
    }

    fn check(&self, images: &Tensor) -> Result<()> {
        let (_, c, h, w) = images.dims4()?;
        let min = self.config.min_side();
        if c != self.config.in_channels || h < min || w < min {
            candle_core::bail!(
                "patchgan: images {:?} do not fit: {} channels and sides of at least {min} pixels are needed with {} layers",
                images.shape(),
                self.config.in_channels,
                self.config.n_layers
            )
        }
        Ok(())
    }
}

impl Critic for PatchGan {
    fn logits(&self, images: &Tensor, train: bool) -> Result<Tensor> {
        self.check(images)?;
        let mut x = leaky_relu(&self.first.forward(images, train)?, SLOPE)?;
        for (conv, norm) in &self.inner {
            x = leaky_relu(&norm.forward_t(&conv.forward(&x, train)?, train)?, SLOPE)?;
        }
        self.last.forward(&x, train)
    }

    fn logits_taped(&self, images: &Tensor, tape: &mut Tape) -> Result<Tensor> {
        self.check(images)?;
        let first = self.first.forward_taped(images, tape)?;
        let mut x = layers::activation::leaky_relu_taped(&first, SLOPE, tape)?;
        for (conv, norm) in &self.inner {
            x = norm.forward_leaky_taped(&conv.forward_taped(&x, tape)?, tape)?;
        }
        self.last.forward_taped(&x, tape)
    }

    fn tangent(&self, images: &Tensor, direction: &Tensor) -> Result<Tensor> {
        self.check(images)?;
        let x = Dual { value: images.clone(), tangent: direction.clone() };
        let mut x = self.first.dual(&x)?.leaky_relu(SLOPE)?;
        for (conv, norm) in &self.inner {
            x = norm.dual(&conv.dual(&x)?)?.leaky_relu(SLOPE)?;
        }
        Ok(self.last.dual(&x)?.tangent)
    }
}

/// A 4x4 convolution with one pixel of padding and the GAN's initialisation.
fn conv(
    config: &PatchGanConfig,
    (from, to): (usize, usize),
    stride: usize,
    bias: bool,
    vb: VarBuilder,
) -> Result<CriticConv> {
    let shape = (to, from, KERNEL, KERNEL);
    let init = Init::Randn { mean: 0.0, stdev: 0.02 };
    let bias = if bias {
        let bound = 1.0 / ((from * KERNEL * KERNEL) as f64).sqrt();
        Some(vb.get_with_hints(to, "bias", Init::Uniform { lo: -bound, up: bound })?)
    } else {
        None
    };
    let sizes = Conv2dConfig { stride, padding: Padding::same(1) };
    if config.spectral {
        return Ok(CriticConv::Spectral(SpectralConv::new(shape, init, bias, sizes, &vb)?));
    }
    let weight = vb.get_with_hints(shape, "weight", init)?;
    Ok(CriticConv::Plain { conv: Conv2d::new(weight, bias, sizes), config: sizes })
}

#[cfg(test)]
mod tests;
