use std::collections::HashMap;

use anyhow::{Context, Result};
use candle_core::Device;

use super::*;
use crate::support::{Variables, noise_tensor};

const SIZES: (usize, usize, usize, usize) = (3, 2, 2, 2);

fn config() -> Conv2dConfig {
    Conv2dConfig { stride: 1, padding: layers::Padding::same(1) }
}

fn conv(vb: &VarBuilder) -> candle_core::Result<SpectralConv> {
    let init = Init::Randn { mean: 0.0, stdev: 1.0 };
    let bias = vb.get_with_hints(SIZES.0, "bias", Init::Const(0.5))?;
    SpectralConv::new(SIZES, init, Some(bias), config(), vb)
}

/// The largest singular value, by many steps of the power method on WᵀW.
fn largest(matrix: &Tensor) -> Result<f64> {
    let square = matrix.t()?.matmul(matrix)?;
    let mut x = Tensor::ones((square.dim(0)?, 1), DType::F64, &Device::Cpu)?;
    for _ in 0..2000 {
        x = square.matmul(&x)?;
        x = x.broadcast_div(&x.sqr()?.sum_all()?.sqrt()?)?;
    }
    Ok(matrix.matmul(&x)?.sqr()?.sum_all()?.to_scalar::<f64>()?.sqrt())
}

#[test]
fn training_finds_the_largest_singular_value() -> Result<()> {
    let conv = conv(&Variables::default().builder(DType::F64))?;
    let x = noise_tensor(1, (1, 2, 4, 4))?;
    for _ in 0..300 {
        conv.forward(&x, true)?;
    }
    let matrix = conv.weight.detach().flatten_from(1)?;
    let sigma = largest(&matrix)?;
    golden::close("W / sigma", &conv.divided()?.flatten_from(1)?, &(matrix / sigma)?, 1e-9)?;
    assert!((largest(&conv.divided()?.detach().flatten_from(1)?)? - 1.0).abs() < 1e-9);
    // Without training nothing moves.
    let before = conv.u.as_tensor().copy()?;
    conv.forward(&x, false)?;
    golden::close("u", conv.u.as_tensor(), &before, 0.0)
}

#[test]
fn gradients_are_those_of_the_formula() -> Result<()> {
    let [x, probe] = [noise_tensor(1, (1, 2, 3, 3))?, noise_tensor(2, (1, 3, 4, 4))?];
    let (weight, bias) = (noise_tensor(3, SIZES)?, noise_tensor(4, 3)?);
    let (u, v) = (unit(&noise_tensor(5, 3)?)?, unit(&noise_tensor(6, 8)?)?);
    golden::gradients::check("spectral", &[x, weight, bias], 1e-7, |p| {
        let tensors = HashMap::from([
            ("weight_orig".to_string(), p[1].clone()),
            ("bias".to_string(), p[2].clone()),
            ("weight_u".to_string(), u.clone()),
            ("weight_v".to_string(), v.clone()),
        ]);
        let vb = VarBuilder::from_tensors(tensors, DType::F64, &Device::Cpu);
        conv(&vb)?.forward(&p[0], false)?.mul(&probe)?.sum_all()
    })
}

#[test]
fn a_tape_finds_the_same() -> Result<()> {
    let store = Variables::default();
    let conv = conv(&store.builder(DType::F32))?;
    let x = Var::from_tensor(&noise_tensor(1, (2, 2, 4, 4))?.to_dtype(DType::F32)?)?;
    let dy = noise_tensor(2, (2, 3, 5, 5))?.to_dtype(DType::F32)?;
    let start = conv.u.as_tensor().copy()?;
    let y = conv.forward(&x, true)?;
    let expected = (&y * &dy)?.sum_all()?.backward()?;
    let moved = conv.u.as_tensor().copy()?;

    conv.u.set(&start)?;
    let (mut tape, mut gradients) = (Tape::default(), Gradients::default());
    golden::close("forward", &conv.forward_taped(x.as_tensor(), &mut tape)?, &y, 1e-6)?;
    golden::close("u", conv.u.as_tensor(), &moved, 0.0)?;
    let plus = x.as_detached_tensor();
    let dx = tape.backward_add(&dy, Some(&plus), &mut gradients)?.context("dx")?;
    let own = (expected.get(x.as_tensor()).context("dx")? + plus)?;
    golden::close("dx", &dx, &own, 1e-5)?;
    for (name, parameter) in
        [("weight", &conv.weight), ("bias", conv.bias.as_ref().context("bias")?)]
    {
        let gradient = gradients.get(parameter).context(name)?;
        golden::close(name, gradient, expected.get(parameter).context(name)?, 1e-5)?;
    }

    let (mut frozen, mut none) = (Tape::frozen(), Gradients::default());
    conv.forward_taped(x.as_tensor(), &mut frozen)?;
    assert!(frozen.backward(&dy, &mut none)?.is_some());
    assert!(none.get(&conv.weight).is_none());
    let mut data = Tape::from_data();
    conv.forward_taped(x.as_tensor(), &mut data)?;
    assert!(data.backward(&dy, &mut none)?.is_none());
    assert!(none.get(&conv.weight).is_some());
    Ok(())
}
