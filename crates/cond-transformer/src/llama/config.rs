//! The sizes of a LlamaGen-style model.

use serde::{Deserialize, Serialize};

use crate::gpt::{limits, within};
use crate::{Error, Result};

/// What stands in front of the codes of a [`Llama`](super::Llama).
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum PrefixConfig {
    /// One position with the embedding of a class; class number `classes` stands
    /// for none.
    Class {
        /// The number of classes.
        classes: usize,
    },
    /// Text embeddings, projected to the model's width.
    Caption {
        /// Width of a text embedding.
        dim: usize,
        /// Positions; captions are padded on the left to as many.
        positions: usize,
    },
}

/// The sizes of a [`Llama`](super::Llama), named as in the reference
/// (LlamaGen, `autoregressive/models/gpt.py`, `ModelArgs`).
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct LlamaConfig {
    /// Codes.
    pub vocab_size: usize,
    /// Codes of a picture, a square number.
    pub block_size: usize,
    /// Width.
    pub dim: usize,
    /// Blocks.
    pub n_layer: usize,
    /// Attention heads; `dim / n_head` is a multiple of 4.
    pub n_head: usize,
    /// Heads of keys and values; divides `n_head`, which it is by default.
    #[serde(default)]
    pub n_kv_head: Option<usize>,
    /// The hidden width of the feed-forward part is a multiple of this.
    #[serde(default = "default_multiple_of")]
    pub multiple_of: usize,
    /// Widens the feed-forward part.
    #[serde(default)]
    pub ffn_dim_multiplier: Option<f64>,
    /// Base of the rotary angles.
    #[serde(default = "default_rope_base")]
    pub rope_base: f64,
    /// Added to the mean square of the norms.
    #[serde(default = "default_norm_eps")]
    pub norm_eps: f64,
    /// What stands in front of the codes.
    pub prefix: PrefixConfig,
}

fn default_multiple_of() -> usize {
    256
}

fn default_rope_base() -> f64 {
    10000.0
}

fn default_norm_eps() -> f64 {
    1e-5
}

const WHAT: &str = "LlamaGen configuration";

impl LlamaConfig {
    /// Checks every size, and that they fit together.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn validate(&self) -> Result<()> {
        let refuse = |why: String| Err(Error::Config { what: WHAT, why });
        within(WHAT, "vocab_size", self.vocab_size, limits::VOCABULARY)?;
        within(WHAT, "block_size", self.block_size, limits::CONTEXT)?;
        within(WHAT, "dim", self.dim, limits::WIDTH)?;
        within(WHAT, "n_layer", self.n_layer, limits::LAYERS)?;
        within(WHAT, "n_head", self.n_head, self.dim)?;
        within(WHAT, "n_kv_head", self.kv_heads(), self.n_head)?;
        within(WHAT, "multiple_of", self.multiple_of, limits::WIDTH)?;
        match self.prefix {
            PrefixConfig::Class { classes } => {
                within(WHAT, "classes", classes, limits::VOCABULARY)?;
            }
            PrefixConfig::Caption { dim, positions } => {
                within(WHAT, "caption dim", dim, limits::WIDTH)?;
                within(WHAT, "caption positions", positions, limits::CONTEXT)?;
            }
        }
        if self.grid().pow(2) != self.block_size {
            return refuse(format!("block_size {} is no square of a grid's side", self.block_size));
        }
        if !self.dim.is_multiple_of(self.n_head) || !self.head_dim().is_multiple_of(4) {
            return refuse(format!(
                "dim {} in {} heads is no multiple of 4 a head, as two rotary axes need",
                self.dim, self.n_head
            ));
        }
        if !self.n_head.is_multiple_of(self.kv_heads()) {
            return refuse(format!(
                "n_head {} is no multiple of n_kv_head {}",
                self.n_head,
                self.kv_heads()
            ));
        }
        if self.ffn_dim_multiplier.is_some_and(|m| !(m > 0.0 && m <= 64.0)) {
            return refuse("ffn_dim_multiplier is outside (0, 64]".to_owned());
        }
        if !(self.rope_base.is_finite() && self.rope_base > 1.0) {
            return refuse(format!("rope_base {} is not above 1", self.rope_base));
        }
        if !(self.norm_eps.is_finite() && self.norm_eps > 0.0) {
            return refuse(format!("norm_eps {} is not above 0", self.norm_eps));
        }
        Ok(())
    }

    /// Heads of keys and values.
    pub fn kv_heads(&self) -> usize {
        self.n_kv_head.unwrap_or(self.n_head)
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.dim / self.n_head
    }

    /// Side of the grid that positions lie on.
    pub fn grid(&self) -> usize {
        self.block_size.isqrt()
    }

    /// Hidden width of the feed-forward part: two thirds of four times the width,
    /// widened, rounded up.
    pub fn hidden_dim(&self) -> usize {
        let hidden = 2 * 4 * self.dim / 3;
        let hidden = match self.ffn_dim_multiplier {
            Some(multiplier) => (multiplier * hidden as f64) as usize,
            None => hidden,
        };
        hidden.next_multiple_of(self.multiple_of)
    }

    /// Positions of the prefix.
    pub fn prefix_positions(&self) -> usize {
        match self.prefix {
            PrefixConfig::Class { .. } => 1,
            PrefixConfig::Caption { positions, .. } => positions,
        }
    }
}
