//! What a reference project file describes, and where its keys are.
//!
//! [`VqConfig::from_reference`] knows the autoencoders; here a transformer is
//! taken apart, whose checkpoint holds its first stage under a prefix.

use serde_json::Value;
use vq_autoencoder::VqConfig;

use crate::error::{Error, Result};

/// An autoencoder in a reference checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ReferenceModel {
    /// The architecture.
    pub(crate) config: VqConfig,
    /// What stands before every key of the autoencoder in the checkpoint:
    /// nothing, or `first_stage_model.` in a transformer's.
    pub(crate) prefix: &'static str,
}

/// The class name of a transformer over a first stage's codes.
const TRANSFORMER: &str = "Net2NetTransformer";
/// Where `Net2NetTransformer` keeps its first stage.
const FIRST_STAGE: &str = "first_stage_model.";

impl ReferenceModel {
    /// The autoencoder of a configuration's `target` and `params`; of a
    /// transformer's, the first stage.
    ///
    /// # Errors
    /// [`Error::Target`], naming the target, when it is not an autoencoder that
    /// is known here, or its parameters do not describe one.
    pub(crate) fn new(target: &str, params: &Value) -> Result<Self> {
        if class(target) != TRANSFORMER {
            let config = from_reference(target, params)?;
            return Ok(Self { config, prefix: "" });
        }
        let stage = &params["first_stage_config"];
        let Some(inner) = stage["target"].as_str() else {
            return Err(Error::Target {
                target: target.to_owned(),
                reason: "params.first_stage_config names no target, so there is no autoencoder \
                         to load"
                    .to_owned(),
            });
        };
        Ok(Self { config: from_reference(inner, &stage["params"])?, prefix: FIRST_STAGE })
    }
}

fn class(target: &str) -> &str {
    target.rsplit('.').next().unwrap_or(target)
}

fn from_reference(target: &str, params: &Value) -> Result<VqConfig> {
    VqConfig::from_reference(target, params)
        .map_err(|e| Error::Target { target: target.to_owned(), reason: e.to_string() })
}

#[cfg(test)]
#[path = "reference_target/tests.rs"]
mod tests;
