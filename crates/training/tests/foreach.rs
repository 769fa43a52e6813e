//! What a step does to all parameters at once, on an NVIDIA GPU: bit for bit what the CPU
//! makes of them. Where there is none, the tests say so and pass.

use std::collections::HashMap;

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};
use candle_nn::Init;
use training::{Adam, AdamConfig, Average, ParameterStore, initial_value};

/// The first GPU, if this build and machine have one.
fn gpu(test: &str) -> Option<Device> {
    let device = Device::new_cuda_with_stream(0).ok();
    match &device {
        Some(device) => layers::cuda::prepare(device).ok()?,
        None => println!("{test} skipped: no CUDA device"),
    }
    device
}

/// Of rank 1 and 2, small and of several blocks.
fn shapes() -> Vec<Vec<usize>> {
    let shape = |i: usize| match i % 3 {
        0 => vec![1 + 97 * i % 1000],
        1 => vec![1 + i % 90, 1 + i * i % 130],
        _ => vec![3, 5000 + i],
    };
    (0..200).map(shape).collect()
}

/// The parameter `p000` and so on; in bf16 the model's copies of them.
fn parameters(store: &ParameterStore, dtype: DType, device: &Device) -> Result<Vec<Tensor>> {
    let vb = store.var_builder(dtype, device);
    let hint = Init::Randn { mean: 0.0, stdev: 0.1 };
    let get = |(i, shape)| Ok(vb.get_with_hints(shape, &format!("p{i:03}"), hint)?);
    shapes().into_iter().enumerate().map(get).collect()
}

/// Some parameters have no gradient in some steps, and matrices' are transposed.
fn gradients(step: u64, device: &Device) -> Result<Vec<(String, Tensor)>> {
    let mut gradients = Vec::new();
    for (i, mut shape) in shapes().into_iter().enumerate() {
        if (i as u64 + step).is_multiple_of(7) {
            continue;
        }
        shape.reverse();
        let (name, hint) = (format!("p{i:03}"), Init::Randn { mean: 0.01, stdev: 1.0 });
        let value = initial_value(step, &name, &shape.into(), hint, DType::F32, &Device::Cpu)?;
        let value = value.to_device(device)?;
        gradients.push((name, if value.rank() == 2 { value.t()? } else { value }));
    }
    Ok(gradients)
}

fn same(what: &str, actual: &Tensor, expected: &Tensor) -> Result<()> {
    let bits = |tensor: &Tensor| -> Result<Vec<u32>> {
        let values = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?;
        Ok(values.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect())
    };
    ensure!(bits(actual)? == bits(expected)?, "{what} differs");
    Ok(())
}

#[test]
fn adam_averages_and_copies() -> Result<()> {
    let Some(device) = gpu("adam_averages_and_copies") else { return Ok(()) };
    let run = |device: &Device| -> Result<_> {
        let store = ParameterStore::new(3);
        let model = parameters(&store, DType::BF16, device)?;
        let config = AdamConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
        let mut adam = Adam::with_groups(config, &store, |_, rank| rank == 2)?;
        let average = Average::new(0.9, &store, |own| parameters(own, DType::F32, device))?;
        for step in 1..=5 {
            adam.update(&gradients(step, device)?, 3e-3, 1.0 / step as f64)?;
            store.refresh()?;
            average.follow(&store, step)?;
        }
        Ok((store, model, adam, average))
    };
    let (store, model, adam, average) = run(&device)?;
    let (cpu_store, cpu_model, cpu_adam, cpu_average) = run(&Device::Cpu)?;
    for (what, actual, expected) in [
        ("parameter", store.tensors(), cpu_store.tensors()),
        ("moment", adam.state(), cpu_adam.state()),
        ("average", average.parameters.tensors(), cpu_average.parameters.tensors()),
    ] {
        assert!(actual.len() == expected.len() && actual.len() >= shapes().len());
        for (name, actual) in &actual {
            same(&format!("{what} {name}"), actual, &expected[name])?;
        }
    }
    for (i, (actual, expected)) in model.iter().zip(&cpu_model).enumerate() {
        same(&format!("copy {i}"), actual, expected)?;
    }
    println!("ok adam_averages_and_copies");
    Ok(())
}

#[test]
fn gradients_of_copies_become_those_of_masters() -> Result<()> {
    let Some(device) = gpu("gradients_of_copies_become_those_of_masters") else { return Ok(()) };
    let store = ParameterStore::new(3);
    let model = parameters(&store, DType::BF16, &device)?;
    let codebook = store.var_builder(DType::BF16, &device).get((4, 5), "quantize.embedding")?;
    let mut found = HashMap::new();
    for (i, parameter) in model.iter().chain([&codebook]).enumerate() {
        // Every fifth has none.
        if !i.is_multiple_of(5) || i == model.len() {
            found.insert(parameter.id(), (parameter * 3.0)?);
        }
    }
    let actual = store.gradients(|parameter| found.get(&parameter.id()))?;
    assert_eq!(actual.len(), found.len());
    for (name, gradient) in &actual {
        assert_eq!(gradient.dtype(), DType::F32, "{name}");
        let (i, master) = (name[1..].parse::<usize>(), store.variable(name)?);
        let given = i.map_or(&codebook, |i| &model[i]);
        same(name, gradient, &found[&given.id()].to_dtype(DType::F32)?)?;
        assert_eq!(gradient.dims(), master.dims());
    }
    println!("ok gradients_of_copies_become_those_of_masters");
    Ok(())
}
