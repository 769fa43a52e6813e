//! `config.json` of a T5 encoder.

use std::path::Path;

use candle_nn::Activation;
use checkpoints::read_limited;
use serde::Deserialize;

use crate::error::{Error, Result};

/// The largest `config.json`.
const MAX_BYTES: u64 = 1 << 20;

/// What counts of it, by its names there.
#[derive(Deserialize, Debug, PartialEq)]
pub(crate) struct EncoderConfig {
    /// Tokens that have an embedding.
    pub(crate) vocab_size: usize,
    /// Numbers of an embedding.
    pub(crate) d_model: usize,
    /// Numbers of a head; heads together need not have `d_model`.
    pub(crate) d_kv: usize,
    pub(crate) d_ff: usize,
    pub(crate) num_layers: usize,
    pub(crate) num_heads: usize,
    pub(crate) relative_attention_num_buckets: usize,
    #[serde(default = "max_distance")]
    pub(crate) relative_attention_max_distance: usize,
    #[serde(default = "epsilon")]
    pub(crate) layer_norm_epsilon: f64,
    /// What ends every caption.
    #[serde(default = "end")]
    pub(crate) eos_token_id: u32,
    #[serde(default = "relu")]
    feed_forward_proj: String,
}

/// The layers between two attentions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct FeedForward {
    /// Whether what is activated is multiplied by what is not.
    pub(crate) gated: bool,
    pub(crate) activation: Activation,
}

fn max_distance() -> usize {
    128
}

fn epsilon() -> f64 {
    1e-6
}

/// `</s>` of every published T5.
fn end() -> u32 {
    1
}

fn relu() -> String {
    "relu".to_owned()
}

impl EncoderConfig {
    /// Reads the file `path`.
    ///
    /// # Errors
    /// When it is not there, or describes no T5 that can be loaded.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let refuse = |reason: String| Error::folder(path, reason);
        let text = read_limited(path, "the configuration (bytes)", MAX_BYTES)?;
        let value: serde_json::Value =
            serde_json::from_slice(&text).map_err(|e| refuse(format!("not JSON: {e}")))?;
        let kind = value["model_type"].as_str().unwrap_or("unknown");
        if kind != "t5" {
            return Err(refuse(format!(
                "this is a model of type {kind:?}; a text encoder is a T5 (google/flan-t5-xl)"
            )));
        }
        let config: Self = serde_json::from_value(value)
            .map_err(|e| refuse(format!("not the configuration of a T5: {e}")))?;
        config.check().map_err(refuse)?;
        Ok(config)
    }

    fn check(&self) -> std::result::Result<(), String> {
        let limits = [
            ("vocab_size", self.vocab_size, 1 << 20),
            ("d_model", self.d_model, 1 << 16),
            ("d_kv", self.d_kv, 1 << 12),
            ("d_ff", self.d_ff, 1 << 18),
            ("num_layers", self.num_layers, 1 << 9),
            ("num_heads", self.num_heads, 1 << 9),
            ("relative_attention_num_buckets", self.relative_attention_num_buckets, 1 << 12),
            ("relative_attention_max_distance", self.relative_attention_max_distance, 1 << 20),
        ];
        for (name, value, most) in limits {
            if value == 0 || value > most {
                return Err(format!("{name} {value} is not from 1 to {most}"));
            }
        }
        // Buckets are of two signs, half of each exact, half logarithmic.
        if self.relative_attention_num_buckets < 4
            || self.relative_attention_max_distance <= self.relative_attention_num_buckets / 4
        {
            return Err(format!(
                "relative_attention_num_buckets {} and relative_attention_max_distance {} do not \
                 fit together",
                self.relative_attention_num_buckets, self.relative_attention_max_distance
            ));
        }
        self.feed_forward().map(|_| ())
    }

    /// What `feed_forward_proj` says.
    ///
    /// # Errors
    /// When it is none that T5s have.
    pub(crate) fn feed_forward(&self) -> std::result::Result<FeedForward, String> {
        let (gated, activation) = match self.feed_forward_proj.as_str() {
            "relu" => (false, Activation::Relu),
            "gelu" => (false, Activation::Gelu),
            "gated-relu" => (true, Activation::Relu),
            // What is called so is the approximation by tanh, in every T5.
            "gated-gelu" => (true, Activation::NewGelu),
            "gated-silu" => (true, Activation::Silu),
            other => {
                return Err(format!(
                    "feed_forward_proj {other:?} is none of relu, gelu, gated-relu, gated-gelu, \
                     gated-silu"
                ));
            }
        };
        Ok(FeedForward { gated, activation })
    }
}
