//! How a code is drawn.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How a code is drawn: temperature, then top-k, then top-p, in that order.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// Takes the likeliest code, the lowest of equals; nothing else matters then.
    pub greedy: bool,
    /// Divides the logits.
    pub temperature: f64,
    /// Keeps the k largest logits, and any equal to the k-th.
    pub top_k: Option<usize>,
    /// Keeps the likeliest codes up to and with the one that brings their summed
    /// probability above this (nucleus sampling, Holtzman et al. 2020); 1 keeps all.
    pub top_p: f64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { greedy: false, temperature: 1.0, top_k: None, top_p: 1.0 }
    }
}

impl Sampling {
    /// The likeliest code at every position.
    pub fn greedy() -> Self {
        Self { greedy: true, ..Self::default() }
    }

    /// Checks that every option means something.
    ///
    /// # Errors
    /// [`Error::Sampling`] naming the option.
    pub fn validate(&self) -> Result<()> {
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return Err(Error::Sampling(format!(
                "temperature {} is not above 0; for the likeliest code use greedy",
                self.temperature
            )));
        }
        if self.top_k == Some(0) {
            return Err(Error::Sampling(
                "top-k 0 keeps no code; leave it out to keep all".to_owned(),
            ));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::Sampling(format!(
                "top-p {} is outside (0, 1]; 1 keeps all codes",
                self.top_p
            )));
        }
        Ok(())
    }
}
