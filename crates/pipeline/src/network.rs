//! The two transformers behind one type, and their identity.

mod format;
mod weights;

use std::collections::{BTreeMap, HashMap};

use candle_core::Shape;
use candle_nn::VarBuilder;
use checkpoints::expected_tensors;
use cond_transformer::{BlockMatrices, Conditions, Gpt, Llama, NextCode, WeightFormat};

pub(crate) use self::format::{block_names, check_format, kept_as};
pub(crate) use self::weights::{NetworkWeights, check, load, transformer_sha256};
use crate::codec::LoadOptions;
use crate::error::{Error, Result};
use crate::transformer_config::Architecture;

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

    /// With `matrices` in blocks.
    fn with_blocks(
        architecture: &Architecture,
        matrices: &BlockMatrices,
        vb: VarBuilder,
    ) -> Result<Self> {
        Ok(match architecture {
            Architecture::Gpt(config) => Self::Gpt(Gpt::with_blocks(config, matrices, vb)?),
            Architecture::Llama(config) => Self::Llama(Llama::with_blocks(config, matrices, vb)?),
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

/// The network with `weights` as `options` want them, where they want them. Matrices that
/// are in blocks stay so.
pub(crate) fn build(
    architecture: &Architecture,
    weights: NetworkWeights,
    options: &LoadOptions,
) -> Result<Network> {
    let device = &options.device;
    let dtype = options.weights.map_or(options.dtype, WeightFormat::dtype);
    let numbers = weights
        .numbers
        .into_iter()
        .map(|(name, tensor)| Ok((name, tensor.to_dtype(dtype)?.to_device(device)?)))
        .collect::<Result<HashMap<_, _>>>()?;
    let vb = VarBuilder::from_tensors(numbers, dtype, device);
    match options.weights {
        _ if !weights.blocks.is_empty() => {
            Network::with_blocks(architecture, &BlockMatrices::new(weights.blocks), vb)
        }
        None => Network::new(architecture, vb),
        Some(format) => Network::with_format(architecture, format, vb),
    }
}
