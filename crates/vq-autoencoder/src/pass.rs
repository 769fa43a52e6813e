//! One forward pass: who looks on, what it knows beyond its feature map, and whether
//! it is to be gone back.

use candle_core::{Module, Result, Tensor};
use candle_nn::VarBuilder;
use layers::{AttnBlock, Conv2d, GroupNorm, NormSilu, Tape, Taped};

use crate::picture_context::PictureContext;

/// Gets a module's name and its output.
type See<'a> = &'a mut dyn FnMut(&str, &Tensor);

/// What a forward pass takes along besides the feature map.
#[derive(Default)]
pub(crate) struct Pass<'a> {
    see: Option<See<'a>>,
    whole: Whole<'a>,
    tape: Option<&'a mut Tape>,
}

impl<'a> Pass<'a> {
    /// A pass that nobody looks at, of a picture that is whole.
    pub(crate) fn plain() -> Self {
        Self::default()
    }

    /// `see(name, output)` is called for every named module, in order.
    pub(crate) fn observed(see: See<'a>) -> Self {
        Self { see: Some(see), ..Self::default() }
    }

    /// The pass of a tile.
    pub(crate) fn tile(context: &'a mut PictureContext) -> Self {
        Self { whole: Whole(Some(context)), ..Self::default() }
    }

    /// A pass without candle's graph, whose way back is put on `tape`.
    pub(crate) fn taped(tape: &'a mut Tape) -> Self {
        Self { tape: Some(tape), ..Self::default() }
    }

    /// Shows an output that the pass computes anyway.
    fn show(&mut self, name: &str, output: &Tensor) {
        if let Some(see) = &mut self.see {
            see(name, output);
        }
    }
}

/// What in a pass depends on the whole picture: group norms and attention, by
/// the feature map at hand or, for a tile, by its picture's context.
#[derive(Default)]
pub(crate) struct Whole<'a>(Option<&'a mut PictureContext>);

impl Whole<'_> {
    /// Norm and SiLU of `x` `[B, C, H, W]`, for the convolution behind them.
    pub(crate) fn norm_silu(&mut self, norm: &GroupNorm, x: &Tensor) -> Result<NormSilu> {
        match &mut self.0 {
            Some(context) => context.norm_silu(norm, x),
            None => Ok(norm.silu_of(x, None)),
        }
    }

    /// Attention of `x` `[B, C, H, W]`.
    fn attention(&mut self, attn: &AttnBlock, x: &Tensor) -> Result<Tensor> {
        match &mut self.0 {
            Some(context) => context.attention(attn, x),
            None => Module::forward(attn, x),
        }
    }
}

/// A block that depends on the whole picture.
pub(crate) trait Block {
    /// The block's output for `x` `[B, C, H, W]`.
    fn forward(&self, x: &Tensor, whole: &mut Whole) -> Result<Tensor>;

    /// The same without candle's graph: the way back is put on `tape`.
    fn forward_taped(&self, x: &Tensor, tape: &mut Tape) -> Result<Tensor>;
}

impl Block for AttnBlock {
    fn forward(&self, x: &Tensor, whole: &mut Whole) -> Result<Tensor> {
        whole.attention(self, x)
    }

    fn forward_taped(&self, x: &Tensor, tape: &mut Tape) -> Result<Tensor> {
        Taped::forward_taped(self, x, tape)
    }
}

/// A module that knows its key prefix in the checkpoint.
#[derive(Debug, Clone)]
pub(crate) struct Named<M> {
    name: String,
    pub(crate) module: M,
}

impl<M> Named<M> {
    pub(crate) fn new<'a>(
        vb: VarBuilder<'a>,
        build: impl FnOnce(VarBuilder<'a>) -> Result<M>,
    ) -> Result<Self> {
        Ok(Self { name: vb.prefix(), module: build(vb)? })
    }
}

impl<M: Taped> Named<M> {
    pub(crate) fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        if let Some(tape) = &mut pass.tape {
            return self.module.forward_taped(x, tape);
        }
        let y = self.module.forward(x)?;
        pass.show(&self.name, &y);
        Ok(y)
    }
}

impl<M: Block> Named<M> {
    /// As [`forward`](Named::forward), of a block.
    pub(crate) fn forward_block(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        if let Some(tape) = &mut pass.tape {
            return self.module.forward_taped(x, tape);
        }
        let y = self.module.forward(x, &mut pass.whole)?;
        pass.show(&self.name, &y);
        Ok(y)
    }
}

impl Named<GroupNorm> {
    /// Norm and SiLU of `x`; an onlooker is shown what lies between them.
    pub(crate) fn forward_silu(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        if let Some(tape) = &mut pass.tape {
            return self.module.forward_silu_taped(x, tape);
        }
        if let Some(see) = &mut pass.see {
            see(&self.name, &self.module.forward(x)?);
        }
        pass.whole.norm_silu(&self.module, x)?.compute()
    }

    /// Norm, SiLU and the convolution `conv` of `x`, in one pass where that is to be had.
    pub(crate) fn forward_into(
        &self,
        conv: &Named<Conv2d>,
        x: &Tensor,
        pass: &mut Pass,
    ) -> Result<Tensor> {
        if pass.tape.is_some() {
            return conv.forward(&self.forward_silu(x, pass)?, pass);
        }
        if let Some(see) = &mut pass.see {
            see(&self.name, &self.module.forward(x)?);
        }
        let y = conv.module.forward_normed(&pass.whole.norm_silu(&self.module, x)?, None)?;
        pass.show(&conv.name, &y);
        Ok(y)
    }
}
