//! The published sizes of LlamaGen's GPT, which its checkpoints do not state.

use cond_transformer::{LlamaConfig, Order, PrefixConfig};
use serde_json::Value;

use crate::transformer_config::{
    Architecture, CaptionCondition, ClassCondition, ConditionConfig, SamplingDefaults, StageRef,
    TransformerConfig, UNKNOWN,
};

/// Codes of the published tokenizers.
const CODES: usize = 16384;
/// ImageNet's classes.
const CLASSES: usize = 1000;
/// Embeddings of a caption, and their width.
const CAPTION: (usize, usize) = (120, 2048);
/// Whose they are (`--t5-model-type` of the reference's scripts).
const ENCODER: &str = "google/flan-t5-xl";

/// Name, layers, heads, width (`GPT_B` to `GPT_7B` in
/// `autoregressive/models/gpt.py`).
const SIZES: [(&str, usize, usize, usize); 8] = [
    ("b", 12, 12, 768),
    ("l", 24, 16, 1024),
    ("xl", 36, 20, 1280),
    ("xxl", 48, 24, 1536),
    ("xxxl", 48, 40, 2560),
    ("1b", 22, 32, 2048),
    ("3b", 24, 32, 3200),
    ("7b", 32, 32, 4096),
];

/// How presets are named, for messages.
pub(crate) const PRESETS: &str = "llamagen-b, -l, -xl, -xxl, -xxxl, -1b, -3b, -7b for 16x16 \
     codes by class; with -384 for 24x24 and -512 for 32x32 codes; with -t2i for captions";

/// The preset `llamagen-SIZE[-t2i][-384|-512]`.
pub(crate) fn preset(name: &str) -> Option<TransformerConfig> {
    let mut parts = name.strip_prefix("llamagen-")?.split('-');
    let size = parts.next()?;
    let (_, n_layer, n_head, dim) = *SIZES.iter().find(|(name, ..)| *name == size)?;
    let (mut side, mut caption) = (16, false);
    for part in parts {
        match part {
            "256" => side = 16,
            "384" => side = 24,
            "512" => side = 32,
            "t2i" => caption = true,
            _ => return None,
        }
    }
    let prefix = match caption {
        true => PrefixConfig::Caption { positions: CAPTION.0, dim: CAPTION.1 },
        false => PrefixConfig::Class { classes: CLASSES },
    };
    let condition = match caption {
        true => ConditionConfig::Caption(CaptionCondition { encoder: ENCODER.to_owned() }),
        false => ConditionConfig::Class(ClassCondition {
            names: (0..CLASSES).map(|class| class.to_string()).collect(),
            offset: 0,
            null: Some(CLASSES as u32),
        }),
    };
    // What the reference's demos sample with.
    let (top_k, cfg_scale) = if caption { (1000, 7.5) } else { (2000, 4.0) };
    Some(TransformerConfig {
        architecture: Architecture::Llama(LlamaConfig {
            vocab_size: CODES,
            block_size: side * side,
            dim,
            n_layer,
            n_head,
            n_kv_head: None,
            multiple_of: 256,
            ffn_dim_multiplier: None,
            rope_base: 10000.0,
            norm_eps: 1e-5,
            prefix,
        }),
        weights: None,
        first_stage: StageRef::at("first_stage", UNKNOWN),
        codes: CODES,
        grid: [side, side],
        permuter: Order::Identity,
        condition,
        sampling: SamplingDefaults { top_k: Some(top_k), cfg_scale, ..SamplingDefaults::default() },
        preprocessing: Value::Null,
        provenance: Value::Null,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_have_the_published_widths() -> anyhow::Result<()> {
        for (size, hidden) in [("b", 2048), ("l", 2816), ("xl", 3584), ("xxl", 4096), ("3b", 8704)]
        {
            for rest in ["", "-384", "-t2i-512"] {
                let name = format!("llamagen-{size}{rest}");
                let config = preset(&name).ok_or_else(|| anyhow::anyhow!("no {name}"))?;
                config.validate()?;
                let Architecture::Llama(llama) = &config.architecture else {
                    anyhow::bail!("no Llama")
                };
                assert_eq!(llama.hidden_dim(), hidden, "{name}");
            }
        }
        for none in ["llamagen-c", "llamagen-vq16", "b", "llamagen-b-333", "llamagen"] {
            assert!(preset(none).is_none(), "{none}");
        }
        Ok(())
    }
}
