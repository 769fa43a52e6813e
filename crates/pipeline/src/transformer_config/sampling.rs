//! How codes are drawn where the user says nothing.

use cond_transformer::Sampling;
use serde::{Deserialize, Serialize};

use super::TransformerConfig;
use crate::error::{Error, Result};

/// How to sample where the user says nothing.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct SamplingDefaults {
    /// Divides the logits.
    pub temperature: f64,
    /// Keeps the k largest logits; none: all.
    pub top_k: Option<usize>,
    /// Keeps the likeliest codes up to this probability; 1: all.
    pub top_p: f64,
    /// Guidance towards the condition; 1: none.
    pub cfg_scale: f64,
}

impl Default for SamplingDefaults {
    fn default() -> Self {
        Self { temperature: 1.0, top_k: None, top_p: 1.0, cfg_scale: 1.0 }
    }
}

impl SamplingDefaults {
    /// As the sampler takes it, guidance apart.
    pub fn sampling(&self) -> Sampling {
        let Self { temperature, top_k, top_p, .. } = *self;
        Sampling { greedy: false, temperature, top_k, top_p }
    }

    /// The same but for what `change` says.
    ///
    /// # Errors
    /// When that means nothing, naming the option.
    pub fn changed(&self, change: &SamplingChange) -> Result<Self> {
        let changed = Self {
            temperature: change.temperature.unwrap_or(self.temperature),
            top_k: change.top_k.unwrap_or(self.top_k),
            top_p: change.top_p.unwrap_or(self.top_p),
            cfg_scale: change.cfg_scale.unwrap_or(self.cfg_scale),
        };
        changed.validate()?;
        Ok(changed)
    }

    pub(super) fn validate(&self) -> Result<()> {
        self.sampling().validate()?;
        if !(self.cfg_scale.is_finite() && self.cfg_scale >= 1.0) {
            return Err(Error::Condition(format!(
                "cfg-scale {} is not a number of at least 1; 1 is no guidance",
                self.cfg_scale
            )));
        }
        Ok(())
    }
}

/// What of [`SamplingDefaults`] is to be otherwise; none: nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SamplingChange {
    /// Divides the logits.
    pub temperature: Option<f64>,
    /// Keeps the k largest logits; none inside: all.
    pub top_k: Option<Option<usize>>,
    /// Keeps the likeliest codes up to this probability; 1: all.
    pub top_p: Option<f64>,
    /// Guidance towards the condition; 1: none.
    pub cfg_scale: Option<f64>,
}

impl SamplingChange {
    /// Whether nothing is to be otherwise.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl TransformerConfig {
    /// Changes how codes are drawn where the user says nothing.
    ///
    /// # Errors
    /// When that means nothing, or the model, having been trained under its condition alone,
    /// cannot be guided.
    pub(crate) fn change_sampling(&mut self, change: &SamplingChange) -> Result<()> {
        self.sampling = self.sampling.changed(change)?;
        let guided = change.cfg_scale.is_some_and(|scale| scale > 1.0);
        if guided && !self.condition.can_be_absent() {
            return Err(Error::unguided());
        }
        Ok(())
    }
}
