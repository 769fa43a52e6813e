//! The residual block: twice (group norm, SiLU, 3x3 convolution).

use candle_core::{Module, Result, Tensor};
use candle_nn::VarBuilder;
use layers::{Conv2d, Conv2dConfig, GroupNorm, Tape, Taped, conv2d, group_norm};

use crate::pass::{Block, Whole};

/// `x + conv2(silu(norm2(conv1(silu(norm1(x))))))`, with a 1x1 convolution
/// on `x` where the channel count changes.
///
/// Source: `ResnetBlock` of taming's `diffusionmodules/model.py` without time
/// embedding; dropout is left out (every published model trains with 0).
#[derive(Debug, Clone)]
pub(crate) struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    nin_shortcut: Option<Conv2d>,
}

/// A residual block from `in_ch` to `out_ch` channels; keys `norm1`, `conv1`,
/// `norm2`, `conv2` and, where `in_ch != out_ch`, `nin_shortcut`.
///
/// Fails if a weight is missing or mis-shaped, or if a channel count is not a
/// multiple of the group norm's 32 groups.
pub(crate) fn resnet_block(in_ch: usize, out_ch: usize, vb: VarBuilder) -> Result<ResnetBlock> {
    let same = Conv2dConfig::same(3);
    Ok(ResnetBlock {
        norm1: group_norm(in_ch, vb.pp("norm1"))?,
        conv1: conv2d(in_ch, out_ch, 3, same, vb.pp("conv1"))?,
        norm2: group_norm(out_ch, vb.pp("norm2"))?,
        conv2: conv2d(out_ch, out_ch, 3, same, vb.pp("conv2"))?,
        nin_shortcut: (in_ch != out_ch)
            .then(|| conv2d(in_ch, out_ch, 1, Conv2dConfig::default(), vb.pp("nin_shortcut")))
            .transpose()?,
    })
}

impl Block for ResnetBlock {
    /// `[B, in, H, W]` to `[B, out, H, W]`.
    fn forward(&self, x: &Tensor, whole: &mut Whole) -> Result<Tensor> {
        let h = self.conv1.forward_normed(&whole.norm_silu(&self.norm1, x)?, None)?;
        let h = whole.norm_silu(&self.norm2, &h)?;
        match &self.nin_shortcut {
            Some(shortcut) => self.conv2.forward_normed(&h, Some(&shortcut.forward(x)?)),
            None => self.conv2.forward_normed(&h, Some(x)),
        }
    }

    fn forward_taped(&self, x: &Tensor, tape: &mut Tape) -> Result<Tensor> {
        let (mut main, mut side) = (tape.branch(), tape.branch());
        let h = self.norm1.forward_silu_taped(x, &mut main)?;
        let h = self.conv1.forward_taped(&h, &mut main)?;
        let h = self.norm2.forward_silu_taped(&h, &mut main)?;
        let shortcut = match &self.nin_shortcut {
            Some(shortcut) => &shortcut.forward_taped(x, &mut side)?,
            None => x,
        };
        let y = self.conv2.forward_add_taped(&h, shortcut, &mut main)?;
        tape.push(move |dy, plus, gradients| {
            let aside = side.backward_add(dy, plus, gradients)?;
            main.backward_add(dy, aside.as_ref(), gradients)
        });
        Ok(y)
    }
}
