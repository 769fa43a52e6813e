//! Updates of the second stage against the references' own.

use std::collections::HashMap;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use codebook::QuantizerConfig;
use cond_transformer::{GptConfig, LlamaConfig};
use golden::{Expected, Group};
use pipeline::Architecture;
use training::{
    CodeModel, Lesson, ParameterStore, TransformerOutcome, TransformerTrainConfig,
    TransformerTrainer, keep_or_replace,
};
use vq_autoencoder::{ImageCodec, Layout, VqConfig, VqModel};

/// A trainer with the reference's weights under `prefix`, AdamW as minGPT has it.
fn trainer(
    architecture: &Architecture,
    weights: &HashMap<String, Tensor>,
    prefix: &str,
    (weight_decay, clip): (f64, f64),
) -> Result<TransformerTrainer> {
    let store = ParameterStore::new(0);
    let model = CodeModel::new(architecture, store.var_builder(DType::F32, &Device::Cpu))?;
    let own: HashMap<_, _> = store
        .variables()
        .into_iter()
        .map(|(name, _)| {
            let value = weights.get(&format!("{prefix}{name}")).with_context(|| name.clone())?;
            Ok((name, value.clone()))
        })
        .collect::<Result<_>>()?;
    store.load(&own)?;
    let mut config = TransformerTrainConfig::default();
    config.optimizer.adam.weight_decay = weight_decay;
    config.optimizer.clip = clip;
    TransformerTrainer::new(&config, model, store, 1, None)
}

fn u32s(indices: &Tensor) -> Result<Tensor> {
    Ok(indices.to_dtype(DType::U32)?)
}

fn lr(group: &Group) -> Result<f64> {
    group.manifest()["extra"]["lr"].as_f64().context("lr")
}

/// Checks the gradients of `step`, each times `factor`; returns how many there were.
fn check_gradients(
    expected: &Expected,
    step: usize,
    kind: &str,
    outcome: &TransformerOutcome,
    (prefix, factor): (&str, f64),
) -> Result<usize> {
    let mut count = 0;
    for name in expected.names() {
        let Some(name_here) = name.strip_prefix(&format!("step{step}/{kind}/{prefix}")) else {
            continue;
        };
        let found = outcome.gradients.iter().find(|(own, _)| own == name_here);
        let gradient = &found.with_context(|| format!("no gradient {name_here}"))?.1;
        expected.check(name, &(gradient * factor)?)?;
        count += 1;
    }
    Ok(count)
}

fn check_after(
    group: &Group,
    expected: &Expected,
    trainer: &TransformerTrainer,
    prefix: &str,
) -> Result<usize> {
    let skipped = group.manifest()["extra"]["skip_after"].clone();
    let mut count = 0;
    for name in expected.names() {
        let Some(name_here) = name.strip_prefix(&format!("after/{prefix}")) else { continue };
        if !skipped.as_array().is_some_and(|list| list.iter().any(|skipped| skipped == name)) {
            expected.check(name, trainer.parameters.variable(name_here)?.as_tensor())?;
            count += 1;
        }
    }
    Ok(count)
}

/// Three updates on given tokens; with `n_unmasked` too.
#[test]
fn mingpt() -> Result<()> {
    for name in ["mingpt", "mingpt_unmasked"] {
        let Some(group) = golden::group(name)? else { continue };
        let config: GptConfig = serde_json::from_value(group.manifest()["config"].clone())?;
        let (inputs, expected) = (group.inputs()?, group.expected("train.safetensors")?);
        let weights = group.tensors("model.safetensors")?;
        let mut trainer = trainer(&Architecture::Gpt(config), &weights, "", (0.01, 0.0))?;
        let (tokens, targets) = (u32s(&inputs["idx"])?, u32s(&inputs["tgt"])?);
        let length = tokens.dim(1)?;
        // The first token as the condition; the last code is never read.
        let read = tokens.narrow(1, 1, length - 1)?;
        let lesson = Lesson {
            conditions: tokens.narrow(1, 0, 1)?,
            inputs: Tensor::cat(&[&read, &targets.narrow(1, 0, 1)?], 1)?,
            targets,
        };
        let mut gradients = 0;
        for step in 0..3 {
            let outcome =
                trainer.update(std::slice::from_ref(&lesson), lr(&group)?, step as u64)?;
            group.check_scalar(&format!("step{step}/loss"), outcome.terms["nll"])?;
            gradients += check_gradients(&expected, step, "grad", &outcome, ("", 1.0))?;
        }
        assert_eq!(gradients, 9, "{name}");
        assert!(check_after(&group, &expected, &trainer, "")? >= 8, "{name}");
    }
    Ok(())
}

/// Two halves of a batch, their gradients averaged, are the whole batch.
#[test]
fn accumulated_batches_are_one() -> Result<()> {
    let Some(group) = golden::group("mingpt")? else { return Ok(()) };
    let config: GptConfig = serde_json::from_value(group.manifest()["config"].clone())?;
    let inputs = group.inputs()?;
    let weights = group.tensors("model.safetensors")?;
    let architecture = Architecture::Gpt(config);
    let make = || trainer(&architecture, &weights, "", (0.01, 1.0));
    let (tokens, targets) = (u32s(&inputs["idx"])?, u32s(&inputs["tgt"])?);
    let lesson = |first, count| -> Result<Lesson> {
        let part = |x: &Tensor| x.narrow(0, first, count);
        Ok(Lesson {
            conditions: part(&tokens)?.narrow(1, 0, 1)?.contiguous()?,
            inputs: part(&tokens)?.narrow(1, 1, 63)?.contiguous()?,
            targets: part(&targets)?.narrow(1, 0, 63)?.contiguous()?,
        })
    };
    let (mut whole, mut parts) = (make()?, make()?);
    let one = whole.update(&[lesson(0, 2)?], 1e-3, 0)?;
    let two = parts.update(&[lesson(0, 1)?, lesson(1, 1)?], 1e-3, 0)?;
    assert!((one.terms["nll"] - two.terms["nll"]).abs() < 1e-6);
    for ((name, a), (_, b)) in one.gradients.iter().zip(&two.gradients) {
        golden::close(name, b, a, 1e-6)?;
    }
    Ok(())
}

/// Three updates from pictures: the codes of the first stage behind a class, some of
/// them replaced (`pkeep`).
#[test]
fn net2net_class_with_pkeep() -> Result<()> {
    let Some(group) = golden::group("net2net_class")? else { return Ok(()) };
    let first = VqConfig {
        layout: Layout::Taming,
        in_channels: 3,
        out_channels: 3,
        ch: 32,
        ch_mult: vec![1, 1],
        num_res_blocks: 1,
        attn_resolutions: vec![8],
        resolution: 16,
        z_channels: 8,
        quantizer: QuantizerConfig::Euclidean { len: 48, dim: 8, beta: 0.25, legacy_beta: true },
        dropout: 0.0,
    };
    let weights = group.tensors("model.safetensors")?;
    let vb = VarBuilder::from_tensors(weights.clone(), DType::F32, &Device::Cpu);
    let codec = VqModel::new(&first, vb.pp("first_stage_model"))?;
    let config = GptConfig {
        vocab_size: 48,
        block_size: 64,
        n_layer: 3,
        n_head: 4,
        n_embd: 64,
        n_unmasked: 0,
    };
    let prefix = "transformer.";
    let mut trainer = trainer(&Architecture::Gpt(config), &weights, prefix, (0.01, 0.0))?;
    let (inputs, expected) = (group.inputs()?, group.expected("train.safetensors")?);
    let mut gradients = 0;
    for step in 0..3 {
        let targets = codec.encode(&inputs[&format!("train{step}")])?.codes().flatten_from(1)?;
        let mask = u32s(&inputs[&format!("mask{step}")])?;
        let random = u32s(&inputs[&format!("rand{step}")])?;
        let lesson = Lesson {
            conditions: u32s(&inputs[&format!("ctrain{step}")])?.unsqueeze(1)?,
            inputs: keep_or_replace(&targets, &mask, &random)?,
            targets,
        };
        let outcome = trainer.update(&[lesson], lr(&group)?, step as u64)?;
        group.check_scalar(&format!("step{step}/loss"), outcome.terms["nll"])?;
        gradients += check_gradients(&expected, step, "grad", &outcome, (prefix, 1.0))?;
    }
    assert_eq!(gradients, 8);
    assert_eq!(check_after(&group, &expected, &trainer, prefix)?, 7);
    Ok(())
}

/// Three updates with dropped labels, weight decay of all matrices, and clipping.
#[test]
fn llamagen_gpt() -> Result<()> {
    let Some(group) = golden::group("llamagen_gpt")? else { return Ok(()) };
    let given = &group.manifest()["config"];
    let mut config = serde_json::json!({
        "prefix": {"kind": "class", "classes": given["num_classes"]}
    });
    for key in ["vocab_size", "block_size", "dim", "n_layer", "n_head", "multiple_of"] {
        config[key] = given[key].clone();
    }
    let config: LlamaConfig = serde_json::from_value(config)?;
    let (inputs, expected) = (group.inputs()?, group.expected("train.safetensors")?);
    let weights = group.tensors("model.safetensors")?;
    let mut trainer = trainer(&Architecture::Llama(config), &weights, "", (0.05, 1.0))?;
    let classes = u32s(&inputs["cond"])?.to_vec1::<u32>()?;
    let codes = u32s(&inputs["idx"])?;
    let share = given["class_dropout_prob"].as_f64().context("drop")? as f32;
    let none = given["num_classes"].as_u64().context("classes")? as u32;
    let mut gradients = 0;
    for step in 0..3 {
        let draws = inputs[&format!("drop_u{step}")].to_vec1::<f32>()?;
        let seen: Vec<u32> = classes
            .iter()
            .zip(draws)
            .map(|(&class, draw)| if draw < share { none } else { class })
            .collect();
        let lesson = Lesson {
            conditions: Tensor::new(seen, &Device::Cpu)?.unsqueeze(1)?,
            inputs: codes.clone(),
            targets: codes.clone(),
        };
        let outcome = trainer.update(&[lesson], lr(&group)?, step as u64)?;
        group.check_scalar(&format!("step{step}/loss"), outcome.terms["nll"])?;
        let norm = outcome.terms["grad_norm"];
        group.check_scalar(&format!("step{step}/gradnorm_total"), norm)?;
        let factor = 1f64.min(1.0 / (norm + 1e-6));
        let kind = "clipped_grad";
        gradients += check_gradients(&expected, step, kind, &outcome, ("", factor))?;
    }
    assert_eq!(gradients, 8);
    assert_eq!(check_after(&group, &expected, &trainer, "")?, 8);
    Ok(())
}
