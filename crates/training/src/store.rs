//! The variables of a model under training, by name.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Result, bail, ensure};
use candle_core::{DType, Device, Shape, Tensor, Var};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use crate::init::initial_value;

/// Last parts of names that belong to buffers of quantizers: state that a rule
/// of its own updates, never the optimiser.
const QUANTIZER_BUFFERS: [&str; 3] = ["cluster_size", "embed_avg", "codebook_used"];

/// Owns the variables of a model by name and makes them on first request.
///
/// It is the back end of a [`VarBuilder`]: a model built from
/// [`ParameterStore::var_builder`] shares its storage with this store. Values
/// come from (seed, name) and the layer's [`Init`] hint, see
/// [`initial_value`], until [`ParameterStore::load`] replaces them.
#[derive(Clone)]
pub struct ParameterStore {
    seed: u64,
    variables: Arc<Mutex<BTreeMap<String, Var>>>,
}

impl ParameterStore {
    /// An empty store whose variables will be drawn from `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed, variables: Arc::default() }
    }

    /// A builder that hands this store's variables to a model.
    pub fn var_builder(&self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), dtype, device.clone())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Var>> {
        self.variables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `name` is a buffer (a running statistic, say) and not trained by
    /// gradients.
    pub fn is_buffer(name: &str) -> bool {
        let last = name.rsplit('.').next().unwrap_or(name);
        QUANTIZER_BUFFERS.contains(&last) || discriminator::is_buffer(name)
    }

    /// Everything, parameters and buffers, sorted by name.
    pub fn variables(&self) -> Vec<(String, Var)> {
        self.lock().iter().map(|(name, var)| (name.clone(), var.clone())).collect()
    }

    /// What the optimiser trains, sorted by name.
    pub fn parameters(&self) -> Vec<(String, Var)> {
        let mut variables = self.variables();
        variables.retain(|(name, _)| !Self::is_buffer(name));
        variables
    }

    /// The variable `name`.
    ///
    /// # Errors
    /// If no model asked for that name.
    pub fn variable(&self, name: &str) -> Result<Var> {
        match self.lock().get(name) {
            Some(var) => Ok(var.clone()),
            None => bail!("the model has no parameter {name}"),
        }
    }

    /// The current values, sorted by name: cheap handles that later updates
    /// change too.
    pub fn tensors(&self) -> BTreeMap<String, Tensor> {
        self.lock().iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect()
    }

    /// The gradients of the parameters for which `find` has one, sorted by name.
    pub fn gradients<'a>(
        &self,
        find: impl Fn(&Tensor) -> Option<&'a Tensor>,
    ) -> Vec<(String, Tensor)> {
        let parameters = self.parameters().into_iter();
        parameters
            .filter_map(|(name, var)| find(var.as_tensor()).map(|grad| (name, grad.clone())))
            .collect()
    }

    /// Replaces all values by `tensors`, for a resume or a fine-tune.
    ///
    /// # Errors
    /// One error naming every tensor that is missing, has no place here, or
    /// has another shape; nothing is changed then.
    pub fn load(&self, tensors: &HashMap<String, Tensor>) -> Result<()> {
        let variables = self.lock();
        let mut problems = Vec::new();
        for (name, var) in variables.iter() {
            match tensors.get(name) {
                None => problems.push(format!("{name} is missing")),
                Some(t) if t.shape() != var.shape() => {
                    problems.push(format!("{name} is {:?}, not {:?}", t.dims(), var.dims()));
                }
                Some(_) => {}
            }
        }
        let strangers = tensors.keys().filter(|name| !variables.contains_key(*name));
        problems.extend(strangers.map(|name| format!("{name} is not part of the model")));
        problems.sort();
        ensure!(problems.is_empty(), "the weights do not fit: {}", problems.join("; "));
        for (name, var) in variables.iter() {
            let value = tensors[name].to_dtype(var.dtype())?.to_device(var.device())?;
            var.set(&value.contiguous()?)?;
        }
        Ok(())
    }
}

impl SimpleBackend for ParameterStore {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        hint: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let mut variables = self.lock();
        if let Some(var) = variables.get(name) {
            if var.shape() != &shape {
                candle_core::bail!(
                    "parameter {name} is asked for as {shape:?} and exists as {:?}",
                    var.shape()
                );
            }
            return Ok(var.as_tensor().clone());
        }
        let value = initial_value(self.seed, name, &shape, hint, dtype, device)?;
        let var = Var::from_tensor(&value)?;
        variables.insert(name.to_string(), var.clone());
        Ok(var.as_tensor().clone())
    }

    fn get_unchecked(
        &self,
        name: &str,
        _dtype: DType,
        _device: &Device,
    ) -> candle_core::Result<Tensor> {
        match self.lock().get(name) {
            Some(var) => Ok(var.as_tensor().clone()),
            None => candle_core::bail!("parameter {name} has no shape yet"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.lock().contains_key(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_and_its_store_share_variables() -> Result<()> {
        let store = ParameterStore::new(1);
        let vb = store.var_builder(DType::F32, &Device::Cpu);
        let layer = candle_nn::linear(2, 3, vb.pp("head"))?;
        let names: Vec<_> = store.parameters().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["head.bias", "head.weight"]);
        store.variable("head.weight")?.set(&Tensor::ones((3, 2), DType::F32, &Device::Cpu)?)?;
        assert_eq!(layer.weight().sum_all()?.to_scalar::<f32>()?, 6.0);
        Ok(())
    }

    #[test]
    fn loading_names_every_misfit_and_changes_nothing() -> Result<()> {
        let store = ParameterStore::new(1);
        candle_nn::linear(2, 3, store.var_builder(DType::F32, &Device::Cpu))?;
        let before = store.variable("weight")?.copy()?;
        let wrong = Tensor::zeros((2, 2), DType::F32, &Device::Cpu)?;
        let tensors =
            HashMap::from([("weight".to_string(), wrong.clone()), ("extra".to_string(), wrong)]);
        let error = store.load(&tensors).err().map(|e| e.to_string()).unwrap_or_default();
        for part in ["bias is missing", "weight is [2, 2]", "extra is not part"] {
            assert!(error.contains(part), "{error}");
        }
        golden::close("weight", &*store.variable("weight")?, &before, 0.0)
    }

    #[test]
    fn running_statistics_are_buffers() {
        assert!(ParameterStore::is_buffer("main.3.running_mean"));
        assert!(!ParameterStore::is_buffer("main.3.weight"));
    }
}
