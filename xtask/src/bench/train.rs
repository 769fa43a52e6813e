//! A stage 1 step: autoencoder and discriminator, without LPIPS; its time for a small
//! model, and its peak memory for that of the paper.

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use codebook::QuantizerConfig;
use serde_json::json;
use training::{
    AdversarialConfig, ParameterStore, Precision, Terms, TrainConfig, UpdateOrder, VqTrainer,
    adversary, reconstruction_loss,
};
use vq_autoencoder::{Layout, VqConfig, VqModel};

use super::case::{Case, Contestants, Results};
use super::device::device;
use super::memory::{self, Peak};
use super::pattern::{parameter, pattern};

const SIDE: usize = 64;
const BATCH: usize = 4;
const LARGE_SIDE: usize = 256;
const LR: f64 = 1.8e-5;

/// The step in both orders of its two updates.
pub fn cases(precision: Precision) -> Result<Vec<Case>> {
    let orders = [
        ("one forward pass", UpdateOrder::SingleForward),
        ("a second forward pass for the discriminator", UpdateOrder::Reference),
    ];
    orders.into_iter().map(|(name, order)| case(name, order, precision)).collect()
}

/// The small model of the shared reference figures.
fn config(order: UpdateOrder) -> TrainConfig {
    let base = TrainConfig::default();
    TrainConfig {
        batch: BATCH,
        adversarial: AdversarialConfig { weight: 0.8, order, ..base.adversarial.clone() },
        model: VqConfig {
            layout: Layout::Taming,
            in_channels: 3,
            out_channels: 3,
            ch: 64,
            ch_mult: vec![1, 2, 2],
            num_res_blocks: 1,
            attn_resolutions: vec![16],
            resolution: SIDE,
            z_channels: 64,
            quantizer: QuantizerConfig::Euclidean {
                len: 256,
                dim: 64,
                beta: 0.25,
                legacy_beta: true,
            },
            dropout: 0.0,
        },
        ..base
    }
}

/// The paper's f16 model on one picture of 256x256: whose memory is measured.
fn large_config() -> TrainConfig {
    let base = config(UpdateOrder::SingleForward);
    TrainConfig {
        batch: 1,
        model: VqConfig {
            ch: 128,
            ch_mult: vec![1, 1, 2, 2, 4],
            num_res_blocks: 2,
            attn_resolutions: vec![16],
            resolution: LARGE_SIDE,
            z_channels: 256,
            quantizer: QuantizerConfig::Euclidean {
                len: 1024,
                dim: 256,
                beta: 0.25,
                legacy_beta: true,
            },
            ..base.model.clone()
        },
        ..base
    }
}

/// What Python is told about a step.
fn request(config: &TrainConfig, shape: &[usize]) -> serde_json::Value {
    json!({
        "model": &config.model,
        "discriminator": &config.adversarial.patchgan,
        "weight": config.adversarial.weight,
        "second_forward": config.adversarial.order == UpdateOrder::Reference,
        "lr": LR,
        "x": shape,
        "dtype": config.precision,
    })
}

/// The step whose memory is measured, for Python.
pub fn memory_request() -> serde_json::Value {
    request(&large_config(), &[1, 3, LARGE_SIDE, LARGE_SIDE])
}

/// Peak memory of this process, before and after one such step.
pub fn step_memory() -> Result<Peak> {
    let bare = memory::peak()?;
    let mut trainer = trainer(&large_config())?;
    trainer.step(&pattern("x", &[1, 3, LARGE_SIDE, LARGE_SIDE][..], 1.0)?, LR, 0)?;
    Ok(Peak { bare, peak: memory::peak()? })
}

fn case(name: &str, order: UpdateOrder, precision: Precision) -> Result<Case> {
    // Refused where it means nothing.
    precision.dtype(device())?;
    let config = TrainConfig { precision, ..config(order) };
    let shape = [BATCH, config.model.in_channels, SIDE, SIDE];
    let request = request(&config, &shape);
    let make = move || {
        let mut trainer = trainer(&config)?;
        let images = pattern("x", &shape[..], 1.0)?;
        let mut step = 0;
        let ours = move || {
            let outcome = trainer.step(&images, LR, step)?;
            step += 1;
            let terms = &outcome.terms;
            Ok(vec![
                numbers(terms, ["nll_loss", "quant_loss"])?,
                numbers(terms, ["g_loss", "disc_loss"])?,
            ])
        };
        Ok(Contestants { ours: Box::new(ours), candle: None })
    };
    Ok(Case {
        name: format!("step, {SIDE}x{SIDE}, batch {BATCH}, {name}"),
        flops: None,
        request,
        results: results(precision),
        make: Box::new(make),
    })
}

fn trainer(config: &TrainConfig) -> Result<VqTrainer> {
    let device = device().clone();
    let parameters = ParameterStore::new(config.seed);
    let model = VqModel::new(
        &config.model,
        parameters.var_builder(config.precision.dtype(&device)?, &device),
    )?;
    fill(&parameters)?;
    parameters.refresh()?;
    let adversary = adversary(config, &device)?;
    if let Some(adversary) = &adversary {
        fill(&adversary.parameters)?;
    }
    VqTrainer::new(config, model, parameters, reconstruction_loss(config, &device)?, adversary)
}

/// Gives every variable the value that Python has for it.
fn fill(parameters: &ParameterStore) -> Result<()> {
    for (name, variable) in parameters.variables() {
        // The count of batches seen is an integer and stays 0.
        if variable.dtype().is_float() {
            variable.set(&parameter(&name, variable.shape())?)?;
        }
    }
    Ok(())
}

fn numbers<const N: usize>(terms: &Terms, names: [&str; N]) -> Result<Tensor> {
    let mut numbers = Vec::with_capacity(N);
    for name in names {
        numbers.push(*terms.get(name).with_context(|| format!("a step without {name}"))?);
    }
    Ok(Tensor::new(numbers, &Device::Cpu)?)
}

/// What losses of a step in `precision` are.
pub fn results(precision: Precision) -> Results {
    match precision {
        Precision::F32 => Results::Numbers,
        Precision::Bf16 => Results::HalfNumbers,
    }
}
