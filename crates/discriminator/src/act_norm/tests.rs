use std::collections::HashMap;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use candle_nn::{ModuleT, VarBuilder};

use super::ActNorm;
use crate::support::{Variables, noise_tensor};

#[test]
fn the_first_training_batch_sets_it() -> Result<()> {
    let store = Variables::default();
    let norm = ActNorm::new(3, store.builder(DType::F64))?;
    let x = noise_tensor(1, (2, 3, 4, 5))?.affine(3.0, 7.0)?;
    golden::close("untouched by evaluation", &norm.forward_t(&x, false)?, &x, 0.0)?;
    assert!(!norm.is_initialized()?);

    let y = norm.forward_t(&x, true)?;
    let y = y.transpose(0, 1)?.flatten_from(1)?;
    golden::close("mean", &y.mean(1)?, &Tensor::zeros(3, DType::F64, &Device::Cpu)?, 1e-12)?;
    // 1 / (std + 1e-6), so the deviation falls a little short of 1.
    golden::close("variance", &y.var(1)?, &Tensor::ones(3, DType::F64, &Device::Cpu)?, 1e-5)?;
    assert!(
        store
            .all()
            .iter()
            .any(|(name, var)| { name == "initialized" && matches!(var.to_scalar::<u8>(), Ok(1)) })
    );

    let other = (&x * 2.0)?;
    let before = norm.forward_t(&other, false)?;
    golden::close("second batch", &norm.forward_t(&other, true)?, &before, 0.0)
}

#[test]
fn gradients_are_those_of_the_formula() -> Result<()> {
    let x = noise_tensor(1, (2, 3, 3, 2))?;
    let (loc, scale) = (noise_tensor(2, (1, 3, 1, 1))?, noise_tensor(3, (1, 3, 1, 1))?);
    let probe = noise_tensor(4, (2, 3, 3, 2))?;
    golden::gradients::check("act_norm", &[x, loc, scale], 1e-8, |p| {
        let tensors = HashMap::from([
            ("loc".to_string(), p[1].clone()),
            ("scale".to_string(), p[2].clone()),
            ("initialized".to_string(), Tensor::new(1_u8, &Device::Cpu)?),
        ]);
        let vb = VarBuilder::from_tensors(tensors, DType::F64, &Device::Cpu);
        ActNorm::new(3, vb)?.forward_t(&p[0], true)?.mul(&probe)?.sum_all()
    })
}

#[test]
fn one_value_has_no_deviation() -> Result<()> {
    let norm = ActNorm::new(2, Variables::default().builder(DType::F32))?;
    assert!(norm.forward_t(&Tensor::zeros((1, 2, 1, 1), DType::F32, &Device::Cpu)?, true).is_err());
    Ok(())
}
