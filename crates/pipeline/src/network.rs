//! The two transformers behind one type, and their identity.

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::VarBuilder;
use checkpoints::{KeyUse, LoadReport, TensorFile, expected_tensors, load_checked};
use cond_transformer::{Conditions, Gpt, Llama, NextCode, WeightFormat};
use sha2::{Digest, Sha256};

use crate::codec::LoadOptions;
use crate::error::{Error, Result};
use crate::transformer_config::{Architecture, TransformerConfig};

/// A transformer with its weights.
pub(crate) enum Network {
    Gpt(Gpt),
    Llama(Llama),
}

impl Network {
    /// With weights of the dtype of `vb`.
    pub(crate) fn new(architecture: &Architecture, vb: VarBuilder) -> Result<Self> {
        Ok(match architecture {
            Architecture::Gpt(config) => Self::Gpt(Gpt::new(config, vb)?),
            Architecture::Llama(config) => Self::Llama(Llama::new(config, vb)?),
        })
    }

    /// With weights of `format`.
    fn with_format(
        architecture: &Architecture,
        format: WeightFormat,
        vb: VarBuilder,
    ) -> Result<Self> {
        Ok(match architecture {
            Architecture::Gpt(config) => Self::Gpt(Gpt::with_format(config, format, vb)?),
            Architecture::Llama(config) => Self::Llama(Llama::with_format(config, format, vb)?),
        })
    }

    /// The seam that the sampler knows.
    pub(crate) fn model(&self) -> &dyn NextCode {
        match self {
            Self::Gpt(gpt) => gpt,
            Self::Llama(llama) => llama,
        }
    }

    /// What stands for no caption, one for each of `captions`.
    pub(crate) fn absent_captions(&self, captions: &Conditions) -> Result<Conditions> {
        match self {
            Self::Llama(llama) => Ok(llama.absent_conditions(captions)?),
            Self::Gpt(_) => {
                Err(Error::Condition("this model takes no captions as embeddings".to_owned()))
            }
        }
    }
}

/// The names and shapes of the weights of `architecture`, without allocating any.
pub(crate) fn expected(architecture: &Architecture) -> Result<BTreeMap<String, Shape>> {
    let network = |vb: VarBuilder<'_>| match Network::new(architecture, vb) {
        Ok(_) => Ok(()),
        Err(Error::Transformer(error)) => Err(error.into()),
        Err(error) => Err(candle_core::Error::wrap(error)),
    };
    Ok(expected_tensors(network)?)
}

/// The weights of a transformer by the network's names, in f32 on the CPU, of a
/// file in which they stand behind `prefix`.
pub(crate) fn load(
    file: &TensorFile,
    prefix: &str,
    architecture: &Architecture,
) -> Result<(BTreeMap<String, Tensor>, LoadReport)> {
    let expected = expected(architecture)?
        .into_iter()
        .map(|(name, shape)| (format!("{prefix}{name}"), shape))
        .collect();
    let key_use = |name: &str| match name.strip_prefix(prefix) {
        Some(name) => checkpoints::reference_key_use(name),
        // The stages beside a reference transformer, and its permuter.
        None => KeyUse::IgnorePart,
    };
    let (tensors, report) = load_checked(file, &expected, DType::F32, &Device::Cpu, &key_use)?;
    let strip = |name: String| name.strip_prefix(prefix).map(str::to_owned).unwrap_or(name);
    Ok((tensors.into_iter().map(|(name, tensor)| (strip(name), tensor)).collect(), report))
}

/// Refuses weights of `format` for what cannot have them, before anything is read.
pub(crate) fn check_format(
    architecture: &Architecture,
    format: WeightFormat,
    device: &Device,
) -> Result<()> {
    format.validate(device)?;
    let width = match architecture {
        Architecture::Gpt(config) => config.n_embd,
        Architecture::Llama(config) => config.dim,
    };
    match format.block() {
        Some(block) if !width.is_multiple_of(block) => Err(Error::Condition(format!(
            "this transformer cannot have weights of {format}: their rows are cut into blocks of \
             {block}, and its rows have {width} numbers; take bf16 or f16"
        ))),
        _ => Ok(()),
    }
}

/// The network with `tensors` as `options` want them, where they want them.
pub(crate) fn build(
    architecture: &Architecture,
    tensors: BTreeMap<String, Tensor>,
    options: &LoadOptions,
) -> Result<Network> {
    let LoadOptions { device, weights, .. } = options;
    let dtype = weights.map_or(options.dtype, WeightFormat::dtype);
    let tensors = tensors
        .into_iter()
        .map(|(name, tensor)| Ok((name, tensor.to_dtype(dtype)?.to_device(device)?)))
        .collect::<Result<HashMap<_, _>>>()?;
    let vb = VarBuilder::from_tensors(tensors, dtype, device);
    match *weights {
        None => Network::new(architecture, vb),
        Some(format) => Network::with_format(architecture, format, vb),
    }
}

/// The SHA-256, in lowercase hexadecimal, of what decides which codes a
/// transformer draws: its wiring, the order of its codes, and its weights, over
/// the values and not over the file (as a codec's).
///
/// Hashed are the line `synth-transformer 1 ARCHITECTURE CODES GRID ORDER`
/// (JSON), then for every tensor, sorted by name, the line `NAME [SHAPE]` and its
/// elements as little-endian f32.
pub(crate) fn transformer_sha256(
    config: &TransformerConfig,
    order: &[u32],
    tensors: &BTreeMap<String, Tensor>,
) -> Result<String> {
    let wiring = serde_json::to_string(&(&config.architecture, config.codes, config.grid, order))
        .map_err(|e| Error::model("config.json", e.to_string()))?;
    let mut hash = Sha256::new();
    hash.update(format!("synth-transformer 1 {wiring}\n").as_bytes());
    for (name, tensor) in tensors {
        hash.update(format!("{name} {:?}\n", tensor.dims()).as_bytes());
        let values = tensor.flatten_all()?.to_vec1::<f32>()?;
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        hash.update(&bytes);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
