use std::collections::HashMap;

use anyhow::{Context, Result};
use candle_core::{DType, Device};
use candle_nn::VarBuilder;

use super::*;
use crate::support::{Variables, noise_tensor};
use crate::{Norm, PatchGan, PatchGanConfig, is_buffer};

/// A critic that has trained once, with noise for parameters.
fn weights(config: &PatchGanConfig, images: &Tensor) -> Result<HashMap<String, Tensor>> {
    let store = Variables::default();
    let critic = PatchGan::new(config, store.builder(DType::F64))?;
    for (i, (name, var)) in store.all().into_iter().enumerate() {
        if var.dtype().is_float() && !is_buffer(&name) {
            let noise = (noise_tensor(90 + i as u64, var.shape())? * 0.5)?;
            var.set(&(noise + f64::from(name.ends_with("3.weight")))?)?;
        }
    }
    critic.logits(images, true)?;
    let copy = |(name, var): (String, Var)| Ok((name, var.as_tensor().copy()?.detach()));
    store.all().into_iter().map(copy).collect()
}

fn build(config: &PatchGanConfig, tensors: HashMap<String, Tensor>) -> Result<PatchGan> {
    Ok(PatchGan::new(config, VarBuilder::from_tensors(tensors, DType::F64, &Device::Cpu))?)
}

fn configs() -> impl Iterator<Item = PatchGanConfig> {
    [
        (Norm::Batch, false),
        (Norm::ActNorm, false),
        (Norm::Group, false),
        (Norm::None, false),
        (Norm::None, true),
    ]
    .into_iter()
    .map(|(norm, spectral)| {
        // Two groups of three channels.
        let ndf = if norm == Norm::Group { 3 } else { 1 };
        PatchGanConfig { in_channels: 1, ndf, n_layers: 1, norm, spectral }
    })
}

#[test]
fn the_value_is_the_square_of_candles_gradient() -> Result<()> {
    for config in configs() {
        let images = noise_tensor(1, (2, 1, 9, 8))?;
        let tensors = weights(&config, &images)?;
        let penalty = r1(&build(&config, tensors.clone())?, &images)?;
        // Spectral norm would move on in training; its vectors are the same without.
        let x = Var::from_tensor(&images)?;
        let logits = build(&config, tensors)?.logits(&x, !config.spectral)?;
        let store = logits.flatten_from(1)?.mean(1)?.sum_all()?.backward()?;
        let gradient = store.get(x.as_tensor()).context("no gradient")?;
        let expected = gradient.sqr()?.sum_all()?.to_scalar::<f64>()? / 2.0;
        assert!(expected > 1e-6, "{config:?}: {expected}");
        let value = penalty.value.to_scalar::<f64>()?;
        assert!((value / expected - 1.0).abs() < 1e-10, "{config:?}: {value}");
        let twice = penalty.surrogate.to_scalar::<f64>()?;
        assert!((twice / (2.0 * expected) - 1.0).abs() < 1e-10, "{config:?}: {twice}");
    }
    Ok(())
}

#[test]
fn gradients_to_every_parameter_are_those_of_the_value() -> Result<()> {
    for config in configs() {
        let images = noise_tensor(1, (2, 1, 8, 8))?;
        let tensors = weights(&config, &images)?;
        let mut names: Vec<String> =
            tensors.keys().filter(|name| !is_buffer(name)).cloned().collect();
        names.sort();
        let inputs: Vec<Tensor> = names.iter().map(|name| tensors[name].clone()).collect();
        golden::gradients::check(&format!("{config:?}"), &inputs, 1e-6, |p| {
            let mut tensors = tensors.clone();
            tensors.extend(names.iter().cloned().zip(p.iter().cloned()));
            let critic = build(&config, tensors).map_err(candle_core::Error::msg)?;
            let penalty = r1(&critic, &images)?;
            let mut value = (&penalty.surrogate - penalty.surrogate.detach())? + penalty.value;
            // Biases in front of a ReLU move no slope: their gradient is 0, not absent.
            for p in p {
                value = value? + (p - p.detach())?.sqr()?.sum_all()?;
            }
            value
        })?;
    }
    Ok(())
}

#[test]
fn statistics_stay_as_they_are() -> Result<()> {
    let config = PatchGanConfig { in_channels: 1, ndf: 2, n_layers: 1, ..Default::default() };
    let store = Variables::default();
    let critic = PatchGan::new(&config, store.builder(DType::F32))?;
    let images = noise_tensor(1, (2, 1, 8, 8))?.to_dtype(DType::F32)?;
    critic.logits(&images, true)?;
    let read = || -> Result<Vec<Vec<f32>>> {
        let buffers = store.all().into_iter().filter(|(name, _)| is_buffer(name));
        buffers.map(|(_, v)| Ok(v.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?)).collect()
    };
    let before = read()?;
    r1(&critic, &images)?;
    assert_eq!(read()?, before);
    Ok(())
}
