//! Whole training steps against the reference's own.

use std::collections::HashMap;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use codebook::QuantizerConfig;
use discriminator::{PatchGan, PatchGanConfig};
use golden::Group;
use training::{
    AdamConfig, AdversarialConfig, Adversary, ParameterStore, PixelLoss, StepOutcome, TrainConfig,
    UpdateOrder, VqTrainer, reconstruction_loss,
};
use vq_autoencoder::{Layout, VqConfig, VqModel};

fn section(tensors: &HashMap<String, Tensor>, prefix: &str) -> HashMap<String, Tensor> {
    let strip = |(name, tensor): (&String, &Tensor)| {
        Some((name.strip_prefix(prefix)?.to_string(), tensor.clone()))
    };
    tensors.iter().filter_map(strip).collect()
}

/// A trainer whose every weight is the reference's.
fn trainer(
    config: &TrainConfig,
    weights: &HashMap<String, Tensor>,
    critic_prefix: &str,
) -> Result<VqTrainer> {
    let device = Device::Cpu;
    let parameters = ParameterStore::new(0);
    let model = VqModel::new(&config.model, parameters.var_builder(DType::F32, &device))?;
    let own: HashMap<_, _> = parameters
        .variables()
        .into_iter()
        .map(|(name, _)| Ok((name.clone(), weights.get(&name).context(name)?.clone())))
        .collect::<Result<_>>()?;
    parameters.load(&own)?;

    let critic_parameters = ParameterStore::new(0);
    let vb = critic_parameters.var_builder(DType::F32, &device);
    let critic = PatchGan::new(&config.adversarial.patchgan, vb)?;
    critic_parameters.load(&section(weights, critic_prefix))?;
    let adam = config.optimizer.adam.clone();
    let adversary =
        Adversary::new(config.adversarial.clone(), adam, Box::new(critic), critic_parameters)?;

    let loss = reconstruction_loss(config, &device)?;
    VqTrainer::new(config, model, parameters, loss, Some(adversary))
}

fn check_terms(group: &Group, outcome: &StepOutcome, names: &[(&str, String)]) -> Result<()> {
    for (ours, theirs) in names {
        let value = outcome.terms.get(ours).with_context(|| format!("no term {ours}"))?;
        group.check_scalar(theirs, *value)?;
    }
    Ok(())
}

/// Checks the expected tensors whose name begins with `prefix` against what
/// `find` has for the rest of it; returns how many there were.
fn check_all(
    expected: &golden::Expected,
    prefix: &str,
    skip: &[String],
    find: impl Fn(&str) -> Result<Tensor>,
) -> Result<usize> {
    let mut count = 0;
    for name in expected.names() {
        let Some(rest) = name.strip_prefix(prefix) else { continue };
        if !skip.iter().any(|skipped| skipped == name) {
            expected.check(name, &find(rest)?)?;
            count += 1;
        }
    }
    Ok(count)
}

fn gradient(gradients: &[(String, Tensor)], name: &str) -> Result<Tensor> {
    let found = gradients.iter().find(|(own, _)| own == name);
    Ok(found.with_context(|| format!("no gradient {name}"))?.1.clone())
}

fn skipped(group: &Group) -> Vec<String> {
    let list = group.manifest()["extra"]["skip_after"].as_array().cloned().unwrap_or_default();
    list.iter().filter_map(|name| Some(name.as_str()?.to_string())).collect()
}

/// Three batches, both optimisers, in the order of taming-transformers.
#[test]
fn vqgan_a() -> Result<()> {
    let Some(group) = golden::group("vqgan_a")? else { return Ok(()) };
    let mut config = TrainConfig {
        model: VqConfig {
            layout: Layout::Taming,
            in_channels: 3,
            out_channels: 3,
            ch: 32,
            ch_mult: vec![1, 2, 1],
            num_res_blocks: 1,
            attn_resolutions: vec![8],
            resolution: 32,
            z_channels: 16,
            quantizer: QuantizerConfig::Euclidean {
                len: 64,
                dim: 16,
                beta: 0.25,
                legacy_beta: true,
            },
            dropout: 0.0,
        },
        adversarial: AdversarialConfig {
            weight: 0.8,
            start: 1,
            sleep: false,
            order: UpdateOrder::Reference,
            patchgan: PatchGanConfig { ndf: 16, n_layers: 2, ..PatchGanConfig::default() },
            ..AdversarialConfig::default()
        },
        ..TrainConfig::default()
    };
    config.loss.pixel = PixelLoss::L1;
    config.loss.perceptual_weight = 1.0;
    config.loss.perceptual_file = group.path("model.safetensors");
    config.optimizer.adam = AdamConfig { beta1: 0.5, beta2: 0.9, ..AdamConfig::default() };

    let critic = "loss.discriminator.";
    let mut trainer = trainer(&config, &group.tensors("model.safetensors")?, critic)?;
    let (inputs, expected) = (group.inputs()?, group.expected("train.safetensors")?);
    let (mut gradients, mut norms) = (0, 0);
    for step in 0..3u64 {
        let outcome = trainer.step(&inputs[&format!("train{step}")], 1e-4, step)?;
        let mut terms = Vec::new();
        for term in
            ["total_loss", "quant_loss", "nll_loss", "p_loss", "d_weight", "disc_factor", "g_loss"]
        {
            terms.push((term, format!("step{step}/opt0/{term}")));
        }
        for term in ["disc_loss", "logits_real", "logits_fake"] {
            terms.push((term, format!("step{step}/opt1/{term}")));
        }
        // What the optimisers get, and LPIPS within `rec_loss`, under other names.
        for (term, theirs) in
            [("total_loss", "opt0/loss"), ("nll_loss", "opt0/rec_loss"), ("disc_loss", "opt1/loss")]
        {
            terms.push((term, format!("step{step}/{theirs}")));
        }
        check_terms(&group, &outcome, &terms).with_context(|| format!("step {step}"))?;

        gradients += check_all(&expected, &format!("step{step}/opt0/grad/"), &[], |name| {
            gradient(&outcome.gradients, name)
        })?;
        gradients += check_all(&expected, &format!("step{step}/opt1/grad/"), &[], |name| {
            gradient(&outcome.critic_gradients, name.strip_prefix(critic).unwrap_or(name))
        })?;
        for (optimizer, list, prefix) in
            [("opt0", &outcome.gradients, ""), ("opt1", &outcome.critic_gradients, critic)]
        {
            let table = &group.manifest()["extra"]["grad_norms"][format!("step{step}/{optimizer}")];
            for (name, entry) in table.as_object().context("gradient norms")? {
                // Before its start the discriminator's loss is multiplied by 0, and
                // candle has no gradients where torch has zeros.
                let norm = match gradient(list, name.strip_prefix(prefix).unwrap_or(name)) {
                    Ok(tensor) => {
                        tensor.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?.sqrt()
                    }
                    Err(_) if step == 0 && optimizer == "opt1" => 0.0,
                    Err(error) => return Err(error),
                };
                let (value, error) = (
                    entry[0].as_f64().context("norm")?,
                    entry[1].as_f64().context("error of the norm")?,
                );
                let tolerance = (20.0 * error).max(2e-5 * value).max(1e-7);
                anyhow::ensure!(
                    (norm - value).abs() <= tolerance,
                    "step {step} {optimizer}: |{name}| = {norm}, not {value} within {tolerance}"
                );
                norms += 1;
            }
        }
    }
    assert_eq!((gradients, norms), (19 + 14, 3 * 197));
    let after = check_all(&expected, "after/", &skipped(&group), |name| {
        let adversary = trainer.adversary.as_ref().context("a discriminator")?;
        let var = match name.strip_prefix(critic) {
            Some(name) => adversary.parameters.variable(name)?,
            None => trainer.parameters.variable(name)?,
        };
        Ok(var.as_tensor().clone())
    })?;
    assert_eq!(after, 32 - skipped(&group).len());
    Ok(())
}

/// Two batches in the order of LlamaGen: one forward pass for both optimisers,
/// gradients clipped, entropy loss.
#[test]
fn llamagen_vq() -> Result<()> {
    let Some(group) = golden::group("llamagen_vq")? else { return Ok(()) };
    let mut config = TrainConfig {
        model: VqConfig {
            layout: Layout::LlamaGen,
            in_channels: 3,
            out_channels: 3,
            ch: 32,
            ch_mult: vec![2, 1],
            num_res_blocks: 2,
            attn_resolutions: Vec::new(),
            resolution: 32,
            z_channels: 24,
            quantizer: QuantizerConfig::Normalized {
                len: 64,
                dim: 8,
                beta: 0.25,
                entropy_ratio: 0.1,
            },
            dropout: 0.0,
        },
        adversarial: AdversarialConfig {
            weight: 0.5,
            // LlamaGen counts steps from 1.
            start: 1,
            sleep: false,
            critic_weight: 0.5,
            order: UpdateOrder::SingleForward,
            patchgan: PatchGanConfig { ndf: 8, n_layers: 2, ..PatchGanConfig::default() },
            ..AdversarialConfig::default()
        },
        ..TrainConfig::default()
    };
    config.loss.pixel = PixelLoss::L2;
    config.loss.perceptual_weight = 1.0;
    config.loss.perceptual_file = group.path("loss.safetensors");
    config.optimizer.adam = AdamConfig { beta1: 0.9, beta2: 0.95, ..AdamConfig::default() };
    config.optimizer.clip = 1.0;

    let mut weights = group.tensors("model.safetensors")?;
    weights.extend(group.tensors("loss.safetensors")?);
    let critic = "discriminator.";
    let mut trainer = trainer(&config, &weights, critic)?;
    let (inputs, expected) = (group.inputs()?, group.expected("train.safetensors")?);
    let mut gradients = 0;
    let mut seen = std::collections::HashSet::from([0u32]);
    for step in 0..2u64 {
        let outcome = trainer.step(&inputs[&format!("train{step}")], 1e-4, step)?;
        let terms = [
            ("codebook_loss", "vq_loss"),
            // The reference's is weighted.
            ("weighted_commit_loss", "commit_loss"),
            ("entropy_loss", "entropy_loss"),
            ("total_loss", "loss_gen"),
            ("grad_norm", "gen_gradnorm_total"),
            ("disc_loss", "loss_disc"),
            ("disc_grad_norm", "disc_gradnorm_total"),
        ];
        let terms = terms.map(|(ours, theirs)| (ours, format!("step{step}/{theirs}")));
        let mut outcome = outcome;
        let commitment = 0.25 * outcome.terms["commit_loss"];
        outcome.terms.insert("weighted_commit_loss", commitment);
        // LlamaGen's ring of codes begins as zeros.
        seen.extend(outcome.codes.as_ref().context("codes")?.to_vec()?);
        let usage = seen.len() as f64 / 64.0;
        group.check_scalar(&format!("step{step}/usage"), usage)?;
        check_terms(&group, &outcome, &terms).with_context(|| format!("step {step}"))?;
        let factor = 1f64.min(1.0 / (outcome.terms["grad_norm"] + 1e-6));
        gradients += check_all(&expected, &format!("step{step}/clipped_grad/"), &[], |name| {
            Ok((gradient(&outcome.gradients, name)? * factor)?)
        })?;
    }
    assert_eq!(gradients, 8);
    let after = check_all(&expected, "after/", &skipped(&group), |name| {
        let adversary = trainer.adversary.as_ref().context("a discriminator")?;
        let var = match name.strip_prefix(critic) {
            Some(name) => adversary.parameters.variable(name)?,
            None => trainer.parameters.variable(name)?,
        };
        Ok(var.as_tensor().clone())
    })?;
    assert_eq!(after, 11);
    Ok(())
}
