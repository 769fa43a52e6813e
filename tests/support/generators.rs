//! Small transformers from formulas, for scenarios that generate.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use candle_core::{Device, Tensor};
use checkpoints::expected_tensors;
use cond_transformer::{Gpt, GptConfig, Llama, LlamaConfig, Order, PrefixConfig};
use pipeline::{
    Architecture, ConditionConfig, LoadOptions, ModelSpec, SamplingDefaults, StageRef,
    TransformerConfig, TransformerFolder, TransformerParts,
};
use serde_json::{Value, json};

use crate::support::{Place, tiny};

/// Codes of the codec of [`tiny`].
pub const CODES: u32 = 64;
/// Rows and columns of the codes of the training size; a code is 2x2 pixels.
pub const SIDE: usize = 4;

/// A word a token.
pub const TOKENIZER: &str = r#"{"version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [], "normalizer": {"type": "Lowercase"},
    "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
    "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "red": 1, "green": 2, "apple": 3},
              "unk_token": "[UNK]"}}"#;

/// Positions of the captions of [`Recipe::of_captions`].
pub const POSITIONS: usize = 24;
/// Numbers of an embedding of them.
pub const WIDTH: usize = 16;

/// What `transformer` writes.
pub struct Recipe {
    /// `condition` of its configuration.
    pub condition: Value,
    pub tokenizer: Option<&'static str>,
    pub sampling: SamplingDefaults,
    pub order: Order,
    /// Numbers of a position.
    pub width: usize,
    pub seed: u64,
    /// Another value for one weight: to spoil it.
    pub spoiled: Option<f32>,
    /// LlamaGen's network, behind captions, in the place of a GPT.
    pub llama: bool,
}

impl Recipe {
    pub fn new(condition: Value) -> Self {
        Self {
            condition,
            tokenizer: None,
            sampling: SamplingDefaults::default(),
            order: Order::Identity,
            width: 32,
            seed: 1,
            spoiled: None,
            llama: false,
        }
    }

    /// A model that takes captions as embeddings.
    pub fn of_captions() -> Self {
        let condition = json!({ "kind": "caption", "encoder": "google/flan-t5-xl" });
        Self { llama: true, ..Self::new(condition) }
    }

    fn architecture(&self) -> Architecture {
        if self.llama {
            return Architecture::Llama(LlamaConfig {
                vocab_size: 160,
                block_size: SIDE * SIDE,
                dim: self.width,
                n_layer: 2,
                n_head: 4,
                n_kv_head: None,
                multiple_of: 16,
                ffn_dim_multiplier: None,
                rope_base: 10000.0,
                norm_eps: 1e-5,
                prefix: PrefixConfig::Caption { dim: WIDTH, positions: POSITIONS },
            });
        }
        Architecture::Gpt(GptConfig {
            vocab_size: 160,
            block_size: 40,
            n_layer: 2,
            n_head: 4,
            n_embd: self.width,
            n_unmasked: 0,
        })
    }
}

/// Three classes and none, for guidance.
pub fn classes() -> Value {
    json!({ "kind": "class", "names": ["goldfish", "tabby cat, tabby", "fire engine"],
            "offset": CODES, "null": CODES + 3 })
}

impl Place {
    /// Writes the codec `vqgan` once, and the transformer `name` over its codes.
    pub fn transformer(&self, name: &str, recipe: &Recipe) -> Result<PathBuf> {
        let codec = self.path("vqgan");
        if !codec.exists() {
            self.model("vqgan", &tiny(2), 1)?;
        }
        let codec = pipeline::Codec::load(&ModelSpec::new(&codec), &LoadOptions::default())?;
        let mut condition = recipe.condition.clone();
        if condition["codec"].is_string() {
            let other = self.path(condition["codec"].as_str().unwrap_or_default());
            let other = pipeline::Codec::load(&ModelSpec::new(&other), &LoadOptions::default())?;
            condition["codec"] = json!({ "path": condition["codec"].as_str().map(|c| format!("../{c}")),
                                         "codec_sha256": other.sha256() });
        }
        let condition: ConditionConfig = serde_json::from_value(condition)?;
        let architecture = recipe.architecture();
        let mut tensors = weights(&architecture, recipe.seed)?;
        if let (Some(value), Some(weight)) = (recipe.spoiled, tensors.get_mut("head.weight")) {
            *weight = (weight.ones_like()? * f64::from(value))?;
        }
        let config = TransformerConfig {
            architecture,
            weights: None,
            first_stage: StageRef::at("../vqgan", codec.sha256()),
            codes: CODES as usize,
            grid: [SIDE, SIDE],
            permuter: recipe.order,
            condition,
            sampling: recipe.sampling.clone(),
            preprocessing: json!({}),
            provenance: json!({ "data": "a formula" }),
        };
        let path = self.path(name);
        let parts = TransformerParts {
            tokenizer: recipe.tokenizer.map(str::as_bytes),
            ..TransformerParts::default()
        };
        TransformerFolder::replace(&path, &config, tensors.iter(), "# A formula\n", parts)?;
        Ok(path)
    }
}

/// Weights that depend on name, place and seed, large enough for lively logits.
fn weights(architecture: &Architecture, seed: u64) -> Result<BTreeMap<String, Tensor>> {
    let expected = match architecture {
        Architecture::Gpt(config) => expected_tensors(|vb| Ok(Gpt::new(config, vb)?))?,
        Architecture::Llama(config) => expected_tensors(|vb| Ok(Llama::new(config, vb)?))?,
    };
    let tensor = |name: &str, dims: &[usize]| -> Result<Tensor> {
        let start =
            name.bytes().fold(seed, |state, byte| crate::support::mix(state ^ u64::from(byte)));
        let n: usize = dims.iter().product();
        let norm = (name.contains("ln") || name.contains("norm")) && name.ends_with("weight");
        let values = (0..n as u64).map(|i| {
            let uniform = (crate::support::mix(start.wrapping_add(i)) >> 40) as f32
                / (1_u64 << 23) as f32
                - 1.0;
            if norm { 1.0 + 0.1 * uniform } else { 0.4 * uniform }
        });
        Ok(Tensor::from_vec(values.collect::<Vec<f32>>(), dims, &Device::Cpu)?)
    };
    expected.iter().map(|(name, shape)| Ok((name.clone(), tensor(name, shape.dims())?))).collect()
}

/// The text chunk `keyword` of a PNG.
pub fn chunk(path: &Path, keyword: &str) -> Result<String> {
    let chunks = image_data::png_text(path)?;
    let found = chunks.into_iter().find(|(name, _)| name == keyword);
    found.map(|(_, text)| text).ok_or_else(|| anyhow::anyhow!("no chunk {keyword}"))
}
