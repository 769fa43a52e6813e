//! The middle of encoder and decoder: block, attention, block.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use layers::{AttnBlock, attn_block};

use crate::layout::Layout;
use crate::pass::{Named, Pass};
use crate::resnet_block::{ResnetBlock, resnet_block};

/// Residual block, attention over all positions, residual block; the
/// attention is there whatever the configuration says.
#[derive(Debug, Clone)]
pub(crate) struct Mid {
    block_1: Named<ResnetBlock>,
    attn_1: Named<AttnBlock>,
    block_2: Named<ResnetBlock>,
}

impl Mid {
    pub(crate) fn new(layout: Layout, ch: usize, vb: &VarBuilder) -> Result<Self> {
        let [block_1, attn_1, block_2] = layout.mid(vb);
        Ok(Self {
            block_1: Named::new(block_1, |vb| resnet_block(ch, ch, vb))?,
            attn_1: Named::new(attn_1, |vb| attn_block(ch, vb))?,
            block_2: Named::new(block_2, |vb| resnet_block(ch, ch, vb))?,
        })
    }

    /// `[B, ch, H, W]` to the same shape.
    pub(crate) fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let h = self.block_1.forward_block(x, pass)?;
        let h = self.attn_1.forward_block(&h, pass)?;
        self.block_2.forward_block(&h, pass)
    }
}
