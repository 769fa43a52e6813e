//! The decoder G of the paper: a map of code vectors to a picture.

use candle_core::{DType, Result, Tensor};
use candle_nn::VarBuilder;
use layers::{Conv2d, Conv2dConfig, GroupNorm, Upsample, conv2d, group_norm, upsample};

use crate::config::VqConfig;
use crate::mid::Mid;
use crate::pass::{Named, Pass};
use crate::residual_stack::{ResidualStack, StackShape};

/// Convolution, middle, levels of residual blocks with doublings between them,
/// norm, SiLU, convolution.
///
/// A level has one residual block more than the encoder's. Source: `Decoder`
/// of taming's `diffusionmodules/model.py` and of LlamaGen's `vq_model.py`.
#[derive(Debug, Clone)]
pub(crate) struct Decoder {
    conv_in: Named<Conv2d>,
    mid: Mid,
    /// From the lowest resolution to the full one.
    up: Vec<UpLevel>,
    norm_out: Named<GroupNorm>,
    conv_out: Named<Conv2d>,
}

#[derive(Debug, Clone)]
struct UpLevel {
    stack: ResidualStack,
    upsample: Option<Named<Upsample>>,
}

impl Decoder {
    /// The decoder of a valid `config`, with the weights under `vb`
    /// (`decoder.*` of a checkpoint).
    pub(crate) fn new(config: &VqConfig, vb: VarBuilder) -> Result<Self> {
        let layout = config.layout;
        let same = Conv2dConfig::same(3);
        let levels = config.ch_mult.len();
        let mut in_ch = config.lowest_channels();
        let conv_in =
            Named::new(vb.pp("conv_in"), |vb| conv2d(config.z_channels, in_ch, 3, same, vb))?;
        let mid = Mid::new(layout, in_ch, &vb)?;

        let mut up = Vec::with_capacity(levels);
        for (level, mult) in config.ch_mult.iter().enumerate().rev() {
            let vb = layout.up(&vb, level, levels);
            let out_ch = config.ch * mult;
            let attends = layout.attends_up(config, level);
            let shape = StackShape { in_ch, out_ch, count: config.num_res_blocks + 1, attends };
            up.push(UpLevel {
                stack: ResidualStack::new(layout, &shape, &vb)?,
                upsample: (level > 0)
                    .then(|| Named::new(vb.pp("upsample"), |vb| upsample(out_ch, vb)))
                    .transpose()?,
            });
            in_ch = out_ch;
        }

        Ok(Self {
            conv_in,
            mid,
            up,
            norm_out: Named::new(vb.pp("norm_out"), |vb| group_norm(in_ch, vb))?,
            conv_out: Named::new(vb.pp("conv_out"), |vb| {
                let mut conv = conv2d(in_ch, config.out_channels, 3, same, vb)?;
                // What comes out is seen, and nothing is computed from it.
                conv.allow_pairs();
                Ok(conv)
            })?,
        })
    }

    /// `[B, z_channels, h, w]` to `[B, out_channels, h * f, w * f]`, not
    /// clamped.
    pub(crate) fn forward(&self, z: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let h = self.features(z, pass)?;
        self.norm_out.forward_into(&self.conv_out, &h, pass)
    }

    /// What the last convolution gets: `[B, z_channels, h, w]` to
    /// `[B, ch * ch_mult[0], h * f, w * f]`.
    pub(crate) fn hidden(&self, z: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let h = self.features(z, pass)?;
        self.norm_out.forward_silu(&h, pass)
    }

    /// What the last norm gets, of the same shape.
    fn features(&self, z: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let mut h = self.conv_in.forward(z, pass)?;
        h = self.mid.forward(&h, pass)?;
        for level in &self.up {
            h = level.stack.forward(&h, pass)?;
            if let Some(upsample) = &level.upsample {
                h = upsample.forward(&h, pass)?;
            }
        }
        Ok(h)
    }

    /// The last convolution.
    pub(crate) fn last(&self, hidden: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        self.conv_out.forward(hidden, pass)
    }

    /// The gradient to that weight, for the layer's input and the gradient to its output.
    pub(crate) fn last_layer_gradient(&self, hidden: &Tensor, upstream: &Tensor) -> Result<Tensor> {
        self.conv_out.module.weight_gradient(hidden, upstream)
    }

    /// The dtype of feature maps.
    pub(crate) fn dtype(&self) -> DType {
        self.conv_out.module.maps_dtype()
    }

    /// The weight of the last convolution, `[out_channels, ch * ch_mult[0], 3, 3]`:
    /// the layer at which the adversarial weight of eq. 7 compares gradients.
    pub(crate) fn last_layer(&self) -> &Tensor {
        self.conv_out.module.weight()
    }
}
