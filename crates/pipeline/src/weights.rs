//! The weights of a codec out of a file that holds more than that.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use checkpoints::{KeyUse, LoadReport, expected_tensors, load_checked};
use vq_autoencoder::{VqConfig, VqModel};

use crate::error::Result;
use crate::families;
use crate::model_spec::{Found, ModelSpec};

/// A codec that is not built yet: what training goes on from.
#[derive(Debug)]
pub struct CodecWeights {
    /// The architecture.
    pub config: VqConfig,
    /// The weights, in f32 on the CPU, under the names of [`VqModel`].
    pub tensors: BTreeMap<String, Tensor>,
    /// The file they are from, which may hold more.
    pub file: PathBuf,
}

impl CodecWeights {
    /// Finds a model and reads its weights, checked against its configuration name by
    /// name.
    ///
    /// # Errors
    /// As [`Codec::load`](crate::Codec::load).
    pub fn load(spec: &ModelSpec) -> Result<Self> {
        let found = spec.find()?;
        let (tensors, _) = load(&found)?;
        Ok(Self { config: found.config, tensors, file: found.weights.file.path().to_path_buf() })
    }
}

/// The names and shapes of the weights of `config`, without allocating any.
pub(crate) fn expected(config: &VqConfig) -> Result<BTreeMap<String, Shape>> {
    Ok(expected_tensors(|vb| Ok(VqModel::new(config, vb)?))?)
}

/// The weights by the names that the model gives them, in f32 on the CPU, and
/// what else the file holds.
pub(crate) fn load(found: &Found) -> Result<(BTreeMap<String, Tensor>, LoadReport)> {
    let families::CodecWeights { file, prefix, .. } = &found.weights;
    let expected = expected(&found.config)?
        .into_iter()
        .map(|(name, shape)| (format!("{prefix}{name}"), shape))
        .collect();
    let (tensors, report) =
        load_checked(file, &expected, DType::F32, &Device::Cpu, &|name| key_use(prefix, name))?;
    let strip = |name: String| name.strip_prefix(prefix).map(str::to_owned).unwrap_or(name);
    Ok((tensors.into_iter().map(|(name, tensor)| (strip(name), tensor)).collect(), report))
}

/// What a key that the codec below `prefix` does not need is.
pub(crate) fn key_use(prefix: &str, name: &str) -> KeyUse {
    match name.strip_prefix(prefix) {
        Some(name) => checkpoints::reference_key_use(name),
        // The transformer around a first stage, its conditions and permuters.
        None => KeyUse::IgnorePart,
    }
}

/// The model of `config` with `tensors` in `dtype` on `device`. On a CPU half precision is how
/// convolutions keep their weights; all else, feature maps too, is f32 there.
pub(crate) fn build(
    found: &Found,
    tensors: BTreeMap<String, Tensor>,
    dtype: DType,
    device: &Device,
) -> Result<VqModel> {
    let keeps_all = !device.is_cpu() || dtype == DType::F32;
    let tensors = tensors
        .into_iter()
        .map(|(name, tensor)| {
            let kept = if keeps_all || tensor.rank() == 4 { dtype } else { DType::F32 };
            Ok((name, tensor.to_dtype(kept)?.to_device(device)?))
        })
        .collect::<Result<HashMap<_, _>>>()?;
    let vb = VarBuilder::from_backend(Box::new(Stored(tensors)), dtype, device.clone());
    Ok(VqModel::new(&found.config, vb)?)
}

/// Tensors in the dtypes that they have.
struct Stored(HashMap<String, Tensor>);

impl SimpleBackend for Stored {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        _: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let tensor = self.get_unchecked(name, DType::F32, device)?;
        if *tensor.shape() != shape {
            candle_core::bail!("{name} is {:?}, not {shape:?}", tensor.shape())
        }
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        match self.0.get(name) {
            Some(tensor) => Ok(tensor.clone()),
            None => candle_core::bail!("no tensor {name}"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}
