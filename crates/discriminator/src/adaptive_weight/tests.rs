use anyhow::Result;
use candle_core::{DType, Device, Tensor, Var};

use super::*;

fn weight(nll: &[f64], g: &[f64]) -> Result<f64> {
    let (nll, g) = (Tensor::new(nll, &Device::Cpu)?, Tensor::new(g, &Device::Cpu)?);
    Ok(adaptive_weight(&nll, &g)?.to_scalar::<f64>()?)
}

#[test]
fn is_the_ratio_of_norms() -> Result<()> {
    assert!((weight(&[3.0, -4.0], &[0.0, 2.0])? - 5.0 / 2.0001).abs() < 1e-12);
    assert_eq!(weight(&[0.0, 0.0], &[1.0, 1.0])?, 0.0);
    Ok(())
}

#[test]
fn is_clamped_and_shows_a_broken_gradient() -> Result<()> {
    assert!((weight(&[0.5], &[0.0])? - 5e3).abs() < 1e-6);
    assert_eq!(weight(&[3.0], &[0.0])?, 1e4);
    assert!(weight(&[f64::NAN], &[1.0])?.is_nan());
    assert!(weight(&[1.0], &[f64::NAN])?.is_nan());
    assert!(weight(&[1.0, 2.0], &[1.0]).is_err());
    Ok(())
}

#[test]
fn carries_no_gradient() -> Result<()> {
    let nll = Var::from_tensor(&Tensor::new(&[3_f32, 4.0], &Device::Cpu)?)?;
    let lambda = adaptive_weight(&nll, &nll)?;
    let loss = (nll.sum_all()? * &lambda)?;
    let grads = loss.backward()?;
    let grad = grads.get(&nll).map(Tensor::to_vec1::<f32>).transpose()?.unwrap_or_default();
    let lambda = lambda.to_scalar::<f32>()?;
    assert_eq!(grad, [lambda, lambda]);
    Ok(())
}

#[test]
fn half_precision_gradients_do_not_overflow() -> Result<()> {
    let nll = Tensor::full(300_f32, 1000, &Device::Cpu)?.to_dtype(DType::F16)?;
    let lambda = adaptive_weight(&nll, &nll)?.to_scalar::<f32>()?;
    assert!((lambda - 1.0).abs() < 1e-3);
    Ok(())
}

#[test]
fn a_ramp_rises_in_even_steps() {
    assert_eq!([0, 9, 10, 11].map(|step| ramp(step, 10, 0)), [0.0, 0.0, 1.0, 1.0]);
    assert_eq!(
        [9, 10, 11, 12, 13, 99].map(|step| ramp(step, 10, 3)),
        [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    );
}
