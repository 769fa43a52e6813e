//! The sizes of a minGPT-style model.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Bounds of what a configuration may ask for; files are not trusted.
pub(crate) mod limits {
    pub(crate) const VOCABULARY: usize = 1 << 22;
    pub(crate) const CONTEXT: usize = 1 << 16;
    pub(crate) const LAYERS: usize = 1 << 10;
    pub(crate) const WIDTH: usize = 1 << 16;
}

/// Refuses a `value` outside `1..=limit`.
pub(crate) fn within(what: &'static str, field: &str, value: usize, limit: usize) -> Result<()> {
    if value == 0 || value > limit {
        return Err(Error::Config {
            what,
            why: format!("{field} is {value}; give it 1 to {limit}"),
        });
    }
    Ok(())
}

/// The sizes of a [`Gpt`](super::Gpt), named as in the reference
/// (`taming.modules.transformer.mingpt.GPT`).
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct GptConfig {
    /// Rows of the one table that condition tokens and codes share.
    pub vocab_size: usize,
    /// Positions: condition and codes together, less one.
    pub block_size: usize,
    /// Blocks.
    pub n_layer: usize,
    /// Attention heads; divides `n_embd`.
    pub n_head: usize,
    /// Width.
    pub n_embd: usize,
    /// The first so many positions see each other, not only earlier ones.
    #[serde(default)]
    pub n_unmasked: usize,
}

impl GptConfig {
    /// Checks every size, and that they fit together.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn validate(&self) -> Result<()> {
        const WHAT: &str = "GPT configuration";
        within(WHAT, "vocab_size", self.vocab_size, limits::VOCABULARY)?;
        within(WHAT, "block_size", self.block_size, limits::CONTEXT)?;
        within(WHAT, "n_layer", self.n_layer, limits::LAYERS)?;
        within(WHAT, "n_embd", self.n_embd, limits::WIDTH)?;
        within(WHAT, "n_head", self.n_head, self.n_embd)?;
        if !self.n_embd.is_multiple_of(self.n_head) {
            return Err(Error::Config {
                what: WHAT,
                why: format!("n_embd {} is no multiple of n_head {}", self.n_embd, self.n_head),
            });
        }
        if self.n_unmasked > self.block_size {
            return Err(Error::Config {
                what: WHAT,
                why: format!(
                    "n_unmasked {} is more than block_size {}",
                    self.n_unmasked, self.block_size
                ),
            });
        }
        Ok(())
    }
}
