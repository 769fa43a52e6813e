//! Layers on a tape against the same layers in candle's graph: outputs and gradients,
//! in f32 by the kernels and in f64, where tapes fall back to the graph.

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Module, Tensor, Var};
use candle_nn::VarBuilder;
use layers::{
    BatchNormLeaky, Conv2d, Conv2dConfig, Gradients, GroupNorm, Padding, Tape, Taped, attn_block,
    downsample, leaky_relu, upsample,
};

fn noise(shape: &[usize], seed: u64, dtype: DType) -> Result<Tensor> {
    let len: usize = shape.iter().product();
    let values: Vec<f64> = (0..len)
        .map(|i| ((i as f64 + 1.0) * 12.9898 + seed as f64 * 78.233).sin() * 43758.5453)
        .map(|x| (x - x.floor()) * 2.0 - 1.0)
        .collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?)
}

fn variable(shape: &[usize], seed: u64, dtype: DType) -> Result<Var> {
    Ok(Var::from_tensor(&noise(shape, seed, dtype)?)?)
}

fn close(name: &str, actual: &Tensor, expected: &Tensor) -> Result<()> {
    let scale = expected.abs()?.flatten_all()?.max(0)?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
    golden::close(name, actual, expected, 1e-5 * scale.max(0.1))
}

type Plain<'a> = &'a dyn Fn(&Tensor) -> Result<Tensor>;
type OnTape<'a> = &'a dyn Fn(&Tensor, &mut Tape) -> Result<Tensor>;

/// Compares outputs, and the gradients of `sum(y * noise) + sum(x * noise)` to `x` and
/// `parameters`, once added to what was there.
fn compare(x: &Tensor, parameters: &[Var], plain: Plain, taped: OnTape) -> Result<()> {
    let leaf = Var::from_tensor(x)?;
    let expected = plain(leaf.as_tensor())?;
    let dy = noise(expected.dims(), 77, x.dtype())?;
    let plus = noise(x.dims(), 78, x.dtype())?;
    let total = ((&expected * &dy)?.sum_all()? + (leaf.as_tensor() * &plus)?.sum_all()?)?;
    let store = total.backward()?;

    let mut tape = Tape::default();
    let y = taped(x, &mut tape)?;
    ensure!(!y.track_op(), "the output is still part of a graph");
    close("output", &y, &expected)?;
    let mut gradients = Gradients::default();
    let dx = tape.backward_add(&dy, Some(&plus), &mut gradients)?.context("no gradient")?;
    close("dx", &dx, store.get(&leaf).context("no dx")?)?;
    for (i, parameter) in parameters.iter().enumerate() {
        let found = gradients.get(parameter).with_context(|| format!("no gradient {i}"))?;
        close(&format!("gradient {i}"), found, store.get(parameter).context("none")?)?;
    }

    // Without gradients of parameters; without the gradient of the input.
    let mut frozen = Tape::frozen();
    taped(x, &mut frozen)?;
    let mut none = Gradients::default();
    let dx = frozen.backward_add(&dy, Some(&plus), &mut none)?.context("no gradient")?;
    close("dx, frozen", &dx, store.get(&leaf).context("no dx")?)?;
    ensure!(parameters.iter().all(|parameter| none.get(parameter).is_none()));
    Ok(())
}

const DTYPES: [DType; 2] = [DType::F32, DType::F64];

#[test]
fn convolutions() -> Result<()> {
    let down =
        Conv2dConfig { stride: 2, padding: Padding { top: 0, bottom: 1, left: 0, right: 1 } };
    let half = Conv2dConfig { stride: 2, padding: Padding::same(1) };
    let narrow = Conv2dConfig { stride: 1, padding: Padding::same(1) };
    for dtype in DTYPES {
        for (inputs, outputs, kernel, config, side) in [
            (3, 5, 3, Conv2dConfig::same(3), 9),
            (40, 33, 3, Conv2dConfig::same(3), 16),
            (6, 7, 3, down, 10),
            (6, 7, 1, Conv2dConfig::default(), 7),
            (4, 6, 4, half, 12),
            (18, 20, 4, narrow, 8),
        ] {
            let x = noise(&[2, inputs, side, side], 1, dtype)?;
            let weight = variable(&[outputs, inputs, kernel, kernel], 2, dtype)?;
            let bias = variable(&[outputs], 3, dtype)?;
            let with =
                Conv2d::new(weight.as_tensor().clone(), Some(bias.as_tensor().clone()), config);
            let without = Conv2d::new(weight.as_tensor().clone(), None, config);
            compare(&x, &[weight.clone(), bias], &|x| Ok(with.forward(x)?), &|x, tape| {
                Ok(with.forward_taped(x, tape)?)
            })?;
            compare(
                &x,
                std::slice::from_ref(&weight),
                &|x| Ok(without.forward(x)?),
                &|x, tape| Ok(without.forward_taped(x, tape)?),
            )?;
            let y = without.forward(&x)?;
            let residual = noise(y.dims(), 4, dtype)?;
            compare(&x, &[weight], &|x| Ok(with.forward_add(x, &residual)?), &|x, tape| {
                Ok(with.forward_add_taped(x, &residual, tape)?)
            })?;
        }
    }
    Ok(())
}

#[test]
fn the_gradient_to_a_weight_alone() -> Result<()> {
    for dtype in DTYPES {
        let x = noise(&[2, 5, 9, 8], 1, dtype)?;
        let weight = variable(&[3, 5, 3, 3], 2, dtype)?;
        let conv = Conv2d::new(weight.as_tensor().clone(), None, Conv2dConfig::same(3));
        let y = conv.forward(&x)?;
        let dy = noise(y.dims(), 3, dtype)?;
        let store = (y * &dy)?.sum_all()?.backward()?;
        let expected = store.get(&weight).context("none")?;
        close("dw", &conv.weight_gradient(&x, &dy)?, expected)?;
        assert!(conv.weight_gradient(&x, &dy.narrow(3, 0, 7)?).is_err());
    }
    Ok(())
}

#[test]
fn norms_and_activation() -> Result<()> {
    for dtype in DTYPES {
        let x = noise(&[3, 8, 5, 7], 1, dtype)?;
        let (weight, bias) = (variable(&[8], 2, dtype)?, variable(&[8], 3, dtype)?);
        let both = [weight.clone(), bias.clone()];
        let norm = GroupNorm::new(weight.as_tensor().clone(), bias.as_tensor().clone(), 4, 1e-6)?;
        compare(&x, &both, &|x| Ok(norm.forward_silu(x)?), &|x, tape| {
            Ok(norm.forward_silu_taped(x, tape)?)
        })?;
        compare(&x, &[], &|x| Ok(leaky_relu(x, 0.2)?), &|x, tape| {
            Ok(layers::activation::leaky_relu_taped(x, 0.2, tape)?)
        })?;
        compare(&x, &[], &|x| Ok(layers::relu(x)?), &|x, tape| {
            // A copy, which may be overwritten.
            Ok(layers::relu_taped(x.detach().copy()?, tape)?)
        })?;
        for shape in [[3, 8, 5, 7], [1, 2, 2, 2], [2, 1, 9, 4]] {
            let x = noise(&shape, 2, dtype)?;
            compare(&x, &[], &|x| Ok(layers::max_pool2x2(x)?), &|x, tape| {
                Ok(layers::max_pool2x2_taped(x, tape)?)
            })?;
        }
    }
    Ok(())
}

#[test]
fn pooling_knows_ties_nan_and_misfits() -> Result<()> {
    let x = Tensor::new(&[[[[1_f32, 1.0, f32::NAN, 5.0], [1.0, 1.0, 7.0, 3.0]]]], &Device::Cpu)?;
    let (mut tape, mut found) = (Tape::default(), Gradients::default());
    let y = layers::max_pool2x2_taped(&x, &mut tape)?.flatten_all()?.to_vec1::<f32>()?;
    assert!(y[0] == 1.0 && y[1].is_nan(), "{y:?}");
    let dy = Tensor::new(&[[[[2_f32, 3.0]]]], &Device::Cpu)?;
    let dx = tape.backward(&dy, &mut found)?.context("no gradient")?;
    assert_eq!(dx.flatten_all()?.to_vec1::<f32>()?, [2.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    let mut tape = Tape::default();
    layers::max_pool2x2_taped(&x, &mut tape)?;
    assert!(tape.backward(&x, &mut found).is_err());
    assert!(layers::max_pool2x2_taped(&x.narrow(2, 0, 1)?, &mut Tape::default()).is_err());
    Ok(())
}

#[test]
fn batch_norm_with_leaky_relu() -> Result<()> {
    let x = noise(&[3, 5, 4, 7], 1, DType::F32)?;
    let (weight, bias) = (variable(&[5], 2, DType::F32)?, variable(&[5], 3, DType::F32)?);
    for slope in [0.2, 1.0] {
        let norm = BatchNormLeaky {
            weight: weight.as_tensor().clone(),
            bias: bias.as_tensor().clone(),
            eps: 1e-5,
            slope,
        };
        assert!(norm.supports(&x));
        let plain = |x: &Tensor| -> Result<Tensor> {
            let column = |t: &Tensor| t.reshape((1, 5, 1, 1));
            let rows = x.transpose(0, 1)?.flatten_from(1)?;
            let mean = column(&rows.mean(1)?)?;
            let centred = x.broadcast_sub(&mean)?;
            let rows = centred.transpose(0, 1)?.flatten_from(1)?;
            let deviation = column(&(rows.sqr()?.mean(1)? + 1e-5)?.sqrt()?)?;
            let scaled = centred.broadcast_div(&deviation)?.broadcast_mul(&column(&weight)?)?;
            Ok(leaky_relu(&scaled.broadcast_add(&column(&bias)?)?, slope)?)
        };
        compare(&x, &[weight.clone(), bias.clone()], &plain, &|x, tape| {
            Ok(norm.forward_taped(x, tape)?.0)
        })?;
        let (_, statistics) = norm.forward_taped(&x, &mut Tape::default())?;
        let rows = x.transpose(0, 1)?.flatten_from(1)?;
        close("mean", &statistics.mean, &rows.mean(1)?)?;
        close("variance", &statistics.unbiased_variance, &rows.var(1)?)?;
        assert!(norm.forward_taped(&x.narrow(1, 0, 4)?, &mut Tape::default()).is_err());
    }
    Ok(())
}

#[test]
fn sampling_and_attention() -> Result<()> {
    for dtype in DTYPES {
        let variables = candle_nn::VarMap::new();
        let vb = VarBuilder::from_varmap(&variables, dtype, &Device::Cpu);
        let x = noise(&[2, 32, 6, 5], 1, dtype)?;
        let (up, down) = (upsample(32, vb.pp("up"))?, downsample(32, vb.pp("down"))?);
        let attention = attn_block(32, vb.pp("attention"))?;
        let of = |prefix: &str| -> Result<Vec<Var>> {
            let data = variables.data().lock().map_err(|_| anyhow::anyhow!("poisoned"))?;
            let found = data.iter().filter(|(name, _)| name.starts_with(prefix));
            Ok(found.map(|(_, var)| var.clone()).collect())
        };
        compare(
            &x,
            &of("up")?,
            &|x| Ok(up.forward(x)?),
            &|x, tape| Ok(up.forward_taped(x, tape)?),
        )?;
        compare(&x, &of("down")?, &|x| Ok(down.forward(x)?), &|x, tape| {
            Ok(down.forward_taped(x, tape)?)
        })?;
        compare(&x, &of("attention")?, &|x| Ok(attention.forward(x)?), &|x, tape| {
            Ok(attention.forward_taped(x, tape)?)
        })?;
    }
    Ok(())
}

#[test]
fn a_tape_from_data_finds_no_gradient_of_it() -> Result<()> {
    let x = noise(&[1, 2, 4, 4], 1, DType::F32)?;
    let weight = variable(&[3, 2, 3, 3], 2, DType::F32)?;
    let conv = Conv2d::new(weight.as_tensor().clone(), None, Conv2dConfig::same(3));
    let mut tape = Tape::from_data();
    let y = conv.forward_taped(&x, &mut tape)?;
    let mut gradients = Gradients::default();
    assert!(tape.backward(&y.ones_like()?, &mut gradients)?.is_none());
    assert!(gradients.get(&weight).is_some());
    // An empty tape hands on what it gets.
    let passed = Tape::default().backward(&y, &mut gradients)?.context("nothing")?;
    close("passed", &passed, &y)
}

#[test]
fn what_a_tape_cannot_go_back_through_is_an_error() -> Result<()> {
    let x = noise(&[1, 2, 4, 4], 1, DType::F32)?;
    let weight = variable(&[3, 2, 3, 3], 2, DType::F32)?;
    let conv = Conv2d::new((weight.as_tensor() * 2.0)?, None, Conv2dConfig::same(3));
    assert!(conv.forward_taped(&x, &mut Tape::default()).is_err());
    let conv = Conv2d::new(weight.as_tensor().clone(), None, Conv2dConfig::same(3));
    assert!(conv.forward_add_taped(&x, &x, &mut Tape::default()).is_err());
    let mut tape = Tape::default();
    conv.forward_taped(&x, &mut tape)?;
    assert!(tape.backward(&x, &mut Gradients::default()).is_err());
    Ok(())
}

/// 2048 and 1 in f16 are 2048 again.
#[test]
fn gradients_in_half_precision_add_up_in_f32() -> Result<()> {
    let parameter = variable(&[3], 1, DType::F16)?;
    let mut gradients = Gradients::default();
    for value in [2048f32, 1.0, 1.0] {
        gradients.add(&parameter, Tensor::full(value, 3, &Device::Cpu)?.to_dtype(DType::F16)?)?;
    }
    let sum = gradients.get(&parameter).context("a gradient")?;
    assert_eq!(sum.to_vec1::<f32>()?, [2050.0; 3]);
    Ok(())
}

/// The squares of 300 and their sum over a group are beyond f16, 65504.
#[test]
fn statistics_of_half_precision_are_f32() -> Result<()> {
    let norm = |dtype: DType| -> Result<GroupNorm> {
        let [weight, bias] = [1.0, 0.0].map(|value: f32| Tensor::full(value, 4, &Device::Cpu));
        Ok(GroupNorm::new(weight?.to_dtype(dtype)?, bias?.to_dtype(dtype)?, 2, 1e-6)?)
    };
    let x = (noise(&[2, 4, 8, 8], 3, DType::F32)? * 300.0)?;
    let half = norm(DType::F16)?.forward_silu_taped(&x.to_dtype(DType::F16)?, &mut Tape::default());
    let exact = norm(DType::F32)?.forward_silu_taped(&x, &mut Tape::default())?;
    golden::close("group norm", &half?.to_dtype(DType::F32)?, &exact, 4e-3)
}
