//! The residual blocks of one resolution level, with or without attention.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use layers::{AttnBlock, attn_block};

use crate::layout::Layout;
use crate::pass::{Named, Pass};
use crate::resnet_block::{ResnetBlock, resnet_block};

/// `count` times a residual block, each followed by attention if the level
/// attends.
#[derive(Debug, Clone)]
pub(crate) struct ResidualStack {
    blocks: Vec<(Named<ResnetBlock>, Option<Named<AttnBlock>>)>,
}

/// The channels and the depth of a [`ResidualStack`].
pub(crate) struct StackShape {
    pub(crate) in_ch: usize,
    pub(crate) out_ch: usize,
    pub(crate) count: usize,
    pub(crate) attends: bool,
}

impl ResidualStack {
    pub(crate) fn new(layout: Layout, shape: &StackShape, level: &VarBuilder) -> Result<Self> {
        let &StackShape { in_ch, out_ch, count, attends } = shape;
        let blocks = (0..count).map(|i| {
            let in_ch = if i == 0 { in_ch } else { out_ch };
            let block = Named::new(layout.block(level, i), |vb| resnet_block(in_ch, out_ch, vb))?;
            let attn = attends
                .then(|| Named::new(level.pp("attn").pp(i), |vb| attn_block(out_ch, vb)))
                .transpose()?;
            Ok((block, attn))
        });
        Ok(Self { blocks: blocks.collect::<Result<_>>()? })
    }

    /// `[B, in_ch, H, W]` to `[B, out_ch, H, W]`.
    pub(crate) fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let mut h = x.clone();
        for (block, attn) in &self.blocks {
            h = block.forward_block(&h, pass)?;
            if let Some(attn) = attn {
                h = attn.forward_block(&h, pass)?;
            }
        }
        Ok(h)
    }
}
