//! One forward pass: who looks on, and which statistics its group norms use.

use candle_core::{Module, Result, Tensor};
use candle_nn::VarBuilder;
use layers::{AttnBlock, GroupNorm};

use crate::tile_statistics::TileStatistics;

/// Gets a module's name and its output.
type See<'a> = &'a mut dyn FnMut(&str, &Tensor);

/// What a forward pass takes along besides the feature map.
#[derive(Default)]
pub(crate) struct Pass<'a> {
    see: Option<See<'a>>,
    norms: Norms<'a>,
}

impl<'a> Pass<'a> {
    /// A pass that nobody looks at, of a picture that is whole.
    pub(crate) fn plain() -> Self {
        Self::default()
    }

    /// `see(name, output)` is called for every named module, in order.
    pub(crate) fn observed(see: See<'a>) -> Self {
        Self { see: Some(see), norms: Norms(None) }
    }

    /// The pass of a tile.
    pub(crate) fn tile(statistics: &'a mut TileStatistics) -> Self {
        Self { see: None, norms: Norms(Some(statistics)) }
    }

    /// Shows an output that the pass computes anyway.
    fn show(&mut self, name: &str, output: &Tensor) {
        if let Some(see) = &mut self.see {
            see(name, output);
        }
    }
}

/// The group norms of a pass: each by itself, or as the picture's tiles agree.
#[derive(Default)]
pub(crate) struct Norms<'a>(Option<&'a mut TileStatistics>);

impl Norms<'_> {
    /// Norm of `x` `[B, C, H, W]`.
    pub(crate) fn forward(&mut self, norm: &GroupNorm, x: &Tensor) -> Result<Tensor> {
        match &mut self.0 {
            Some(statistics) => statistics.group_norm(norm, x, false),
            None => norm.forward(x),
        }
    }

    /// Norm and SiLU of `x` `[B, C, H, W]`.
    pub(crate) fn forward_silu(&mut self, norm: &GroupNorm, x: &Tensor) -> Result<Tensor> {
        match &mut self.0 {
            Some(statistics) => statistics.group_norm(norm, x, true),
            None => norm.forward_silu(x),
        }
    }
}

/// A block with group norms inside.
pub(crate) trait Normed {
    /// The block's output for `x` `[B, C, H, W]`.
    fn forward(&self, x: &Tensor, norms: &mut Norms) -> Result<Tensor>;
}

impl Normed for AttnBlock {
    fn forward(&self, x: &Tensor, norms: &mut Norms) -> Result<Tensor> {
        self.forward_normed(x, &norms.forward(self.norm(), x)?)
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

impl<M: Module> Named<M> {
    pub(crate) fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let y = self.module.forward(x)?;
        pass.show(&self.name, &y);
        Ok(y)
    }
}

impl<M: Normed> Named<M> {
    /// As [`forward`](Named::forward), of a block.
    pub(crate) fn forward_block(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let y = self.module.forward(x, &mut pass.norms)?;
        pass.show(&self.name, &y);
        Ok(y)
    }
}

impl Named<GroupNorm> {
    /// Norm and SiLU of `x`; an onlooker is shown what lies between them.
    pub(crate) fn forward_silu(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        if let Some(see) = &mut pass.see {
            see(&self.name, &self.module.forward(x)?);
        }
        pass.norms.forward_silu(&self.module, x)
    }
}
