use anyhow::{Context, Result};
use candle_core::Var;

use super::*;

/// Numbers in `[-1, 1]` without a pattern that matters here.
fn wave(seed: usize, shape: &[usize]) -> Result<Tensor> {
    let count = shape.iter().product();
    let values: Vec<f64> =
        (0..count).map(|i| ((i * i + 37 * i + 101 * seed) as f64).sin()).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

fn values(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?)
}

#[test]
fn gradients_are_those_of_the_formula() -> Result<()> {
    let substitute = Substitute::new(DType::F64, &Device::Cpu)?;
    // The whole gradient would take as many passes as there are pixels.
    let (x, y) = (wave(1, &[1, 3, 16, 16])?, wave(2, &[1, 3, 16, 16])?);
    let direction = wave(3, &[1, 3, 16, 16])?;
    let t = Tensor::new(&[0.1f64], &Device::Cpu)?;
    golden::gradients::check("along a direction", &[t], 1e-5, |p| {
        let moved = (&y + direction.broadcast_mul(&p[0].reshape((1, 1, 1, 1))?)?)?;
        substitute.forward(&x, &moved)?.sum_all()
    })?;
    golden::gradients::check("pyramid", &[wave(4, &[2, 1, 5, 6])?], 1e-8, |p| {
        pyramid(&p[0])?.sqr()?.sum_all()
    })
}

#[test]
fn bands_are_what_means_lose() -> Result<()> {
    // A constant has no detail; a checkerboard has nothing else.
    let flat = Tensor::full(0.5f64, (1, 1, 32, 32), &Device::Cpu)?;
    assert_eq!(values(&pyramid(&flat)?)?, [0.5]);
    let board = (0..64).map(|i| if (i / 8 + i) % 2 == 0 { 1.0 } else { -1.0 });
    let board = Tensor::from_iter(board.collect::<Vec<f64>>(), &Device::Cpu)?;
    assert_eq!(values(&pyramid(&board.reshape((1, 1, 8, 8))?)?)?, [1.0]);
    // One pixel of four: mean 1, and ±1, ±3 around it.
    let pixel = Tensor::new(&[[[[4f64, 0.0], [0.0, 0.0]]]], &Device::Cpu)?;
    assert_eq!(values(&pyramid(&pixel)?)?, [1.5 + 1.0]);
    Ok(())
}

#[test]
fn distances_grow_with_damage_and_every_slice_sees_it() -> Result<()> {
    let substitute = Substitute::new(DType::F32, &Device::Cpu)?;
    let x = wave(1, &[1, 3, 32, 32])?.to_dtype(DType::F32)?;
    let noise = wave(2, &[1, 3, 32, 32])?.to_dtype(DType::F32)?;
    let mut last = values(&substitute.forward(&x, &x)?)?[0];
    assert_eq!(last, 0.0);
    for strength in [0.05, 0.2, 0.8] {
        let distance = values(&substitute.forward(&x, &(&x + (&noise * strength)?)?)?)?[0];
        assert!(distance > 1.2 * last, "{strength}: {distance} after {last}");
        last = distance;
    }
    // Features of unrelated pictures do not all point the same way, however deep.
    let net = &substitute.net;
    for (slice, (a, b)) in net.features(&x)?.iter().zip(&net.features(&noise)?).enumerate() {
        let difference = (unit_length(a)? - unit_length(b)?)?.sqr()?.sum(1)?.mean_all()?;
        let difference = values(&difference)?[0];
        assert!(difference > 0.05, "slice {slice}: {difference}");
    }
    Ok(())
}

#[test]
fn it_is_always_the_same_and_of_its_own_pictures() -> Result<()> {
    let one = Substitute::new(DType::F32, &Device::Cpu)?;
    let two = Substitute::new(DType::F32, &Device::Cpu)?;
    let x = wave(1, &[2, 3, 16, 20])?.to_dtype(DType::F32)?;
    let y = wave(2, &[2, 3, 16, 20])?.to_dtype(DType::F32)?;
    let together = values(&one.forward(&x, &y)?)?;
    assert_eq!(together, values(&two.forward(&x, &y)?)?);
    let alone = two.forward(&x.narrow(0, 1, 1)?, &y.narrow(0, 1, 1)?)?;
    assert_eq!(values(&alone)?, together[1..]);
    assert!(one.forward(&x, &y.narrow(0, 0, 1)?).is_err());
    Ok(())
}

#[test]
fn equal_pictures_have_a_finite_gradient() -> Result<()> {
    let substitute = Substitute::new(DType::F32, &Device::Cpu)?;
    let black = Tensor::zeros((1, 3, 16, 16), DType::F32, &Device::Cpu)?;
    let y = Var::from_tensor(&black)?;
    let grads = substitute.forward(&black, &y)?.sum_all()?.backward()?;
    let gradient = values(grads.get(&y).context("no gradient")?)?;
    assert!(gradient.iter().all(|&g| g == 0.0));
    Ok(())
}
