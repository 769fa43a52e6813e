//! Gradients against finite differences in f64, and against formulas.

use anyhow::{Context, Result, ensure};
use candle_core::{D, Device, Tensor, Var};
use candle_nn::ops::softmax;
use codebook::{
    EmaQuantizer, EmaState, EuclideanQuantizer, GumbelQuantizer, NormalizedQuantizer, Quantizer,
    entropy_loss, gumbel_noise,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn random(seed: u64, shape: &[usize]) -> Result<Tensor> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f64> =
        (0..shape.iter().product()).map(|_| rng.random_range(-1.5..1.5)).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

fn values(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(tensor.flatten_all()?.to_vec1()?)
}

/// The gradient of `f` at `x` by central differences.
fn differences(x: &Tensor, f: &dyn Fn(&Tensor) -> Result<Tensor>) -> Result<Vec<f64>> {
    let (at, step) = (values(x)?, 1e-5);
    let moved = |i: usize, by: f64| -> Result<f64> {
        let mut at = at.clone();
        at[i] += by;
        Ok(f(&Tensor::from_vec(at, x.shape(), &Device::Cpu)?)?.to_scalar()?)
    };
    (0..at.len()).map(|i| Ok((moved(i, step)? - moved(i, -step)?) / (2.0 * step))).collect()
}

/// Checks the gradient of `f` to each of `at` (the others held) against
/// differences of `surrogate`, which is `f` where `f` has no stopped gradients.
fn check(
    at: &[Tensor],
    f: &dyn Fn(&[Tensor]) -> Result<Tensor>,
    surrogate: &dyn Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<()> {
    let vars = at.iter().map(Var::from_tensor).collect::<candle_core::Result<Vec<_>>>()?;
    let tracked: Vec<_> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let gradients = f(&tracked)?.backward()?;
    for (i, var) in vars.iter().enumerate() {
        let actual = values(gradients.get(var).with_context(|| format!("no gradient {i}"))?)?;
        let expected = differences(&at[i], &|x| {
            let mut at = at.to_vec();
            at[i] = x.clone();
            surrogate(&at)
        })?;
        for (j, (a, e)) in actual.iter().zip(&expected).enumerate() {
            ensure!((a - e).abs() < 1e-7 * (1.0 + e.abs()), "gradient {i}[{j}]: {a} is not {e}");
        }
    }
    Ok(())
}

/// Codebook, projection weight, bias and `z` of a Gumbel quantizer.
fn gumbel_case() -> Result<(Vec<Tensor>, Tensor, Tensor)> {
    let shapes: [&[usize]; 4] = [&[7, 4], &[7, 5, 1, 1], &[7], &[2, 5, 2, 3]];
    let at = shapes.iter().enumerate().map(|(i, shape)| random(i as u64, shape));
    let noise = gumbel_noise((2, 7, 2, 3), 11, 0, &Device::Cpu)?;
    Ok((at.collect::<Result<_>>()?, noise, random(9, &[2, 4, 2, 3])?))
}

fn gumbel(at: &[Tensor]) -> Result<GumbelQuantizer> {
    Ok(GumbelQuantizer::new(at[0].clone(), at[1].clone(), at[2].clone(), 0.3, true)?)
}

#[test]
fn gumbel_soft() -> Result<()> {
    let (at, noise, w) = gumbel_case()?;
    let loss = |at: &[Tensor]| -> Result<Tensor> {
        let quantized = gumbel(at)?.sample(&at[3], 0.7, false, &noise)?;
        Ok(((quantized.embeddings * &w)?.sum_all()? + quantized.losses.total)?)
    };
    check(&at, &loss, &loss)
}

#[test]
fn gumbel_hard_has_the_gradient_of_the_soft_weights() -> Result<()> {
    let (at, noise, w) = gumbel_case()?;
    let temperature = 0.7;
    let hard = |at: &[Tensor]| -> Result<Tensor> {
        let quantized = gumbel(at)?.sample(&at[3], temperature, true, &noise)?;
        Ok(((quantized.embeddings * &w)?.sum_all()? + quantized.losses.total)?)
    };
    // `y_hard - sg[y] + y` written out, with the stopped part a constant.
    let rows = |map: &Tensor, dim: usize| map.permute((0, 2, 3, 1))?.reshape(((), dim));
    let logits = |at: &[Tensor]| -> Result<Tensor> {
        let weight = at[1].reshape((7, 5))?;
        Ok(rows(&at[3], 5)?.matmul(&weight.t()?)?.broadcast_add(&at[2])?)
    };
    let noise_rows = rows(&noise.to_dtype(candle_core::DType::F64)?, 7)?;
    let soft = |at: &[Tensor]| -> Result<Tensor> {
        Ok(softmax(&((logits(at)? + &noise_rows)? / temperature)?, D::Minus1)?)
    };
    let codes =
        gumbel(&at)?.sample(&at[3], temperature, true, &noise)?.codes.codes().flatten_all()?;
    let arange = Tensor::arange(0u32, 7, &Device::Cpu)?.unsqueeze(0)?;
    let one_hot = codes.unsqueeze(1)?.broadcast_eq(&arange)?.to_dtype(candle_core::DType::F64)?;
    let stopped = (one_hot - soft(&at)?)?;
    let w = rows(&w, 4)?;
    let surrogate = |at: &[Tensor]| -> Result<Tensor> {
        let embeddings = (&stopped + soft(at)?)?.matmul(&at[0])?;
        let p = softmax(&logits(at)?, D::Minus1)?;
        let divergence = (&p * ((&p * 7.0)? + 1e-10)?.log()?)?.sum(1)?.mean_all()?;
        Ok(((embeddings * &w)?.sum_all()? + (divergence * 0.3)?)?)
    };
    check(&at, &hard, &surrogate)?;
    let value = |t: Tensor| -> Result<f64> { Ok(t.to_scalar()?) };
    ensure!((value(hard(&at)?)? - value(surrogate(&at)?)?).abs() < 1e-12);
    Ok(())
}

#[test]
fn entropy() -> Result<()> {
    // The constant 1e-5 in the loss is inside log_softmax, which ignores it.
    for temperature in [1.0, 0.3] {
        let loss = |at: &[Tensor]| Ok(entropy_loss(&at[0], temperature)?);
        check(&[random(1, &[6, 5])?], &loss, &loss)?;
    }
    Ok(())
}

#[test]
fn entropy_is_low_when_sure_and_even() -> Result<()> {
    let loss = |rows: &[[f64; 3]; 3]| -> Result<f64> {
        Ok(entropy_loss(&Tensor::new(rows, &Device::Cpu)?, 0.01)?.to_scalar()?)
    };
    let sure_and_even = loss(&[[1., 0., 0.], [0., 1., 0.], [0., 0., 1.]])?;
    ensure!((sure_and_even + 3f64.ln()).abs() < 1e-4, "{sure_and_even}");
    let sure_of_one = loss(&[[1., 0., 0.]; 3])?;
    ensure!(sure_of_one.abs() < 1e-4, "{sure_of_one}");
    let unsure = loss(&[[1., 1., 1.]; 3])?;
    ensure!(unsure.abs() < 1e-4, "{unsure}");
    Ok(())
}

fn unit(x: &Tensor) -> Result<Tensor> {
    Ok(x.broadcast_div(&x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)?)
}

#[test]
fn normalized() -> Result<()> {
    let (beta, ratio) = (0.25, 0.1);
    let (z, codebook, w) =
        (random(1, &[2, 3, 2, 2])?, random(2, &[6, 3])?, random(3, &[2, 3, 2, 2])?);
    let rows = |map: &Tensor| map.permute((0, 2, 3, 1))?.reshape(((), 3));
    let loss = |at: &[Tensor]| -> Result<Tensor> {
        let quantized = NormalizedQuantizer::new(at[1].clone(), beta, ratio)?.quantize(&at[0])?;
        Ok(((quantized.embeddings * &w)?.sum_all()? + quantized.losses.total)?)
    };
    // With codes and stopped gradients held at this point.
    let codes = NormalizedQuantizer::new(codebook.clone(), beta, ratio)?.codes(&z)?;
    let codes = codes.codes().flatten_all()?;
    let held_z = unit(&rows(&z)?)?;
    let held_rows = unit(&codebook)?.index_select(&codes, 0)?;
    let w_rows = rows(&w)?;
    let surrogate = |at: &[Tensor]| -> Result<Tensor> {
        let (z, codebook) = (unit(&rows(&at[0])?)?, unit(&at[1])?);
        let z_q = codebook.index_select(&codes, 0)?;
        let through = (&z + (&held_rows - &held_z)?)?;
        let affinity =
            z.unsqueeze(1)?.broadcast_sub(&codebook.unsqueeze(0)?)?.sqr()?.sum(2)?.neg()?;
        let terms = [
            (through * &w_rows)?.sum_all()?,
            (z_q - &held_z)?.sqr()?.mean_all()?,
            ((&held_rows - z)?.sqr()?.mean_all()? * beta)?,
            (entropy_loss(&affinity, 0.01)? * ratio)?,
        ];
        Ok(Tensor::stack(&terms, 0)?.sum_all()?)
    };
    check(&[z, codebook], &loss, &surrogate)
}

#[test]
fn euclidean_is_the_formula() -> Result<()> {
    // d/dz: w + c_z * 2 (z - z_q) / n;  d/de_k: c_e * 2 sum (e_k - z) / n.
    let (z, codebook) = (random(1, &[2, 3, 2, 2])?, random(2, &[5, 3])?);
    for (legacy, on_codebook, on_z) in [(true, 0.25, 1.0), (false, 1.0, 0.25)] {
        let (z, codebook) = (Var::from_tensor(&z)?, Var::from_tensor(&codebook)?);
        let quantizer = EuclideanQuantizer::new(codebook.as_tensor().clone(), 0.25, legacy)?;
        let quantized = quantizer.quantize(z.as_tensor())?;
        let loss = (quantized.embeddings.sum_all()? + &quantized.losses.total)?;
        let gradients = loss.backward()?;
        let z_q = quantizer.embed(&quantized.codes)?.detach();
        let difference = ((z.as_tensor().detach() - &z_q)? * (2.0 / 24.0))?;
        let expected = ((&difference * on_z)? + 1.0)?;
        golden::close("z", gradients.get(&z).context("z")?, &expected, 1e-12)?;
        let rows = (difference.permute((0, 2, 3, 1))?.reshape(((), 3))? * -on_codebook)?;
        let codes = quantized.codes.codes().flatten_all()?;
        let expected = codebook.as_tensor().zeros_like()?.index_add(&codes, &rows, 0)?;
        golden::close("codebook", gradients.get(&codebook).context("codebook")?, &expected, 1e-12)?;
    }
    Ok(())
}

#[test]
fn a_zero_vector_has_a_finite_gradient() -> Result<()> {
    let z = Var::from_tensor(&Tensor::zeros((1, 3, 1, 2), candle_core::DType::F32, &Device::Cpu)?)?;
    let codebook = Tensor::new(&[[0f32, 0., 0.], [1., 0., 0.]], &Device::Cpu)?;
    let codebook = Var::from_tensor(&codebook)?;
    let quantizer = NormalizedQuantizer::new(codebook.as_tensor().clone(), 0.25, 0.1)?;
    let gradients = quantizer.quantize(z.as_tensor())?.losses.total.backward()?;
    for var in [&z, &codebook] {
        let gradient =
            gradients.get(var).context("no gradient")?.flatten_all()?.to_vec1::<f32>()?;
        ensure!(gradient.iter().all(|value| value.is_finite()), "{gradient:?}");
    }
    Ok(())
}

#[test]
fn ema_gives_no_gradient_to_its_rows() -> Result<()> {
    let codebook = Var::from_tensor(&random(1, &[4, 3])?)?;
    let z = Var::from_tensor(&random(2, &[1, 3, 2, 2])?)?;
    let state = EmaState {
        codebook: codebook.as_tensor().clone(),
        ..EmaState::from_codebook(&codebook, 1e-5)?
    };
    let quantized = EmaQuantizer::new(state, 0.25, 0.99, 1e-5)?.quantize(z.as_tensor())?;
    let gradients = (quantized.embeddings.sum_all()? + quantized.losses.total)?.backward()?;
    ensure!(gradients.get(&z).is_some() && gradients.get(&codebook).is_none());
    Ok(())
}
