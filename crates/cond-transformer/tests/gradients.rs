//! The gradients of both models against differences, for every parameter.

use std::collections::HashMap;
use std::sync::Mutex;

use anyhow::Result;
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::{Init, VarBuilder, loss::cross_entropy};
use cond_transformer::{Conditions, Gpt, GptConfig, Llama, LlamaConfig, PrefixConfig, Stream};

/// Names and shapes a constructor asks for, filled with lively numbers.
#[derive(Default)]
struct Asked(Mutex<Vec<(String, Tensor)>>);

struct Recorder(std::sync::Arc<Asked>);

impl candle_nn::var_builder::SimpleBackend for Recorder {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let mut asked = self.0.0.lock().map_err(|_| candle_core::Error::msg("poisoned"))?;
        let stream = Stream { seed: 5, sample: asked.len() as u64 };
        let values = (0..shape.elem_count()).map(|i| stream.uniform(i) * 1.6 - 0.7);
        let tensor = Tensor::from_vec(values.collect::<Vec<f64>>(), shape, device)?;
        asked.push((name.to_owned(), tensor.clone()));
        tensor.to_dtype(dtype)
    }

    fn get_unchecked(&self, _: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("weights have shapes")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

/// Checks the gradient of `loss`, a function of a model's source of weights.
fn check(name: &str, loss: impl Fn(VarBuilder) -> cond_transformer::Result<Tensor>) -> Result<()> {
    let asked = std::sync::Arc::new(Asked::default());
    let recorder = Box::new(Recorder(asked.clone()));
    loss(VarBuilder::from_backend(recorder, DType::F64, Device::Cpu))?;
    let asked = asked.0.lock().map_err(|_| anyhow::anyhow!("poisoned"))?;
    let (names, tensors): (Vec<_>, Vec<_>) = asked.iter().cloned().unzip();
    golden::gradients::check(name, &tensors, 2e-6, |points| {
        let weights: HashMap<_, _> = names.iter().cloned().zip(points.iter().cloned()).collect();
        Ok(loss(VarBuilder::from_tensors(weights, DType::F64, &Device::Cpu))?)
    })
}

fn targets(logits: &Tensor, codes: &[u32]) -> candle_core::Result<Tensor> {
    cross_entropy(&logits.flatten(0, 1)?, &Tensor::new(codes, &Device::Cpu)?)
}

#[test]
fn gpt() -> Result<()> {
    let config =
        GptConfig { vocab_size: 5, block_size: 4, n_layer: 2, n_head: 2, n_embd: 4, n_unmasked: 2 };
    check("gpt", |vb| {
        let tokens = Tensor::new(&[[0_u32, 3, 1, 2], [4, 1, 3, 0]], &Device::Cpu)?;
        let logits = Gpt::new(&config, vb)?.forward(&tokens, None)?;
        Ok(targets(&logits, &[3, 1, 2, 4, 1, 3, 0, 2])?)
    })
}

fn llama_config(prefix: PrefixConfig) -> LlamaConfig {
    LlamaConfig {
        vocab_size: 5,
        block_size: 4,
        dim: 16,
        n_layer: 1,
        n_head: 4,
        n_kv_head: Some(2),
        multiple_of: 4,
        ffn_dim_multiplier: Some(0.3),
        rope_base: 10000.0,
        norm_eps: 1e-5,
        prefix,
    }
}

#[test]
fn llama_behind_a_class() -> Result<()> {
    let config = llama_config(PrefixConfig::Class { classes: 2 });
    check("llama", |vb| {
        let model = Llama::new(&config, vb)?;
        let codes = Tensor::new(&[[0_u32, 3, 1], [4, 1, 3]], &Device::Cpu)?;
        let classes = Conditions::classes(&[1, 0], &Device::Cpu)?;
        let classes = model.drop_conditions(&classes, &[true, false])?;
        Ok(targets(&model.forward(&classes, &codes)?, &[0, 3, 1, 2, 4, 1, 3, 0])?)
    })
}

#[test]
fn llama_behind_a_caption() -> Result<()> {
    let config = llama_config(PrefixConfig::Caption { dim: 3, positions: 3 });
    check("llama", |vb| {
        let model = Llama::new(&config, vb)?;
        let codes = Tensor::new(&[[0_u32, 3, 1], [4, 1, 3]], &Device::Cpu)?;
        let captions = Conditions::Captions {
            embeddings: Tensor::arange(-9_f64, 9.0, &Device::Cpu)?.reshape((2, 3, 3))?,
            present: vec![vec![false, true, true], vec![true; 3]],
        };
        let captions = model.drop_conditions(&captions, &[false, true])?;
        Ok(targets(&model.forward(&captions, &codes)?, &[0, 3, 1, 2, 4, 1, 3, 0])?)
    })
}
