//! A stage 2 step: a minGPT, cross entropy over its codes, AdamW.

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use cond_transformer::GptConfig;
use pipeline::Architecture;
use serde_json::json;
use training::{
    CodeModel, Lesson, ParameterStore, Precision, TransformerTrainConfig, TransformerTrainer,
};

use super::case::{Case, Contestants};
use super::device::device;
use super::pattern::{parameter, pattern};
use super::train::results;

const LR: f64 = 1e-4;
/// Codes of a picture: 16x16.
const CODES: usize = 256;

/// The step at two sizes: the presets `tiny` and about `small`, behind a start token.
pub fn cases(precision: Precision) -> Result<Vec<Case>> {
    [("tiny", 4, 4, 128, 16), ("small", 8, 8, 448, 4)]
        .into_iter()
        .map(|(name, n_layer, n_head, n_embd, batch)| {
            let vocab_size = 1025;
            let block_size = CODES;
            let config =
                GptConfig { vocab_size, block_size, n_layer, n_head, n_embd, n_unmasked: 0 };
            case(name, config, batch, precision)
        })
        .collect()
}

fn case(name: &str, config: GptConfig, batch: usize, precision: Precision) -> Result<Case> {
    // Any codes will do; the same for Python.
    let code = |i: usize| (i * 7919 % 1013) as u32;
    let targets: Vec<Vec<u32>> =
        (0..batch).map(|b| (0..CODES).map(|i| code(b * CODES + i)).collect()).collect();
    let tokens: Vec<Vec<u32>> = targets
        .iter()
        .map(|row| [&[config.vocab_size as u32 - 1][..], &row[..CODES - 1]].concat())
        .collect();
    let request = json!({
        "gpt": &config,
        "lr": LR,
        "tokens": tokens,
        "targets": &targets,
        "dtype": precision,
    });
    // Refused where it means nothing.
    precision.dtype(device())?;
    let title = format!(
        "stage 2 step, {name}: {} layers of {}, {CODES} codes, batch {batch}",
        config.n_layer, config.n_embd
    );
    let make = move || {
        let mut trainer = trainer(config, precision)?;
        let device = device().clone();
        let targets = Tensor::new(targets, &device)?;
        let lesson = Lesson {
            conditions: Tensor::full(1024u32, (batch, 1), &device)?,
            inputs: targets.clone(),
            targets,
        };
        let mut step = 0;
        let ours = move || {
            let outcome = trainer.update(std::slice::from_ref(&lesson), LR, step)?;
            step += 1;
            let nll = *outcome.terms.get("nll").context("a step without nll")?;
            Ok(vec![Tensor::new(&[nll], &Device::Cpu)?])
        };
        Ok(Contestants { ours: Box::new(ours), candle: None })
    };
    Ok(Case {
        name: title,
        flops: None,
        request,
        results: results(precision),
        make: Box::new(make),
    })
}

/// A trainer with the weights that Python has.
fn trainer(config: GptConfig, precision: Precision) -> Result<TransformerTrainer> {
    let store = ParameterStore::new(0);
    let vb = store.var_builder(precision.dtype(device())?, device());
    let model = CodeModel::new(&Architecture::Gpt(config), vb)?;
    for (name, variable) in store.variables() {
        let value = match variable.rank() {
            1 => parameter(&name, variable.shape())?,
            _ => pattern(&name, variable.shape(), 0.04)?,
        };
        variable.set(&value)?;
    }
    store.refresh()?;
    let config = TransformerTrainConfig { precision, ..TransformerTrainConfig::default() };
    TransformerTrainer::new(&config, model, store, CODES, None)
}
