use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device};

use super::*;
use crate::build::{adversary, reconstruction_loss};

fn trainer(config: &TrainConfig) -> Result<VqTrainer> {
    trainer_on(config, &Device::Cpu)
}

fn trainer_on(config: &TrainConfig, device: &Device) -> Result<VqTrainer> {
    let parameters = ParameterStore::new(config.seed);
    let model = VqModel::new(&config.model, parameters.var_builder(DType::F32, device))?;
    let loss = reconstruction_loss(config, device)?;
    VqTrainer::new(config, model, parameters, loss, adversary(config, device)?)
}

fn images() -> Result<Tensor> {
    let ramp = Tensor::arange(0f32, (2 * 3 * 16 * 16) as f32, &Device::Cpu)?;
    Ok((ramp * 0.7)?.sin()?.reshape((2, 3, 16, 16))?)
}

/// The gradient that takes the detour over the reconstruction is the gradient
/// of the whole loss.
#[test]
fn one_backward_pass_is_the_chain_rule() -> Result<()> {
    let config = TrainConfig::default();
    let (mut split, whole) = (trainer(&config)?, trainer(&config)?);
    let images = images()?;
    let (made, quantized) = whole.model.forward_train(&images)?;
    let loss = (layers::abs(&(&images - made)?)?.mean_all()? + quantized.losses.total)?;
    let store = loss.backward()?;
    let expected = whole.parameters.gradients(|parameter| store.get(parameter))?;
    let outcome = split.step(&images, 1e-3, 0)?;
    golden::close("total", &Tensor::new(outcome.terms["total_loss"], &Device::Cpu)?, &loss, 1e-6)?;
    assert_eq!(outcome.gradients.len(), expected.len());
    for ((name, actual), (_, expected)) in outcome.gradients.iter().zip(&expected) {
        golden::close(name, actual, expected, 1e-6)?;
    }
    Ok(())
}

#[test]
fn a_loss_falls() -> Result<()> {
    let mut trainer = trainer(&TrainConfig::default())?;
    let images = images()?;
    let first = trainer.step(&images, 1e-3, 0)?.terms["pixel_loss"];
    let mut last = first;
    for step in 1..12 {
        last = trainer.step(&images, 1e-3, step)?.terms["pixel_loss"];
    }
    assert!(last < 0.9 * first, "{first} {last}");
    Ok(())
}

#[test]
fn a_broken_batch_changes_nothing_and_is_named() -> Result<()> {
    let mut trainer = trainer(&TrainConfig::default())?;
    let name = "decoder.conv_out.bias";
    let bias = trainer.parameters.variable(name)?;
    let infinite = Tensor::full(f32::INFINITY, 3, &Device::Cpu)?;
    bias.set(&infinite)?;
    let before = trainer.parameters.variable("encoder.conv_in.weight")?.copy()?;
    let outcome = trainer.step(&images()?, 1e-3, 0)?;
    assert!(
        outcome
            .broken
            .is_some_and(|term| outcome.terms[term].is_infinite() || outcome.terms[term].is_nan())
    );
    assert_eq!(trainer.optimizer.step(), 0);
    golden::close(
        "encoder.conv_in.weight",
        &*trainer.parameters.variable("encoder.conv_in.weight")?,
        &before,
        0.0,
    )
}

/// Everything that a step may change, as bits.
fn state(trainer: &VqTrainer) -> Result<BTreeMap<String, Vec<u64>>> {
    let adversary = trainer.adversary.as_ref().context("a discriminator")?;
    let mut all = BTreeMap::new();
    for (prefix, tensors) in [
        ("model", trainer.parameters.tensors()),
        ("optimizer", trainer.optimizer.state()),
        ("critic", adversary.parameters.tensors()),
        ("critic optimizer", adversary.optimizer.state()),
        ("critic state", adversary.state()?),
    ] {
        for (name, tensor) in tensors {
            let values = tensor.flatten_all()?.to_device(&Device::Cpu)?;
            let values = values.to_dtype(DType::F64)?.to_vec1::<f64>()?;
            let bits = values.into_iter().map(f64::to_bits).collect();
            all.insert(format!("{prefix} {name}"), bits);
        }
    }
    Ok(all)
}

/// Wherever a batch breaks, no weight, moment, running statistic or average of logits
/// moves; and the term is the one that a step sees first which looks at all as they come.
#[test]
fn a_broken_batch_moves_nothing_at_all() -> Result<()> {
    broken_batches(&Device::Cpu)?;
    match Device::new_cuda_with_stream(0) {
        Ok(gpu) => broken_batches(&gpu),
        Err(_) => {
            println!("a_broken_batch_moves_nothing_at_all on a GPU skipped: no CUDA device");
            Ok(())
        }
    }
}

fn broken_batches(device: &Device) -> Result<()> {
    let images = images()?.to_device(device)?;
    let mut config = TrainConfig { batch: 1, ..TrainConfig::default() };
    config.adversarial.weight = 0.5;
    config.adversarial.lecam = 0.1;
    config.adversarial.patchgan =
        discriminator::PatchGanConfig { ndf: 8, n_layers: 1, ..Default::default() };
    let (single, reference) = (UpdateOrder::SingleForward, UpdateOrder::Reference);
    let cases = [
        ("encoder.conv_in.bias", f32::NAN, single, "latent_rms"),
        ("encoder.conv_in.bias", f32::INFINITY, reference, "latent_rms"),
        ("decoder.conv_out.bias", f32::INFINITY, single, "nll_loss"),
        ("decoder.conv_out.bias", f32::NAN, reference, "nll_loss"),
        ("loss.discriminator.main.0.bias", f32::NAN, single, "d_weight"),
        ("loss.discriminator.main.0.bias", f32::NAN, reference, "d_weight"),
        // In the discriminator's own loss alone.
        ("lecam", f32::NAN, single, "disc_grad_norm"),
    ];
    for (name, value, order, term) in cases {
        config.adversarial.order = order;
        let mut trainer = trainer_on(&config, device)?;
        assert_eq!(trainer.step(&images, 1e-3, 0)?.broken, None);
        let adversary = trainer.adversary.as_mut().context("a discriminator")?;
        let fill = |shape: &[usize]| Tensor::full(value, shape, device);
        if name == "lecam" {
            adversary.load_state(&HashMap::from([(name.to_string(), fill(&[2])?)]))?;
        } else {
            let own = trainer.parameters.variable(name);
            let var = own.or_else(|_| adversary.parameters.variable(name))?;
            var.set(&fill(var.dims())?)?;
        }
        let before = state(&trainer)?;
        let updates = trainer.optimizer.step();
        let outcome = trainer.step(&images, 1e-3, 1)?;
        assert_eq!(outcome.broken, Some(term), "{name} {value}");
        assert!(outcome.codes.is_none() && outcome.gradients.is_empty());
        assert!(state(&trainer)? == before, "{name} {value} moved something");
        assert_eq!(trainer.optimizer.step(), updates);
    }
    Ok(())
}

/// Losses are means: the gradients of a batch are those of its parts, put together.
#[test]
fn accumulated_gradients_are_those_of_the_whole_batch() -> Result<()> {
    for order in [UpdateOrder::SingleForward, UpdateOrder::Reference] {
        let mut config = TrainConfig { batch: 3, ..TrainConfig::default() };
        config.adversarial.weight = 0.5;
        // The adaptive weight and batch norm see one part at a time.
        config.adversarial.adaptive = false;
        config.adversarial.order = order;
        config.adversarial.patchgan = discriminator::PatchGanConfig {
            ndf: 8,
            n_layers: 1,
            norm: discriminator::Norm::Group,
            ..Default::default()
        };
        let mut whole = trainer(&config)?;
        config.batch = 2;
        config.accumulate = 2;
        let mut parts = trainer(&config)?;
        let images = Tensor::cat(&[images()?, (images()?.narrow(0, 1, 1)? * 0.3)?], 0)?;
        let (expected, actual) = (whole.step(&images, 1e-3, 0)?, parts.step(&images, 1e-3, 0)?);
        let codes = |outcome: &StepOutcome| outcome.codes.as_ref().map(|c| c.to_vec()).transpose();
        assert_eq!(codes(&actual)?, codes(&expected)?);
        for (name, value) in &expected.terms {
            // Of roots of means there is no mean.
            if *name != "latent_rms" {
                let difference = (actual.terms[name] - value).abs();
                assert!(difference <= 1e-5 * value.abs().max(1.0), "{name}: {difference}");
            }
        }
        for (ours, theirs) in [
            (&actual.gradients, &expected.gradients),
            (&actual.critic_gradients, &expected.critic_gradients),
        ] {
            assert!(ours.len() == theirs.len() && ours.len() > 4);
            for ((name, actual), (_, expected)) in ours.iter().zip(theirs) {
                golden::close(name, actual, expected, 5e-6)?;
            }
        }
    }
    Ok(())
}

#[test]
fn penalties_and_ramp_take_part() -> Result<()> {
    let mut config = TrainConfig::default();
    config.adversarial.weight = 0.5;
    config.adversarial.start = 1;
    config.adversarial.ramp = 1;
    config.adversarial.lecam = 0.1;
    config.adversarial.r1 = 10.0;
    config.adversarial.r1_every = 2;
    config.adversarial.patchgan = discriminator::PatchGanConfig {
        ndf: 8,
        n_layers: 1,
        norm: discriminator::Norm::None,
        spectral: true,
        ..Default::default()
    };
    let mut trainer = trainer(&config)?;
    let mut seen = Vec::new();
    for step in 0..4 {
        let terms = trainer.step(&images()?, 1e-3, step)?.terms;
        assert!(terms.values().all(|value| value.is_finite()), "{terms:?}");
        let has = |name: &str| terms.contains_key(name);
        seen.push((terms.get("disc_factor").copied(), has("lecam"), has("r1")));
    }
    let expected = [
        (None, false, false),
        (Some(0.5), false, false),
        (Some(1.0), true, true),
        (Some(1.0), true, false),
    ];
    assert_eq!(seen, expected);
    Ok(())
}
