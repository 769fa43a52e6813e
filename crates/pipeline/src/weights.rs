//! The weights of a codec out of a file that holds more than that.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use checkpoints::{KeyUse, LoadReport, TensorFile, expected_tensors, load_checked};
use vq_autoencoder::{VqConfig, VqModel};

use crate::error::Result;
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
        Ok(Self { config: found.config, tensors, file: found.weights })
    }
}

/// The weights by the names that the model gives them, in f32 on the CPU, and
/// what else the file holds.
pub(crate) fn load(found: &Found) -> Result<(BTreeMap<String, Tensor>, LoadReport)> {
    let file = TensorFile::open(&found.weights)?;
    let config = &found.config;
    let expected = expected_tensors(|vb| Ok(VqModel::new(config, vb)?))?
        .into_iter()
        .map(|(name, shape)| (format!("{}{name}", found.prefix), shape))
        .collect();
    let (tensors, report) =
        load_checked(&file, &expected, DType::F32, &Device::Cpu, &|name| key_use(found, name))?;
    let strip = |name: String| name.strip_prefix(found.prefix).map(str::to_owned).unwrap_or(name);
    Ok((tensors.into_iter().map(|(name, tensor)| (strip(name), tensor)).collect(), report))
}

/// What a key that the model does not need is.
fn key_use(found: &Found, name: &str) -> KeyUse {
    match name.strip_prefix(found.prefix) {
        Some(name) => checkpoints::reference_key_use(name),
        // The transformer around a first stage, its conditions and permuters.
        None => KeyUse::IgnorePart,
    }
}

/// The model of `config` with `tensors` in `dtype` on `device`.
pub(crate) fn build(
    found: &Found,
    tensors: BTreeMap<String, Tensor>,
    dtype: DType,
    device: &Device,
) -> Result<VqModel> {
    let tensors = tensors
        .into_iter()
        .map(|(name, tensor)| Ok((name, tensor.to_dtype(dtype)?.to_device(device)?)))
        .collect::<Result<HashMap<_, _>>>()?;
    Ok(VqModel::new(&found.config, VarBuilder::from_tensors(tensors, dtype, device))?)
}
