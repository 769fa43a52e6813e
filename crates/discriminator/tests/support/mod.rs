//! A store of variables made on demand, for tests and the example.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Result, Shape, Tensor, Var};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// `count` numbers in `[-1, 1)`.
pub fn noise(seed: u64, count: usize) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| f64::from(rng.next_u32()) / f64::from(1_u32 << 31) - 1.0).collect()
}

/// Noise of the given shape, f64.
pub fn noise_tensor(seed: u64, shape: impl Into<Shape>) -> Result<Tensor> {
    let shape = shape.into();
    Tensor::from_vec(noise(seed, shape.elem_count()), shape, &Device::Cpu)
}

/// Variables by name; a fresh one follows the constructor's hint (uniform noise of
/// its deviation), in the order of asking.
#[derive(Clone, Default)]
pub struct Variables(Arc<Mutex<HashMap<String, Var>>>);

impl Variables {
    /// A builder over this store.
    pub fn builder(&self, dtype: DType) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), dtype, Device::Cpu)
    }

    /// All variables, sorted by name.
    pub fn all(&self) -> Vec<(String, Var)> {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = map.iter().map(|(name, var)| (name.clone(), var.clone())).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }
}

impl SimpleBackend for Variables {
    fn get(&self, s: Shape, name: &str, h: Init, dtype: DType, dev: &Device) -> Result<Tensor> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(var) = map.get(name) {
            return Ok(var.as_tensor().clone());
        }
        let (mean, half_width) = match h {
            Init::Const(value) => (value, 0.0),
            Init::Randn { mean, stdev } => (mean, stdev * 3.0_f64.sqrt()),
            Init::Uniform { lo, up } => ((lo + up) / 2.0, (up - lo) / 2.0),
            Init::Kaiming { .. } => candle_core::bail!("{name}: no such hint here"),
        };
        let values = (noise_tensor(map.len() as u64, s)? * half_width)? + mean;
        let var = Var::from_tensor(&values?.to_dtype(dtype)?.to_device(dev)?)?;
        map.insert(name.to_string(), var.clone());
        Ok(var.into_inner())
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle_core::bail!("{name}: a shape is needed")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}
