//! Which layers in which shapes.

use std::collections::BTreeMap;

use candle_core::Shape;
use layers::{Conv2dConfig, Padding};

use super::operations;

/// A layer and its input.
#[derive(Clone, Copy)]
pub struct Layer {
    pub op: Op,
    pub batch: usize,
    pub channels: usize,
    /// Rows and columns of the input.
    pub side: usize,
    /// With the gradients to input and parameters.
    pub train: bool,
    /// A convolution as at the end of decoders: see [`layers::Conv2d::allow_pairs`].
    pub pairs: bool,
}

/// What a layer does.
#[derive(Clone, Copy)]
pub enum Op {
    Conv { out: usize, kernel: usize, config: Conv2dConfig },
    GroupNormSilu,
    Upsample,
    UpsampleConv { channels: usize },
    Attention { channels: usize },
}

impl Op {
    /// The name in requests to Python.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Conv { .. } => "conv",
            Self::GroupNormSilu => "group_norm_silu",
            Self::Upsample => "upsample",
            Self::UpsampleConv { .. } => "upsample_conv",
            Self::Attention { .. } => "attention",
        }
    }
}

/// The reference's downsampling: zeros at the right and the bottom only.
const DOWN: Conv2dConfig =
    Conv2dConfig { stride: 2, padding: Padding { top: 0, bottom: 1, left: 0, right: 1 } };
/// The discriminator's strided convolutions.
const HALVE: Conv2dConfig = Conv2dConfig { stride: 2, padding: Padding::same(1) };
/// Its convolutions without stride.
const NARROW: Conv2dConfig = Conv2dConfig { stride: 1, padding: Padding::same(1) };

const fn conv(
    channels: usize,
    out: usize,
    kernel: usize,
    config: Conv2dConfig,
    side: usize,
) -> Layer {
    other(Op::Conv { out, kernel, config }, channels, side)
}

const fn same(channels: usize, out: usize, kernel: usize, side: usize) -> Layer {
    conv(channels, out, kernel, Conv2dConfig::same(kernel), side)
}

const fn other(op: Op, channels: usize, side: usize) -> Layer {
    Layer { op, batch: 1, channels, side, train: false, pairs: false }
}

const fn trained(layer: Layer) -> Layer {
    Layer { batch: 4, train: true, ..layer }
}

/// Encoder and decoder of the f16 models at 256x256.
pub fn forward() -> Vec<Layer> {
    vec![
        same(3, 128, 3, 256),
        same(128, 128, 3, 256),
        same(128, 128, 3, 128),
        same(256, 128, 3, 128),
        same(256, 256, 3, 128),
        same(128, 256, 3, 64),
        same(256, 256, 3, 64),
        same(256, 256, 3, 32),
        same(512, 256, 3, 32),
        same(512, 512, 3, 32),
        same(256, 512, 3, 16),
        same(512, 512, 3, 16),
        same(512, 256, 3, 16),
        same(128, 3, 3, 256),
        Layer { pairs: true, ..same(128, 3, 3, 256) },
        conv(128, 128, 3, DOWN, 256),
        conv(128, 128, 3, DOWN, 128),
        conv(256, 256, 3, DOWN, 64),
        conv(256, 256, 3, DOWN, 32),
        same(256, 128, 1, 128),
        same(128, 256, 1, 64),
        same(512, 256, 1, 32),
        same(512, 512, 1, 16),
        same(256, 256, 1, 16),
        other(Op::GroupNormSilu, 128, 256),
        other(Op::GroupNormSilu, 256, 128),
        other(Op::GroupNormSilu, 256, 64),
        other(Op::GroupNormSilu, 512, 32),
        other(Op::GroupNormSilu, 512, 16),
        other(Op::Upsample, 128, 128),
        other(Op::UpsampleConv { channels: 128 }, 128, 128),
        other(Op::UpsampleConv { channels: 512 }, 512, 16),
        other(Op::Attention { channels: 512 }, 512, 16),
    ]
}

/// A small first stage and its discriminator, 64x64 in batches of 4.
pub fn training() -> Vec<Layer> {
    let layers = [
        same(3, 64, 3, 64),
        same(64, 64, 3, 64),
        same(64, 128, 3, 32),
        same(128, 128, 3, 32),
        same(128, 128, 3, 16),
        same(256, 256, 3, 16),
        same(64, 3, 3, 64),
        conv(64, 64, 3, DOWN, 64),
        same(64, 128, 1, 32),
        conv(3, 64, 4, HALVE, 64),
        conv(64, 128, 4, HALVE, 32),
        conv(128, 256, 4, HALVE, 16),
        conv(256, 512, 4, NARROW, 8),
        conv(512, 1, 4, NARROW, 7),
        other(Op::GroupNormSilu, 64, 64),
        other(Op::GroupNormSilu, 256, 16),
        other(Op::Upsample, 128, 32),
        other(Op::Attention { channels: 128 }, 128, 16),
    ];
    layers.map(trained).into()
}

impl Layer {
    /// `[B, C, H, W]`.
    pub fn input(&self) -> [usize; 4] {
        [self.batch, self.channels, self.side, self.side]
    }

    /// Names and shapes of the parameters, sorted: gradients are compared in that
    /// order.
    pub fn parameters(&self) -> BTreeMap<&'static str, Shape> {
        let c = self.channels;
        let kernel = |out, size| Shape::from((out, c, size, size));
        let vector = |length: usize| Shape::from(length);
        match self.op {
            Op::Conv { out, kernel: size, .. } => {
                BTreeMap::from([("weight", kernel(out, size)), ("bias", vector(out))])
            }
            Op::GroupNormSilu => BTreeMap::from([("weight", vector(c)), ("bias", vector(c))]),
            Op::Upsample => BTreeMap::new(),
            Op::UpsampleConv { .. } => {
                BTreeMap::from([("conv.weight", kernel(c, 3)), ("conv.bias", vector(c))])
            }
            Op::Attention { .. } => BTreeMap::from([
                ("norm.weight", vector(c)),
                ("norm.bias", vector(c)),
                ("q.weight", kernel(c, 1)),
                ("q.bias", vector(c)),
                ("k.weight", kernel(c, 1)),
                ("k.bias", vector(c)),
                ("v.weight", kernel(c, 1)),
                ("v.bias", vector(c)),
                ("proj_out.weight", kernel(c, 1)),
                ("proj_out.bias", vector(c)),
            ]),
        }
    }

    /// Operations of a forward pass, where arithmetic is what it costs.
    pub fn flops(&self) -> Option<usize> {
        let (c, side) = (self.channels, self.side);
        let one = match self.op {
            Op::Conv { out, kernel, config } => {
                let (made, _) = config.output_size((side, side), (kernel, kernel)).ok()?;
                operations::convolution(c, out, kernel, made)
            }
            Op::UpsampleConv { .. } => operations::convolution(c, c, 3, 2 * side),
            Op::Attention { .. } => operations::attention(c, side),
            Op::GroupNormSilu | Op::Upsample => return None,
        };
        Some(self.batch * one)
    }

    /// The name in tables.
    pub fn title(&self) -> String {
        let (c, side) = (self.channels, self.side);
        let what = match self.op {
            Op::Conv { out, kernel, config } => {
                let stride = if config.stride == 1 { "" } else { " /2" };
                format!("conv {kernel}x{kernel}{stride} {c}->{out} @{side}")
            }
            Op::GroupNormSilu => format!("group norm + SiLU {c} @{side}"),
            Op::Upsample => format!("upsample {c} @{side}"),
            Op::UpsampleConv { .. } => format!("upsample + conv 3x3 {c} @{side}"),
            Op::Attention { .. } => format!("attention {c} @{side}"),
        };
        match (self.batch, self.train) {
            (1, false) if self.pairs => format!("{what}, as in a decoder"),
            (1, false) => what,
            (batch, false) => format!("{what} batch {batch}"),
            (batch, true) => format!("{what} batch {batch}, with gradients"),
        }
    }
}
