use anyhow::Result;
use candle_core::{DType, Device, Tensor, Var};

use super::*;
use crate::is_buffer;
use crate::support::{Variables, noise_tensor};

fn config(norm: Norm, n_layers: usize) -> PatchGanConfig {
    PatchGanConfig { in_channels: 2, ndf: 3, n_layers, norm, spectral: false }
}

#[test]
fn keys_and_shapes_are_the_references() -> Result<()> {
    let store = Variables::default();
    let sizes = PatchGanConfig { ndf: 4, n_layers: 5, ..PatchGanConfig::default() };
    PatchGan::new(&sizes, store.builder(DType::F32))?;
    let all = store.all();
    let shape =
        |key: &str| all.iter().find(|(name, _)| name == key).map(|(_, var)| var.dims().to_vec());
    assert_eq!(shape("main.0.weight"), Some(vec![4, 3, 4, 4]));
    assert_eq!(shape("main.0.bias"), Some(vec![4]));
    assert_eq!(shape("main.8.weight"), Some(vec![32, 16, 4, 4]));
    assert_eq!(shape("main.8.bias"), None);
    // From the fourth doubling on the width stays.
    assert_eq!(shape("main.14.weight"), Some(vec![32, 32, 4, 4]));
    assert_eq!(shape("main.15.num_batches_tracked"), Some(vec![]));
    assert_eq!(shape("main.17.weight"), Some(vec![1, 32, 4, 4]));
    assert_eq!(shape("main.17.bias"), Some(vec![1]));
    assert_eq!(all.len(), 2 + 5 * 6 + 2);
    assert_eq!(all.iter().filter(|(name, _)| is_buffer(name)).count(), 5 * 3);
    Ok(())
}

#[test]
fn every_side_from_the_smallest_up() -> Result<()> {
    for norm in [Norm::Batch, Norm::ActNorm, Norm::Group, Norm::None] {
        for n_layers in 1..=3 {
            let sizes = config(norm, n_layers);
            let critic = PatchGan::new(&sizes, Variables::default().builder(DType::F64))?;
            let min = sizes.min_side();
            for (h, w) in [(min, min), (min + 1, min + 9), (min + 6, min + 3)] {
                let logits = critic.logits(&noise_tensor(1, (2, 2, h, w))?, true)?;
                assert_eq!(logits.dims(), [2, 1, (h >> n_layers) - 2, (w >> n_layers) - 2]);
            }
            assert!(critic.logits(&noise_tensor(1, (2, 2, min - 1, min))?, true).is_err());
            assert!(critic.logits(&noise_tensor(1, (2, 3, min, min))?, true).is_err());
        }
    }
    Ok(())
}

#[test]
fn gradients_to_images_of_odd_sizes() -> Result<()> {
    for (norm, train) in
        [(Norm::Batch, true), (Norm::Batch, false), (Norm::ActNorm, true), (Norm::Group, true)]
    {
        let store = Variables::default();
        let critic = PatchGan::new(&config(norm, 2), store.builder(DType::F64))?;
        let x = noise_tensor(1, (2, 2, 13, 16))?;
        let logits = critic.logits(&x, true)?;
        let probe = noise_tensor(2, logits.shape())?;
        golden::gradients::check(&format!("{norm:?}"), &[x], 1e-6, |p| {
            critic.logits(&p[0], train)?.mul(&probe)?.sum_all()
        })?;
    }
    Ok(())
}

/// What a tape finds is what candle's graph finds, for every norm.
#[test]
fn tapes_find_the_same() -> Result<()> {
    for (norm, spectral) in [
        (Norm::Batch, false),
        (Norm::ActNorm, false),
        (Norm::Group, false),
        (Norm::None, false),
        (Norm::None, true),
    ] {
        let sizes = PatchGanConfig { spectral, ..config(norm, 2) };
        // Of its own: statistics move in each pass.
        let critic = || -> Result<_> {
            let store = Variables::default();
            let critic = PatchGan::new(&sizes, store.builder(DType::F32))?;
            for (_, var) in store.all().iter().filter(|(name, _)| name.ends_with("weight")) {
                var.set(&(var.as_detached_tensor() * 10.0)?)?;
            }
            Ok((critic, store))
        };
        let x = Var::from_tensor(&noise_tensor(1, (2, 2, 17, 16))?.to_dtype(DType::F32)?)?;
        let (plain, plain_store) = critic()?;
        let logits = plain.logits(&x, true)?;
        let probe = noise_tensor(2, logits.shape())?.to_dtype(DType::F32)?;
        let expected = logits.mul(&probe)?.sum_all()?.backward()?;
        let (taped, taped_store) = critic()?;
        let (mut tape, mut gradients) = (Tape::default(), layers::Gradients::default());
        let on_tape = taped.logits_taped(x.as_tensor(), &mut tape)?;
        golden::close(&format!("{norm:?} logits"), &on_tape, &logits, 1e-4)?;
        let dx = tape.backward(&probe, &mut gradients)?;
        let dx = dx.ok_or_else(|| anyhow::anyhow!("no gradient"))?;
        let own = expected.get(x.as_tensor()).ok_or_else(|| anyhow::anyhow!("no gradient"))?;
        let size = own.abs()?.max_all()?.to_scalar::<f32>()?;
        golden::close(&format!("{norm:?} dx"), &dx, own, 1e-4 * f64::from(size))?;
        for ((name, a), (_, b)) in plain_store.all().iter().zip(&taped_store.all()) {
            if is_buffer(name) {
                continue;
            }
            let own = expected.get(a.as_tensor());
            let own = own.ok_or_else(|| anyhow::anyhow!("{name}: no gradient"))?;
            let other = gradients.get(b.as_tensor());
            let other = other.ok_or_else(|| anyhow::anyhow!("{name}: no taped gradient"))?;
            let size = own.abs()?.max_all()?.to_scalar::<f32>()?.max(1e-2);
            golden::close(&format!("{norm:?} {name}"), other, own, 2e-4 * f64::from(size))?;
        }
    }
    Ok(())
}

#[test]
fn group_norm_takes_any_width_and_any_batch() -> Result<()> {
    let store = Variables::default();
    let critic = PatchGan::new(&config(Norm::Group, 2), store.builder(DType::F64))?;
    let x = noise_tensor(1, (3, 2, 16, 16))?;
    let together = critic.logits(&x, true)?;
    let alone = critic.logits(&x.narrow(0, 1, 1)?, false)?;
    golden::close("second image", &together.narrow(0, 1, 1)?, &alone, 1e-12)
}

#[test]
fn nonsense_is_refused() {
    let vb = Variables::default().builder(DType::F32);
    for sizes in [
        PatchGanConfig { n_layers: 0, ..PatchGanConfig::default() },
        PatchGanConfig { n_layers: 99, ..PatchGanConfig::default() },
        PatchGanConfig { ndf: 0, ..PatchGanConfig::default() },
        PatchGanConfig { in_channels: 0, ..PatchGanConfig::default() },
    ] {
        assert!(PatchGan::new(&sizes, vb.clone()).is_err());
    }
}

#[test]
fn configurations_may_name_only_what_differs() -> Result<()> {
    let read: PatchGanConfig = serde_json::from_str(r#"{"ndf": 32, "norm": "act_norm"}"#)?;
    let expected = PatchGanConfig { ndf: 32, norm: Norm::ActNorm, ..PatchGanConfig::default() };
    assert_eq!(read, expected);
    assert!(serde_json::from_str::<PatchGanConfig>(r#"{"nfd": 32}"#).is_err());
    Ok(())
}

#[test]
fn plain_tensors_are_left_alone() -> Result<()> {
    let store = Variables::default();
    PatchGan::new(&config(Norm::Batch, 1), store.builder(DType::F32))?;
    let mut tensors = std::collections::HashMap::new();
    for (name, var) in store.all() {
        tensors.insert(name, var.as_tensor().copy()?.detach());
    }
    let vb = VarBuilder::from_tensors(tensors.clone(), DType::F32, &Device::Cpu);
    let critic = PatchGan::new(&config(Norm::Batch, 1), vb)?;
    critic.logits(&noise_tensor(1, (2, 2, 8, 8))?.to_dtype(DType::F32)?, true)?;
    let mean = tensors["main.3.running_mean"].to_vec1::<f32>()?;
    assert!(mean.iter().all(|&m| m == 0.0));
    assert_eq!(Tensor::to_scalar::<i64>(&tensors["main.3.num_batches_tracked"])?, 0);
    Ok(())
}
