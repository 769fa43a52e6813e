//! The reference's LPIPS, full width and narrow.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarBuilder;
use perceptual::{Lpips, LpipsConfig};

/// CRC-32 (IEEE), as zlib's.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 * (crc & 1)))
    })
}

/// The manifest's formula: `count` numbers in `[0, 1)` for the tensor `name`.
fn uniform(name: &str, seed: u64, count: usize) -> impl Iterator<Item = f32> {
    let key = u64::from(crc32(name.as_bytes())).wrapping_add(seed.wrapping_mul(0x1_0000_0001));
    (1..=count as u64).map(move |i| {
        let mut z = key.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        (z >> 40) as f32 * (1.0 / (1 << 24) as f32)
    })
}

/// VGG-16 with the formula's weights, as the manifest describes them.
fn formula_vgg(seed: u64) -> Result<HashMap<String, Tensor>> {
    let layers = [(1, 0, 3, 64), (1, 2, 64, 64), (2, 5, 64, 128), (2, 7, 128, 128)]
        .into_iter()
        .chain([(3, 10, 128, 256), (3, 12, 256, 256), (3, 14, 256, 256)])
        .chain([(4, 17, 256, 512), (4, 19, 512, 512), (4, 21, 512, 512)])
        .chain([(5, 24, 512, 512), (5, 26, 512, 512), (5, 28, 512, 512)]);
    let mut tensors = HashMap::new();
    for (slice, i, from, to) in layers {
        let name = format!("net.slice{slice}.{i}.weight");
        let bound = (6.0 / (from * 9) as f64).sqrt() as f32;
        let values: Vec<f32> =
            uniform(&name, seed, to * from * 9).map(|u| (u * 2.0 - 1.0) * bound).collect();
        tensors.insert(name, Tensor::from_vec(values, (to, from, 3, 3), &Device::Cpu)?);
        let name = format!("net.slice{slice}.{i}.bias");
        let values: Vec<f32> = uniform(&name, seed, to).map(|u| u * 0.25).collect();
        tensors.insert(name, Tensor::from_vec(values, to, &Device::Cpu)?);
    }
    Ok(tensors)
}

#[test]
fn full_width_is_the_reference() -> Result<()> {
    let Some(group) = golden::group("lpips_full")? else { return Ok(()) };
    let seed = group.manifest()["seed"].as_u64().context("no seed")?;
    let mut weights = formula_vgg(seed)?;
    for (name, tensor) in &weights {
        let check = &group.manifest()["extra"]["weight_checks"][name];
        let values = tensor.flatten_all()?.to_vec1::<f32>()?;
        let sum: f64 = values.iter().map(|&v| f64::from(v)).sum();
        let (first, last) = (values[0], values[values.len() - 1]);
        for (i, actual) in [sum, f64::from(first), f64::from(last)].into_iter().enumerate() {
            let expected = check[i].as_f64().context("no weight check")?;
            ensure!((actual - expected).abs() < 1e-6, "{name}: {actual} is not {expected}");
        }
    }
    weights.extend(group.tensors("lins.safetensors")?);
    let lpips = Lpips::new(
        &LpipsConfig::default(),
        VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu),
    )?;

    let inputs = group.inputs()?;
    let (x, y) = (&inputs["x"], Var::from_tensor(&inputs["y"])?);
    let expected = group.expected("outputs.safetensors")?;
    let scaled = lpips.scaled(x)?;
    expected.check("scaled_x", &scaled)?;
    for (i, features) in lpips.net().features(&scaled)?.iter().enumerate() {
        let mean = format!("feat{i}_mean_c");
        expected.check(&mean, &features.flatten_from(2)?.mean(2)?)?;
        let first = format!("feat{i}_first");
        let channels = expected.get(&first)?.dim(1)?;
        expected.check(&first, &features.narrow(1, 0, channels)?)?;
    }
    let distance = lpips.forward(x, &y)?;
    assert_eq!(distance.dims(), expected.get("lpips")?.dims());
    expected.check("lpips", &distance)?;
    let grads = distance.sum_all()?.backward()?;
    expected.check("grad_y", grads.get(&y).context("no gradient")?)
}

#[test]
fn narrow_network_from_a_checkpoint_is_the_reference() -> Result<()> {
    let Some(group) = golden::group("vqgan_a")? else { return Ok(()) };
    let weights: HashMap<String, Tensor> = group.tensors("model.safetensors")?;
    let vb = VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu);
    let vb = vb.pp("loss.perceptual_loss");
    let lpips = Lpips::new(&LpipsConfig::of_weights(&vb)?, vb)?;
    let expected = group.expected("outputs.safetensors")?;
    let distance = lpips.forward(&group.inputs()?["x"], expected.get("rec")?)?;
    expected.check("val/lpips", &distance)?;
    group.check_scalar("val/p_loss", f64::from(distance.mean_all()?.to_scalar::<f32>()?))
}
