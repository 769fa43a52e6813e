//! An exponential moving average of a model's weights.

use anyhow::{Context, Result};
use candle_core::DType;

use crate::foreach::follow;
use crate::store::ParameterStore;

/// A second model whose parameters follow the trained ones slowly. It has less
/// of the noise of single batches and is what a run hands out.
pub struct Average<M> {
    decay: f64,
    /// The averaged variables.
    pub parameters: ParameterStore,
    /// The model over them.
    pub model: M,
}

impl<M> Average<M> {
    /// A model that will follow `source`, and equals it now; `build` makes it over
    /// variables of its own.
    ///
    /// # Errors
    /// If the model cannot be built.
    pub fn new(
        decay: f64,
        source: &ParameterStore,
        build: impl FnOnce(&ParameterStore) -> Result<M>,
    ) -> Result<Self> {
        let parameters = ParameterStore::new(0);
        let model = build(&parameters)?;
        parameters.load(&source.tensors().into_iter().collect())?;
        Ok(Self { decay, parameters, model })
    }

    /// Moves every parameter `1 - decay` of the way to `source`, after `step`
    /// updates of it; buffers are copied. Early on the decay is only
    /// `(1 + step) / (10 + step)`, so that initial weights are soon forgotten.
    ///
    /// # Errors
    /// If `source` has not the same variables.
    pub fn follow(&self, source: &ParameterStore, step: u64) -> Result<()> {
        let step = step as f64;
        let gain = (1.0 - self.decay.min((1.0 + step) / (10.0 + step))) as f32;
        let mut pairs = Vec::new();
        for (name, average) in self.parameters.variables() {
            let current = source.variable(&name).with_context(|| "weight average")?;
            if ParameterStore::is_buffer(&name) || average.dtype() != DType::F32 {
                average.set(&current.as_detached_tensor())?;
            } else {
                pairs.push((average, current));
            }
        }
        follow(&pairs, gain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TrainConfig;
    use candle_core::Device;
    use vq_autoencoder::VqModel;

    #[test]
    fn the_average_moves_towards_the_weights() -> Result<()> {
        let (config, device) = (TrainConfig::default().model, Device::Cpu);
        let source = ParameterStore::new(1);
        let build = |store: &ParameterStore| {
            Ok(VqModel::new(&config, store.var_builder(DType::F32, &device))?)
        };
        build(&source)?;
        let average = Average::new(0.5, &source, build)?;
        let (name, name_var) = ("decoder.conv_out.bias", source.variable("decoder.conv_out.bias")?);
        name_var.set(&name_var.zeros_like()?)?;
        average.parameters.variable(name)?.set(&name_var.ones_like()?)?;
        // Step 1: the decay is 2 / 11.
        average.follow(&source, 1)?;
        let value = average.parameters.variable(name)?.to_vec1::<f32>()?[0];
        assert!((value - 2.0 / 11.0).abs() < 1e-6, "{value}");
        average.follow(&source, 1000)?;
        let value = average.parameters.variable(name)?.to_vec1::<f32>()?[0];
        assert!((value - 1.0 / 11.0).abs() < 1e-6, "{value}");
        Ok(())
    }
}
