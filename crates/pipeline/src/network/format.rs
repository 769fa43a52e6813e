//! What a transformer's weights are kept as, and which of them in blocks.

use std::collections::BTreeMap;

use candle_core::Device;
use candle_core::quantized::GgmlDType;
use checkpoints::expected_tensors;
use cond_transformer::{Gpt, Llama, WeightFormat};

use crate::error::{Error, Result};
use crate::transformer_config::{Architecture, TransformerConfig};

/// What the weights are kept as: what is `asked` for, or what they are stored in blocks of.
///
/// # Errors
/// When they are in other blocks than those: what was rounded cannot be had back.
pub(crate) fn kept_as(
    config: &TransformerConfig,
    asked: Option<WeightFormat>,
) -> Result<Option<WeightFormat>> {
    match (config.weights, asked) {
        (Some(stored), Some(asked)) if stored != asked => Err(Error::Condition(format!(
            "the weights of this model are stored as {stored}, and {asked} cannot be made of \
             them: leave --weights out, or take the model that they were made of"
        ))),
        (stored, asked) => Ok(stored.or(asked)),
    }
}

/// Refuses weights of `format` for what cannot have them, before anything is read.
pub(crate) fn check_format(
    architecture: &Architecture,
    format: WeightFormat,
    device: &Device,
) -> Result<()> {
    format.validate(device)?;
    let width = architecture.width();
    match format.block() {
        Some(block) if !width.is_multiple_of(block) => Err(Error::Condition(format!(
            "this transformer cannot have weights of {format}: their rows are cut into blocks of \
             {block}, and its rows have {width} numbers; take bf16 or f16"
        ))),
        _ => Ok(()),
    }
}

/// The matrices that are in blocks under `format`, by the network's names, and in which.
pub(crate) fn block_names(
    architecture: &Architecture,
    format: WeightFormat,
) -> Result<BTreeMap<String, GgmlDType>> {
    let mut names = BTreeMap::new();
    expected_tensors(|vb| {
        names = match architecture {
            Architecture::Gpt(config) => Gpt::block_names(config, format, vb)?,
            Architecture::Llama(config) => Llama::block_names(config, format, vb)?,
        };
        Ok(())
    })?;
    Ok(names)
}
