use anyhow::Result;
use candle_core::{Device, Tensor, Var};

use super::*;
use crate::support::noise_tensor;

fn scalar(t: Tensor) -> Result<f64> {
    Ok(t.to_scalar::<f64>()?)
}

fn vector(values: &[f64]) -> Result<Tensor> {
    Ok(Tensor::new(values, &Device::Cpu)?)
}

#[test]
fn gradients_are_those_of_the_formulas() -> Result<()> {
    let logits = [(noise_tensor(1, (2, 1, 3, 4))? * 3.0)?, (noise_tensor(2, (2, 1, 3, 4))? * 3.0)?];
    use DiscriminatorLoss as D;
    for loss in [D::Hinge, D::Vanilla] {
        golden::gradients::check(&format!("{loss:?}"), &logits, 1e-8, |p| loss.loss(&p[0], &p[1]))?;
    }
    use GeneratorLoss as G;
    for loss in [G::Hinge, G::NonSaturating, G::LlamaGenNonSaturating] {
        golden::gradients::check(&format!("{loss:?}"), &logits[1..], 1e-8, |p| loss.loss(&p[0]))?;
    }
    golden::gradients::check("real", &logits[..1], 1e-8, |p| llamagen_d_loss(&p[0], &logits[1]))
}

#[test]
fn values_are_those_of_the_formulas() -> Result<()> {
    let (real, fake) = (vector(&[0.5, 2.0])?, vector(&[-3.0, 1.0])?);
    let softplus = |x: f64| x.exp().ln_1p();
    assert!((scalar(hinge_d_loss(&real, &fake)?)? - 0.5 * (0.25 + 1.0)).abs() < 1e-12);
    let vanilla = 0.25 * (softplus(-0.5) + softplus(-2.0) + softplus(-3.0) + softplus(1.0));
    assert!((scalar(vanilla_d_loss(&real, &fake)?)? - vanilla).abs() < 1e-12);
    assert!((scalar(generator_loss(&fake)?)? - 1.0).abs() < 1e-12);
    let sure = 0.5 * (softplus(3.0) + softplus(-1.0));
    assert!((scalar(non_saturating_g_loss(&fake)?)? - sure).abs() < 1e-12);
    // max(l, 0) - l t + ln(1 + e^-|l|) with l = 1, t = -3 and 1.
    let swapped = 1.0 + softplus(-1.0) - (-3.0 + 1.0) / 2.0;
    assert!((scalar(llamagen_g_loss(&fake)?)? - swapped).abs() < 1e-12);
    Ok(())
}

#[test]
fn confident_logits_neither_overflow_nor_lose_their_gradient() -> Result<()> {
    let real = Var::from_tensor(&Tensor::new(&[-1e4_f32, 0.0, 1e4], &Device::Cpu)?)?;
    let fake = Tensor::new(&[-1e4_f32, 0.0, 1e4], &Device::Cpu)?;
    let loss = vanilla_d_loss(&real, &fake)?;
    assert!((loss.to_scalar::<f32>()? - (1e4 + 2_f32.ln()) / 3.0).abs() < 1e-2);
    let grads = loss.backward()?;
    let grad = grads.get(&real).map(Tensor::to_vec1::<f32>).transpose()?.unwrap_or_default();
    // -sigmoid(-x) / 6
    let expected = [-1.0 / 6.0, -0.5 / 6.0, 0.0];
    assert_eq!(grad.len(), 3);
    for (grad, expected) in grad.iter().zip(expected) {
        assert!((grad - expected).abs() < 1e-6, "{grad} is not {expected}");
    }
    Ok(())
}

#[test]
fn a_satisfied_hinge_pushes_no_more() -> Result<()> {
    let real = Var::from_tensor(&vector(&[1.0, 1.5, 0.5])?)?;
    let loss = hinge_d_loss(&real, &vector(&[-1.0])?)?;
    let grads = loss.backward()?;
    let grad = grads.get(&real).map(Tensor::to_vec1::<f64>).transpose()?.unwrap_or_default();
    assert_eq!(grad, [0.0, 0.0, -0.5 / 3.0]);
    Ok(())
}

#[test]
fn names_in_configurations() -> Result<()> {
    let name = serde_json::to_string(&DiscriminatorLoss::LlamaGenNonSaturating)?;
    assert_eq!(name, "\"llamagen_non_saturating\"");
    assert_eq!(serde_json::from_str::<GeneratorLoss>("\"hinge\"")?, GeneratorLoss::Hinge);
    Ok(())
}
