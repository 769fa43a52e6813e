//! Classifier-free guidance.

use candle_core::Tensor;

use crate::{Conditions, Error, Result};

/// Classifier-free guidance (Ho & Salimans 2022) over logits:
/// `u + scale * (c - u)`, c under the condition, u under its absence.
#[derive(Clone, Debug)]
pub struct Guidance<C = Conditions> {
    /// 1 is no guidance; larger follows the condition more closely.
    pub scale: f64,
    /// After this many codes behind the first guided one, only the condition
    /// counts (LlamaGen's `cfg_interval`); none: all codes are guided.
    pub interval: Option<usize>,
    /// What stands for no condition, one for each sample.
    pub absent: C,
}

impl<C> Guidance<C> {
    /// Checks the scale.
    ///
    /// # Errors
    /// If the scale is not a finite number of at least 1.
    pub fn validate(&self) -> Result<()> {
        if !(self.scale.is_finite() && self.scale >= 1.0) {
            return Err(Error::Sampling(format!(
                "guidance scale {} is not a number of at least 1",
                self.scale
            )));
        }
        Ok(())
    }

    /// The same guidance with its absent conditions in another form.
    pub(crate) fn prepare<D>(&self, form: impl FnOnce(&C) -> Result<D>) -> Result<Guidance<D>> {
        Ok(Guidance { scale: self.scale, interval: self.interval, absent: form(&self.absent)? })
    }

    /// Guided logits `[B, V]` of `[2 B, V]`, conditional rows first, for the code
    /// at `position` of the sequence (0 is the first that was drawn).
    pub(crate) fn combine(&self, logits: &Tensor, position: usize) -> Result<Tensor> {
        let batch = logits.dim(0)? / 2;
        let with = logits.narrow(0, 0, batch)?;
        // The reference counts decode steps, which begin with the second code.
        if self.interval.is_some_and(|interval| position > interval + 1) {
            return Ok(with);
        }
        let without = logits.narrow(0, batch, batch)?;
        Ok((&without + ((with - &without)? * self.scale)?)?)
    }
}
