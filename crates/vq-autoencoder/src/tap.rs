//! A look inside: the outputs of named modules during one forward pass.

use candle_core::{Module, Result, Tensor};
use candle_nn::VarBuilder;

/// Gets a module's name and its output.
type See<'a> = &'a mut dyn FnMut(&str, &Tensor);

/// Sees each named module's output, if anyone looks.
pub(crate) struct Tap<'a>(Option<See<'a>>);

impl<'a> Tap<'a> {
    /// Nobody looks.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// `see(name, output)` is called for every named module, in order.
    pub(crate) fn new(see: See<'a>) -> Self {
        Self(Some(see))
    }

    /// Shows an output that the pass computes anyway.
    fn show(&mut self, name: &str, output: &Tensor) {
        if let Some(see) = &mut self.0 {
            see(name, output);
        }
    }

    /// Shows an output that only the onlooker wants computed.
    pub(crate) fn show_extra(
        &mut self,
        name: &str,
        output: impl FnOnce() -> Result<Tensor>,
    ) -> Result<()> {
        if let Some(see) = &mut self.0 {
            see(name, &output()?);
        }
        Ok(())
    }
}

/// A module that knows its key prefix in the checkpoint.
#[derive(Debug, Clone)]
pub(crate) struct Named<M> {
    pub(crate) name: String,
    pub(crate) module: M,
}

impl<M: Module> Named<M> {
    pub(crate) fn new<'a>(
        vb: VarBuilder<'a>,
        build: impl FnOnce(VarBuilder<'a>) -> Result<M>,
    ) -> Result<Self> {
        Ok(Self { name: vb.prefix(), module: build(vb)? })
    }

    pub(crate) fn forward(&self, x: &Tensor, tap: &mut Tap) -> Result<Tensor> {
        let y = self.module.forward(x)?;
        tap.show(&self.name, &y);
        Ok(y)
    }
}
