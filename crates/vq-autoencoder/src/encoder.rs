//! The encoder E of the paper: a picture to a map of feature vectors.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use layers::{Conv2d, Conv2dConfig, Downsample, GroupNorm, conv2d, downsample, group_norm};

use crate::config::VqConfig;
use crate::mid::Mid;
use crate::pass::{Named, Pass};
use crate::residual_stack::{ResidualStack, StackShape};

/// Convolution, levels of residual blocks with halvings between them, middle,
/// norm, SiLU, convolution.
///
/// Source: `Encoder` of taming's `diffusionmodules/model.py` and of LlamaGen's
/// `vq_model.py`; which of the two is `VqConfig::layout`.
#[derive(Debug, Clone)]
pub(crate) struct Encoder {
    conv_in: Named<Conv2d>,
    down: Vec<DownLevel>,
    mid: Mid,
    norm_out: Named<GroupNorm>,
    conv_out: Named<Conv2d>,
}

#[derive(Debug, Clone)]
struct DownLevel {
    stack: ResidualStack,
    downsample: Option<Named<Downsample>>,
}

impl Encoder {
    /// The encoder of a valid `config`, with the weights under `vb`
    /// (`encoder.*` of a checkpoint).
    pub(crate) fn new(config: &VqConfig, vb: VarBuilder) -> Result<Self> {
        let layout = config.layout;
        let same = Conv2dConfig::same(3);
        let levels = config.ch_mult.len();
        let conv_in =
            Named::new(vb.pp("conv_in"), |vb| conv2d(config.in_channels, config.ch, 3, same, vb))?;

        let mut in_ch = config.ch;
        let mut down = Vec::with_capacity(levels);
        for (level, mult) in config.ch_mult.iter().enumerate() {
            let vb = layout.down(&vb, level);
            let out_ch = config.ch * mult;
            let attends = layout.attends_down(config, level);
            let shape = StackShape { in_ch, out_ch, count: config.num_res_blocks, attends };
            down.push(DownLevel {
                stack: ResidualStack::new(layout, &shape, &vb)?,
                downsample: (level + 1 < levels)
                    .then(|| Named::new(vb.pp("downsample"), |vb| downsample(out_ch, vb)))
                    .transpose()?,
            });
            in_ch = out_ch;
        }

        Ok(Self {
            conv_in,
            down,
            mid: Mid::new(layout, in_ch, &vb)?,
            norm_out: Named::new(vb.pp("norm_out"), |vb| group_norm(in_ch, vb))?,
            conv_out: Named::new(vb.pp("conv_out"), |vb| {
                conv2d(in_ch, config.z_channels, 3, same, vb)
            })?,
        })
    }

    /// `[B, in_channels, H, W]` in `[-1, 1]` to `[B, z_channels, h, w]`, where
    /// h and w are H and W halved and rounded down once per level but one.
    pub(crate) fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let mut h = self.conv_in.forward(x, pass)?;
        for level in &self.down {
            h = level.stack.forward(&h, pass)?;
            if let Some(downsample) = &level.downsample {
                h = downsample.forward(&h, pass)?;
            }
        }
        h = self.mid.forward(&h, pass)?;
        self.norm_out.forward_into(&self.conv_out, &h, pass)
    }
}
