//! Both architectures of the second stage under one roof.

use anyhow::Result;
use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use cond_transformer::{
    Conditions, Dropouts, Gpt, GptConfig, Llama, LlamaConfig, NextCode, PrefixConfig,
};
use layers::{Factors, Gradients};
use pipeline::{Architecture, ConditionConfig};

use super::condition::Conditioning;
use super::config::ModelSetting;

/// A transformer under training.
pub enum CodeModel {
    /// minGPT-style.
    Gpt(Gpt),
    /// LlamaGen-style.
    Llama(Llama),
}

/// What a model is trained on: what it reads, and what it has to say.
#[derive(Clone, Debug)]
pub struct Lesson {
    /// Condition tokens `[B, N]`, u32.
    pub conditions: Tensor,
    /// The codes that it reads, `[B, L]`, u32; the last of a row is not read.
    pub inputs: Tensor,
    /// The codes that it has to predict, `[B, L]`, u32, on the CPU: they are looked at there,
    /// and a device would have to be waited for.
    pub targets: Tensor,
}

/// The network for sequences of `length` codes of `codes` kinds behind `conditioning`.
pub(super) fn architecture(
    setting: &ModelSetting,
    conditioning: &Conditioning,
    codes: usize,
    length: usize,
) -> Architecture {
    match *setting {
        ModelSetting::Gpt { n_layer, n_head, n_embd } => Architecture::Gpt(GptConfig {
            vocab_size: conditioning.vocabulary,
            block_size: conditioning.positions + length - 1,
            n_layer,
            n_head,
            n_embd,
            n_unmasked: 0,
        }),
        ModelSetting::Llama { n_layer, n_head, dim, multiple_of } => {
            let classes = match &conditioning.config {
                ConditionConfig::Class(condition) => condition.names.len(),
                _ => 1,
            };
            Architecture::Llama(LlamaConfig {
                vocab_size: codes,
                block_size: length,
                dim,
                n_layer,
                n_head,
                n_kv_head: None,
                multiple_of,
                ffn_dim_multiplier: None,
                rope_base: 10_000.0,
                norm_eps: 1e-5,
                prefix: PrefixConfig::Class { classes },
            })
        }
    }
}

impl CodeModel {
    /// The network over the variables of `vb`.
    ///
    /// # Errors
    /// If its sizes are out of bounds.
    pub fn new(architecture: &Architecture, vb: VarBuilder) -> Result<Self> {
        Ok(match architecture {
            Architecture::Gpt(config) => Self::Gpt(Gpt::new(config, vb)?),
            Architecture::Llama(config) => Self::Llama(Llama::new(config, vb)?),
        })
    }

    /// Whether weight decay is for the parameter `name` of rank `rank`: minGPT's linear
    /// weights, all but vectors in LlamaGen.
    pub fn decays(&self, name: &str, rank: usize) -> bool {
        match self {
            Self::Gpt(_) => Gpt::decays(name),
            Self::Llama(_) => rank >= 2,
        }
    }

    /// As what draws codes knows it.
    pub fn next_code(&self) -> &dyn NextCode {
        match self {
            Self::Gpt(model) => model,
            Self::Llama(model) => model,
        }
    }

    /// Condition tokens `[B, N]` as this model takes them.
    ///
    /// # Errors
    /// If the sequences have different lengths.
    pub fn conditions(&self, tokens: &[Vec<u32>], device: &Device) -> Result<Conditions> {
        Ok(match self {
            Self::Gpt(_) => Conditions::tokens(tokens, device)?,
            Self::Llama(_) => {
                let classes: Vec<u32> = tokens.iter().flatten().copied().collect();
                Conditions::classes(&classes, device)?
            }
        })
    }

    /// The mean negative log-likelihood of a code of `lesson`, in nats: a scalar, f64, on
    /// the model's device; the gradients of all parameters are added to `gradients`, if given. On a CPU
    /// products may be rounded to `factors`.
    ///
    /// # Errors
    /// If the lesson does not fit the model.
    pub fn learn(
        &self,
        lesson: &Lesson,
        dropouts: &Dropouts,
        factors: Factors,
        gradients: Option<&mut Gradients>,
    ) -> Result<Tensor> {
        let read = lesson.inputs.narrow(1, 0, lesson.inputs.dim(1)? - 1)?;
        Ok(match self {
            Self::Gpt(model) => {
                let tokens = Tensor::cat(&[&lesson.conditions, &read], 1)?;
                model.learn(&tokens, &lesson.targets, dropouts, factors, gradients)?
            }
            Self::Llama(model) => {
                let classes = lesson.conditions.squeeze(1)?;
                model.learn(
                    &classes,
                    &read.contiguous()?,
                    &lesson.targets,
                    dropouts,
                    factors,
                    gradients,
                )?
            }
        })
    }
}
