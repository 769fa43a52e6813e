//! The variables of a model under training, by name.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Result, bail, ensure};
use candle_core::{DType, Device, Shape, Tensor, Var};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use crate::foreach::{in_dtypes, round};
use crate::init::initial_value;

/// Where an autoencoder has its quantizer.
pub(crate) const QUANTIZER: &str = "quantize";

/// Last parts of names that belong to buffers of quantizers: state that a rule
/// of its own updates, never the optimiser.
const QUANTIZER_BUFFERS: [&str; 3] = ["cluster_size", "embed_avg", "codebook_used"];

/// Owns the variables of a model by name and makes them on first request.
///
/// It is the back end of a [`VarBuilder`]: a model built from
/// [`ParameterStore::var_builder`] shares its storage with this store. Values
/// come from (seed, name) and the layer's [`Init`] hint, see
/// [`initial_value`], until [`ParameterStore::load`] replaces them.
///
/// A model in half precision is given copies of f32 variables, rounded, and all else here
/// is about those masters: what the optimiser updates and checkpoints hold. An update is
/// often less than the distance to the next number in half precision; masters add such
/// updates up (Micikevicius et al. 2018, section 3.1). [`ParameterStore::refresh`] rounds
/// them anew.
#[derive(Clone)]
pub struct ParameterStore {
    seed: u64,
    variables: Arc<Mutex<BTreeMap<String, Variable>>>,
}

/// A parameter or buffer.
struct Variable {
    master: Var,
    /// What a model in half precision computes with.
    copy: Option<Var>,
}

impl ParameterStore {
    /// An empty store whose variables will be drawn from `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed, variables: Arc::default() }
    }

    /// A builder that hands this store's variables to a model: the masters, or in half
    /// precision their copies. Codebooks and buffers are f32 there too, because distances
    /// and running statistics need the digits. Models in f32 and in one half precision can
    /// be built over the same masters.
    pub fn var_builder(&self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), dtype, device.clone())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Variable>> {
        self.variables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `name` is a buffer (a running statistic, say) and not trained by
    /// gradients.
    pub fn is_buffer(name: &str) -> bool {
        let last = name.rsplit('.').next().unwrap_or(name);
        QUANTIZER_BUFFERS.contains(&last) || discriminator::is_buffer(name)
    }

    /// Whether `name` has no copy in half precision.
    fn is_never_rounded(name: &str) -> bool {
        name.split('.').next() == Some(QUANTIZER) || Self::is_buffer(name)
    }

    /// Everything, parameters and buffers, sorted by name.
    pub fn variables(&self) -> Vec<(String, Var)> {
        self.lock().iter().map(|(name, var)| (name.clone(), var.master.clone())).collect()
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
            Some(var) => Ok(var.master.clone()),
            None => bail!("the model has no parameter {name}"),
        }
    }

    /// The current values, sorted by name: cheap handles that later updates
    /// change too.
    pub fn tensors(&self) -> BTreeMap<String, Tensor> {
        let variables = self.lock();
        let tensors = variables.iter();
        tensors.map(|(name, var)| (name.clone(), var.master.as_detached_tensor())).collect()
    }

    /// The gradients of the parameters for which `find` has one, sorted by name: `find` is
    /// asked for what the model computes with, and what it has becomes the masters' dtype.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn gradients<'a>(
        &self,
        find: impl Fn(&Tensor) -> Option<&'a Tensor>,
    ) -> Result<Vec<(String, Tensor)>> {
        let variables = self.lock();
        let parameters = variables.iter().filter(|(name, _)| !Self::is_buffer(name));
        let found = parameters.filter_map(|(name, var)| {
            let gradient = find(var.copy.as_ref().unwrap_or(&var.master).as_tensor())?;
            Some((name.clone(), (gradient.clone(), var.master.dtype())))
        });
        let (names, gradients): (Vec<_>, Vec<_>) = found.unzip();
        Ok(names.into_iter().zip(in_dtypes(gradients)?).collect())
    }

    /// Brings the copies in half precision up to date: to be called after every change of
    /// the masters but those of [`ParameterStore::load`].
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn refresh(&self) -> Result<()> {
        refresh(&self.lock())
    }

    /// Replaces all values by `tensors`, for a resume or a fine-tune.
    ///
    /// # Errors
    /// One error naming every tensor that is missing, has no place here, or
    /// has another shape; nothing is changed then.
    pub fn load(&self, tensors: &HashMap<String, Tensor>) -> Result<()> {
        let variables = self.lock();
        let mut problems = Vec::new();
        for (name, Variable { master, .. }) in variables.iter() {
            match tensors.get(name) {
                None => problems.push(format!("{name} is missing")),
                Some(t) if t.shape() != master.shape() => {
                    problems.push(format!("{name} is {:?}, not {:?}", t.dims(), master.dims()));
                }
                Some(_) => {}
            }
        }
        let strangers = tensors.keys().filter(|name| !variables.contains_key(*name));
        problems.extend(strangers.map(|name| format!("{name} is not part of the model")));
        problems.sort();
        ensure!(problems.is_empty(), "the weights do not fit: {}", problems.join("; "));
        for (name, Variable { master, .. }) in variables.iter() {
            let value = tensors[name].to_dtype(master.dtype())?.to_device(master.device())?;
            master.set(&value.contiguous()?)?;
        }
        refresh(&variables)
    }
}

fn refresh(variables: &BTreeMap<String, Variable>) -> Result<()> {
    let copies = variables.values().filter_map(|var| Some((var.copy.as_ref()?, &var.master)));
    Ok(round(&copies.collect::<Vec<_>>())?)
}

impl Variable {
    /// What a model that asks for `dtype` is given.
    fn in_dtype(&mut self, name: &str, dtype: DType) -> candle_core::Result<Tensor> {
        if !is_half(dtype) || ParameterStore::is_never_rounded(name) {
            return Ok(self.master.as_tensor().clone());
        }
        let copy = match &self.copy {
            Some(copy) => copy,
            None => {
                let rounded = self.master.as_detached_tensor().to_dtype(dtype)?;
                self.copy.insert(Var::from_tensor(&rounded)?)
            }
        };
        if copy.dtype() != dtype {
            candle_core::bail!(
                "parameter {name} is asked for in {dtype:?} and has a copy in {:?}",
                copy.dtype()
            );
        }
        Ok(copy.as_tensor().clone())
    }
}

fn is_half(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
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
        if let Some(var) = variables.get_mut(name) {
            if var.master.shape() != &shape {
                candle_core::bail!(
                    "parameter {name} is asked for as {shape:?} and exists as {:?}",
                    var.master.shape()
                );
            }
            return var.in_dtype(name, dtype);
        }
        let kept = if is_half(dtype) { DType::F32 } else { dtype };
        let value = initial_value(self.seed, name, &shape, hint, kept, device)?;
        let mut var = Variable { master: Var::from_tensor(&value)?, copy: None };
        let given = var.in_dtype(name, dtype)?;
        variables.insert(name.to_string(), var);
        Ok(given)
    }

    fn get_unchecked(
        &self,
        name: &str,
        dtype: DType,
        _device: &Device,
    ) -> candle_core::Result<Tensor> {
        match self.lock().get_mut(name) {
            Some(var) => var.in_dtype(name, dtype),
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
    fn half_precision_is_rounded_from_masters_but_for_codebooks_and_buffers() -> Result<()> {
        let store = ParameterStore::new(1);
        let builders = [DType::F16, DType::F32].map(|dtype| store.var_builder(dtype, &Device::Cpu));
        let [half, whole] = builders;
        let layer = candle_nn::linear(2, 3, half.pp("head"))?;
        let exact = candle_nn::linear(2, 3, whole.pp("head"))?;
        assert_eq!((layer.weight().dtype(), exact.weight().dtype()), (DType::F16, DType::F32));
        for name in ["quantize.embedding.weight", "norm.running_mean"] {
            assert_eq!(half.get(4, name)?.dtype(), DType::F32, "{name}");
        }
        let third = Tensor::full(1f32 / 3.0, (3, 2), &Device::Cpu)?;
        let copy = |(name, var): (String, Var)| Ok((name, var.as_detached_tensor().copy()?));
        let mut tensors: HashMap<_, _> =
            store.variables().into_iter().map(copy).collect::<Result<_>>()?;
        tensors.insert("head.weight".to_string(), third.clone());
        store.load(&tensors)?;
        let rounded = third.to_dtype(DType::F16)?.to_dtype(DType::F32)?;
        golden::close("f16", &layer.weight().to_dtype(DType::F32)?, &rounded, 0.0)?;
        golden::close("f32", exact.weight(), &third, 0.0)?;
        // Gradients are those of what the layer computes with.
        let graph = layer.weight().sum_all()?.backward()?;
        let gradients = store.gradients(|parameter| graph.get(parameter))?;
        assert_eq!(gradients.len(), 1);
        assert_eq!((gradients[0].0.as_str(), gradients[0].1.dtype()), ("head.weight", DType::F32));
        let other = store.var_builder(DType::BF16, &Device::Cpu);
        let error = candle_nn::linear(2, 3, other.pp("head")).err().map(|e| e.to_string());
        assert!(error.is_some_and(|error| error.contains("has a copy in F16")));
        Ok(())
    }

    #[test]
    fn running_statistics_are_buffers() {
        assert!(ParameterStore::is_buffer("main.3.running_mean"));
        assert!(!ParameterStore::is_buffer("main.3.weight"));
    }
}
