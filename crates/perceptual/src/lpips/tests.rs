use std::collections::HashMap;

use anyhow::{Context, Result};
use candle_core::{Device, Var};

use super::*;

/// Numbers in `[-1, 1]` without a pattern that matters here.
fn wave(seed: usize, shape: &[usize]) -> Result<Tensor> {
    let count = shape.iter().product();
    let values: Vec<f64> =
        (0..count).map(|i| ((i * i + 37 * i + 101 * seed) as f64).sin()).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// A narrow LPIPS; `bias` is that of every convolution.
fn weights(config: &LpipsConfig, bias: f64) -> Result<HashMap<String, Tensor>> {
    let mut tensors = HashMap::new();
    let mut from = 3;
    let layers: [(usize, &[usize]); 5] =
        [(1, &[0, 2]), (2, &[5, 7]), (3, &[10, 12, 14]), (4, &[17, 19, 21]), (5, &[24, 26, 28])];
    for ((slice, indices), to) in layers.into_iter().zip(config.channels) {
        for i in indices {
            let key = format!("net.slice{slice}.{i}");
            let weight = (wave(*i, &[to, from, 3, 3])? * (2.0 / (from * 9) as f64).sqrt())?;
            tensors.insert(format!("{key}.weight"), weight);
            tensors.insert(format!("{key}.bias"), Tensor::full(bias, to, &Device::Cpu)?);
            from = to;
        }
        let lin = wave(50 + slice, &[1, to, 1, 1])?.abs()?;
        tensors.insert(lin_key(slice - 1), lin);
    }
    Ok(tensors)
}

fn narrow(bias: f64, dtype: DType) -> Result<Lpips> {
    let config = LpipsConfig { channels: [2, 3, 4, 5, 4] };
    let vb = VarBuilder::from_tensors(weights(&config, bias)?, dtype, &Device::Cpu);
    assert_eq!(LpipsConfig::of_weights(&vb)?, config);
    Ok(Lpips::new(&config, vb)?)
}

#[test]
fn gradients_are_those_of_the_formula() -> Result<()> {
    let lpips = narrow(0.2, DType::F64)?;
    let (x, y) = (wave(1, &[1, 3, 17, 16])?, wave(2, &[1, 3, 17, 16])?);
    golden::gradients::check("lpips", &[y], 1e-6, |p| lpips.forward(&x, &p[0])?.sum_all())
}

#[test]
fn unit_length_has_its_formulas_gradient_and_none_at_zero() -> Result<()> {
    let x = wave(1, &[2, 3, 2, 2])?;
    let probe = wave(2, &[2, 3, 2, 2])?;
    golden::gradients::check("unit_length", &[x], 1e-8, |p| {
        unit_length(&p[0])?.mul(&probe)?.sum_all()
    })?;

    // The second of two positions is all zero.
    let x = Tensor::new(&[[[[3_f32, 0.0]], [[4_f32, 0.0]]]], &Device::Cpu)?;
    let x = Var::from_tensor(&x)?;
    let y = unit_length(&x)?;
    assert_eq!(y.flatten_all()?.to_vec1::<f32>()?, [0.6, 0.0, 0.8, 0.0]);
    let grads = y.sum_all()?.backward()?;
    let grad = grads.get(&x).context("no gradient")?.flatten_all()?.to_vec1::<f32>()?;
    assert!((grad[0] - (0.2 - 0.6 * 0.28)).abs() < 1e-6, "{grad:?}");
    assert_eq!((grad[1], grad[3]), (0.0, 0.0));
    Ok(())
}

#[test]
fn dead_features_give_no_nan() -> Result<()> {
    // Biases far below 0: every feature of every slice is 0.
    for dtype in [DType::F32, DType::F64] {
        let lpips = narrow(-100.0, dtype)?;
        let x = wave(1, &[1, 3, 16, 16])?.to_dtype(dtype)?;
        let y = Var::from_tensor(&wave(2, &[1, 3, 16, 16])?.to_dtype(dtype)?)?;
        let distance = lpips.forward(&x, &y)?;
        let grads = distance.sum_all()?.backward()?;
        let grad = grads.get(&y).context("no gradient")?.to_dtype(DType::F64)?;
        assert_eq!(grad.abs()?.sum_all()?.to_scalar::<f64>()?, 0.0);
    }
    Ok(())
}

#[test]
fn equal_images_have_no_distance() -> Result<()> {
    let lpips = narrow(0.1, DType::F32)?;
    let x = Var::from_tensor(&wave(1, &[2, 3, 16, 19])?.to_dtype(DType::F32)?)?;
    let distance = lpips.forward(&x, &x)?;
    assert_eq!(distance.dims(), [2, 1, 1, 1]);
    assert_eq!(distance.flatten_all()?.to_vec1::<f32>()?, [0.0, 0.0]);
    Ok(())
}

#[test]
fn grey_is_repeated_and_other_shapes_are_refused() -> Result<()> {
    let lpips = narrow(0.1, DType::F64)?;
    let (a, b) = (wave(1, &[1, 1, 16, 16])?, wave(2, &[1, 1, 16, 16])?);
    let rgb = |t: &Tensor| t.repeat((1, 3, 1, 1));
    let expected = lpips.forward(&rgb(&a)?, &rgb(&b)?)?;
    golden::close("grey", &lpips.forward(&a, &b)?, &expected, 1e-12)?;

    for shape in [[1, 3, 15, 16], [1, 3, 16, 15], [1, 4, 16, 16]] {
        let x = wave(1, &shape)?;
        assert!(lpips.forward(&x, &x).is_err(), "{shape:?}");
    }
    assert!(lpips.forward(&a, &rgb(&b)?).is_err());
    Ok(())
}

#[test]
fn weights_are_frozen() -> Result<()> {
    let config = LpipsConfig { channels: [2, 3, 4, 5, 4] };
    let mut tensors = weights(&config, 0.1)?;
    for tensor in tensors.values_mut() {
        *tensor = Var::from_tensor(tensor)?.into_inner();
    }
    let vb = VarBuilder::from_tensors(tensors.clone(), DType::F64, &Device::Cpu);
    let lpips = Lpips::new(&config, vb)?;
    let y = Var::from_tensor(&wave(2, &[1, 3, 16, 16])?)?;
    let grads = lpips.forward(&wave(1, &[1, 3, 16, 16])?, &y)?.sum_all()?.backward()?;
    assert!(grads.get(&y).is_some());
    assert!(tensors.values().all(|t| grads.get(t).is_none()));
    Ok(())
}

#[test]
fn stored_scaling_wins_over_the_constant() -> Result<()> {
    let config = LpipsConfig { channels: [2, 3, 4, 5, 4] };
    let mut tensors = weights(&config, 0.1)?;
    let x = wave(1, &[1, 3, 16, 16])?;
    let vb = |t: &HashMap<_, _>| VarBuilder::from_tensors(t.clone(), DType::F64, &Device::Cpu);
    let red = |lpips: &Lpips| -> Result<f64> {
        Ok(lpips.scaled(&x)?.flatten_all()?.get(0)?.to_scalar::<f64>()?)
    };
    let first = x.flatten_all()?.get(0)?.to_scalar::<f64>()?;
    assert!((red(&Lpips::new(&config, vb(&tensors))?)? - (first + 0.030) / 0.458).abs() < 1e-6);
    tensors.insert(
        "scaling_layer.shift".into(),
        Tensor::zeros((1, 3, 1, 1), DType::F64, &Device::Cpu)?,
    );
    tensors.insert(
        "scaling_layer.scale".into(),
        Tensor::ones((1, 3, 1, 1), DType::F64, &Device::Cpu)?,
    );
    assert_eq!(red(&Lpips::new(&config, vb(&tensors))?)?, first);
    Ok(())
}

/// Wide enough for every kernel.
fn wide(factors: Factors) -> Result<Lpips> {
    let config = LpipsConfig { channels: [33, 40, 36, 34, 48] };
    let vb = VarBuilder::from_tensors(weights(&config, 0.05)?, DType::F32, &Device::Cpu);
    Ok(Lpips::new(&config, vb)?.with_factors(factors))
}

fn close(name: &str, a: &Tensor, b: &Tensor, within: f64) -> Result<()> {
    let off = (a - b)?.abs()?.max_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
    let largest = b.abs()?.max_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
    anyhow::ensure!(off <= within * largest, "{name}: {off} off, of {largest}");
    Ok(())
}

#[test]
fn one_op_is_what_the_graph_computes() -> Result<()> {
    let lpips = wide(Factors::F32)?;
    for shape in [[1, 3, 16, 16], [3, 3, 37, 50]] {
        let wave = |seed| Ok::<_, anyhow::Error>(wave(seed, &shape)?.to_dtype(DType::F32)?);
        let (x, y) = (wave(1)?, Var::from_tensor(&wave(2)?)?);
        // Each picture's distance counts differently.
        let probe = Tensor::arange(1_f32, 1.0 + shape[0] as f32, &Device::Cpu)?;
        let probe = probe.reshape(((), 1, 1, 1))?;
        let (sx, sy) = (lpips.scaled(&x)?, lpips.scaled(&y)?);
        assert!(fast::suits(&lpips, &sx, &sy) && !fast::suits(&lpips, &sy, &sx));
        let gradient = |distance: &Tensor| -> Result<Tensor> {
            let grads = (distance * &probe)?.sum_all()?.backward()?;
            Ok(grads.get(&y).context("no gradient")?.clone())
        };
        let (fast, composed) = (lpips.forward(&x, &y)?, lpips.composed(&sx, &sy)?);
        close("distance", &fast, &composed, 2e-6)?;
        let expected = gradient(&composed)?;
        close("gradient", &gradient(&fast)?, &expected, 2e-5)?;
        // Asked for again, it is computed anew.
        close("second gradient", &gradient(&fast)?, &expected, 2e-5)?;
        // The same where nobody asks for a gradient.
        close("alone", &lpips.forward(&x, &y.as_detached_tensor())?, &fast, 0.0)?;
    }
    Ok(())
}

#[test]
fn rounded_products_are_near() -> Result<()> {
    let (exact, rounded) = (wide(Factors::F32)?, wide(Factors::Bf16)?);
    let shape = [2, 3, 32, 32];
    let x = wave(1, &shape)?.to_dtype(DType::F32)?;
    let y = Var::from_tensor(&wave(2, &shape)?.to_dtype(DType::F32)?)?;
    let run = |lpips: &Lpips| -> Result<(Tensor, Tensor)> {
        let distance = lpips.forward(&x, &y)?;
        let grads = distance.sum_all()?.backward()?;
        Ok((distance, grads.get(&y).context("no gradient")?.clone()))
    };
    let ((distance, gradient), (near, nearly)) = (run(&exact)?, run(&rounded)?);
    close("distance", &near, &distance, 0.02)?;
    let norm = |t: &Tensor| Ok::<_, anyhow::Error>(t.sqr()?.sum_all()?.to_scalar::<f32>()?.sqrt());
    let off = norm(&(&nearly - &gradient)?)? / norm(&gradient)?;
    anyhow::ensure!(off < 0.1, "{off}");
    if !Factors::Bf16.are_rounded() {
        assert_eq!(off, 0.0);
    }
    Ok(())
}
