use std::collections::HashMap;

use anyhow::Result;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{ModuleT, VarBuilder};

use super::BatchNorm;
use crate::support::{Variables, noise_tensor};

/// A batch norm of the given `weight` and `bias`, running statistics 0.3 and 1.7.
fn norm(weight: &Tensor, bias: &Tensor) -> candle_core::Result<BatchNorm> {
    let c = weight.dim(0)?;
    let full = |value: f64| Tensor::full(value, c, &Device::Cpu);
    let tensors = HashMap::from([
        ("weight".to_string(), weight.clone()),
        ("bias".to_string(), bias.clone()),
        ("running_mean".to_string(), full(0.3)?),
        ("running_var".to_string(), full(1.7)?),
        ("num_batches_tracked".to_string(), Tensor::new(0_i64, &Device::Cpu)?),
    ]);
    BatchNorm::new(c, VarBuilder::from_tensors(tensors, DType::F64, &Device::Cpu))
}

#[test]
fn gradients_are_those_of_the_formula() -> Result<()> {
    let x = noise_tensor(1, (2, 3, 3, 2))?;
    let (weight, bias) = (noise_tensor(2, 3)?, noise_tensor(3, 3)?);
    let probe = noise_tensor(4, (2, 3, 3, 2))?;
    for train in [true, false] {
        golden::gradients::check(
            "batch_norm",
            &[x.clone(), weight.clone(), bias.clone()],
            1e-8,
            |p| norm(&p[1], &p[2])?.forward_t(&p[0], train)?.mul(&probe)?.sum_all(),
        )?;
    }
    Ok(())
}

#[test]
fn statistics_are_written_into_the_stores_variables() -> Result<()> {
    let store = Variables::default();
    let norm = BatchNorm::new(1, store.builder(DType::F64))?;
    let x = Tensor::new(&[[[[1_f64, 2.], [3., 6.]]]], &Device::Cpu)?;
    let y = norm.forward_t(&x, true)?;
    // Mean 3, population variance 3.5, sample variance 14/3.
    let vars: HashMap<String, Var> = store.all().into_iter().collect();
    let value = |name: &str| vars[name].flatten_all()?.to_vec1::<f64>();
    assert!((value("running_mean")?[0] - 0.3).abs() < 1e-12);
    assert!((value("running_var")?[0] - (0.9 + 1.4 / 3.0)).abs() < 1e-12);
    assert_eq!(vars["num_batches_tracked"].to_scalar::<i64>()?, 1);
    let first = y.flatten_all()?.to_vec1::<f64>()?[0];
    assert!((first - value("weight")?[0] * -2.0 / (3.5_f64 + 1e-5).sqrt()).abs() < 1e-12);

    norm.forward_t(&x, false)?;
    assert_eq!(vars["num_batches_tracked"].to_scalar::<i64>()?, 1, "evaluation counts nothing");
    norm.forward_t(&x, true)?;
    assert_eq!(vars["num_batches_tracked"].to_scalar::<i64>()?, 2);
    Ok(())
}

#[test]
fn a_large_mean_does_not_eat_the_variance() -> Result<()> {
    let norm = BatchNorm::new(1, Variables::default().builder(DType::F32))?;
    let x = (noise_tensor(1, (4, 1, 8, 8))? * 0.1)?;
    let near = norm.forward_t(&x.to_dtype(DType::F32)?, true)?;
    let far = norm.forward_t(&(x + 1000.0)?.to_dtype(DType::F32)?, true)?;
    golden::close("normalised", &far, &near, 5e-3)
}

#[test]
fn one_value_has_no_variance() -> Result<()> {
    let norm = BatchNorm::new(2, Variables::default().builder(DType::F32))?;
    let x = Tensor::zeros((1, 2, 1, 1), DType::F32, &Device::Cpu)?;
    assert!(norm.forward_t(&x, true).is_err());
    assert!(norm.forward_t(&x, false).is_ok());
    let other = Tensor::zeros((1, 3, 2, 2), DType::F32, &Device::Cpu)?;
    assert!(norm.forward_t(&other, true).is_err());
    Ok(())
}

#[test]
fn half_precision_keeps_its_dtype() -> Result<()> {
    let norm = BatchNorm::new(2, Variables::default().builder(DType::F16))?;
    let x = noise_tensor(1, (2, 2, 3, 3))?.to_dtype(DType::F16)?;
    for train in [true, false] {
        let y = norm.forward_t(&x, train)?;
        assert_eq!((y.dtype(), y.shape()), (DType::F16, x.shape()));
    }
    Ok(())
}
