//! Every op against finite differences in f64, and every fast f32 version against
//! its plain f64 twin, forward and gradient.

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Module, Tensor, Var};
use candle_nn::VarBuilder;
use layers::{Conv2d, Conv2dConfig, GroupNorm, Padding};
use proptest::prelude::*;

/// Numbers in about [-1, 1] that look random and depend on `seed` alone.
fn noise(shape: &[usize], seed: u64) -> Result<Tensor> {
    let len: usize = shape.iter().product();
    let values: Vec<f64> = (0..len)
        .map(|i| ((i as f64 + 1.0) * 12.9898 + seed as f64 * 78.233).sin() * 43758.5453)
        .map(|x| (x - x.floor()) * 2.0 - 1.0)
        .collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

type Op<'a> = &'a dyn Fn(&[Tensor]) -> Result<Tensor>;

/// The gradients of `sum(op(inputs) * noise)` to every input.
fn gradients(op: Op, inputs: &[Tensor]) -> Result<(Tensor, Vec<Tensor>)> {
    let vars = inputs.iter().map(Var::from_tensor).collect::<candle_core::Result<Vec<_>>>()?;
    let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let y = op(&tensors)?;
    let weights = noise(y.dims(), 99)?.to_dtype(y.dtype())?;
    let grads = (&y * weights)?.sum_all()?.backward()?;
    let found = vars
        .iter()
        .map(|var| grads.get(var).cloned().map_or_else(|| var.zeros_like(), Ok))
        .collect::<candle_core::Result<Vec<_>>>()?;
    Ok((y, found))
}

/// Checks the f64 gradients of `op` against central differences.
fn check_differences(op: Op, inputs: &[Tensor]) -> Result<()> {
    golden::gradients::check("op", inputs, 1e-6, |inputs| {
        let y = op(inputs).map_err(candle_core::Error::wrap)?;
        let weights = noise(y.dims(), 99).map_err(candle_core::Error::wrap)?;
        (&y * weights)?.sum_all()
    })
}

/// Checks the f32 version of `op` against the f64 one, forward and gradient.
fn check_f32(op: Op, inputs: &[Tensor]) -> Result<()> {
    let single =
        inputs.iter().map(|x| x.to_dtype(DType::F32)).collect::<candle_core::Result<Vec<_>>>()?;
    let double =
        single.iter().map(|x| x.to_dtype(DType::F64)).collect::<candle_core::Result<Vec<_>>>()?;
    let (y, grads) = gradients(op, &single)?;
    let (expected_y, expected) = gradients(op, &double)?;
    let close = |name: &str, actual: &Tensor, expected: &Tensor| -> Result<()> {
        let scale = expected.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>()?;
        golden::close(name, actual, expected, 1e-5 * scale.max(0.1))
    };
    ensure!(y.dims() == expected_y.dims());
    if y.elem_count() > 0 {
        close("output", &y, &expected_y)?;
    }
    for (i, (grad, expected)) in grads.iter().zip(&expected).enumerate() {
        close(&format!("gradient {i}"), grad, expected)?;
    }
    Ok(())
}

fn convolve(config: Conv2dConfig) -> impl Fn(&[Tensor]) -> Result<Tensor> {
    move |inputs| {
        let conv = Conv2d::new(inputs[1].clone(), inputs.get(2).cloned(), config);
        Ok(conv.forward(&inputs[0])?)
    }
}

#[test]
fn convolution() -> Result<()> {
    let asymmetric = Padding { top: 0, bottom: 1, left: 0, right: 1 };
    for (kernel, stride, padding) in [
        (3, 1, Padding::same(1)),
        (3, 2, asymmetric),
        (4, 2, Padding::same(1)),
        (4, 1, Padding::same(1)),
        (1, 1, Padding::ZERO),
        (3, 1, Padding { top: 2, bottom: 0, left: 1, right: 3 }),
    ] {
        let inputs =
            [noise(&[2, 3, 6, 7], 1)?, noise(&[4, 3, kernel, kernel], 2)?, noise(&[4], 3)?];
        let op = convolve(Conv2dConfig { stride, padding });
        check_differences(&op, &inputs)?;
        check_f32(&op, &inputs)?;
        check_f32(&op, &inputs[..2])?;
    }
    Ok(())
}

#[test]
fn group_norm() -> Result<()> {
    let inputs = [noise(&[2, 8, 3, 5], 1)?, noise(&[8], 2)?, noise(&[8], 3)?];
    for silu in [false, true] {
        let op = move |x: &[Tensor]| -> Result<Tensor> {
            let norm = GroupNorm::new(x[1].clone(), x[2].clone(), 4, 1e-6)?;
            Ok(if silu { norm.forward_silu(&x[0])? } else { norm.forward(&x[0])? })
        };
        check_differences(&op, &inputs)?;
        check_f32(&op, &inputs)?;
        let shifted = [(&inputs[0] + 30.0)?, inputs[1].clone(), inputs[2].clone()];
        check_f32(&op, &shifted)?;
    }
    Ok(())
}

#[test]
fn group_norm_with_given_moments() -> Result<()> {
    let [weight, bias] = [noise(&[8], 2)?, noise(&[8], 3)?];
    let single = |x: &Tensor| x.to_dtype(DType::F32);
    let fast = GroupNorm::new(single(&weight)?, single(&bias)?, 4, 1e-6)?;
    let plain = GroupNorm::new(weight, bias, 4, 1e-6)?;
    for offset in [0.0, 30.0] {
        let x = single(&(noise(&[3, 8, 37, 29], 1)? + offset)?)?;
        let one = x.narrow(0, 1, 1)?;
        let (own, expected) = (fast.moments(&one)?, plain.moments(&one.to_dtype(DType::F64)?)?);
        for (own, expected) in own.groups().iter().zip(expected.groups()) {
            ensure!((own.0 - expected.0).abs() < 1e-5 && (own.1 - expected.1).abs() < 1e-5);
        }
        for silu in [false, true] {
            // Every picture of a batch by the moments of the second.
            let y = fast.forward_with(&x, &own, silu)?;
            let expected = plain.forward_with(&x.to_dtype(DType::F64)?, &expected, silu)?;
            golden::close("given moments", &y, &expected, 3e-5)?;
            // Which is the plain pass of that one, to the bit.
            let alone = if silu { fast.forward_silu(&one)? } else { fast.forward(&one)? };
            golden::close("own moments", &y.narrow(0, 1, 1)?, &alone, 0.0)?;
        }
    }
    ensure!(plain.moments(&noise(&[2, 8, 2, 2], 5)?).is_err());
    ensure!(plain.moments(&noise(&[1, 4, 2, 2], 5)?).is_err());
    let other = GroupNorm::new(noise(&[8], 2)?, noise(&[8], 3)?, 2, 1e-6)?;
    let x = noise(&[1, 8, 2, 2], 5)?;
    ensure!(other.forward_with(&x, &plain.moments(&x)?, false).is_err());
    Ok(())
}

#[test]
fn attention_to_another_feature_map() -> Result<()> {
    let mut weights = std::collections::HashMap::new();
    for (i, name) in (0..).zip(["norm", "q", "k", "v", "proj_out"]) {
        let shape: &[usize] = if name == "norm" { &[32] } else { &[32, 32, 1, 1] };
        weights.insert(format!("{name}.weight"), noise(shape, i)?);
        weights.insert(format!("{name}.bias"), noise(&[32], 10 + i)?);
    }
    let vb = VarBuilder::from_tensors(weights, DType::F64, &Device::Cpu);
    let attn = layers::attn_block(32, vb)?;
    let x = noise(&[1, 32, 3, 5], 20)?;
    let normed = attn.norm().forward(&x)?;
    let own = attn.attend(&x, &normed, &attn.keys_values(&normed)?)?;
    golden::close("own positions", &own, &attn.forward(&x)?, 0.0)?;
    // Seeing every position twice changes nothing.
    let twice = attn.keys_values(&Tensor::cat(&[&normed, &normed], 2)?)?;
    golden::close("twice", &attn.attend(&x, &normed, &twice)?, &own, 1e-12)?;
    Ok(())
}

#[test]
fn resampling_with_an_input_that_is_used_twice() -> Result<()> {
    let x = [noise(&[2, 3, 4, 6], 1)?];
    let up = |x: &[Tensor]| -> Result<Tensor> {
        let up = layers::upsample_nearest2x(&x[0])?;
        Ok((up * x[0].sum_all()?.reshape((1, 1, 1, 1))?.broadcast_as((2, 3, 8, 12))?)?)
    };
    check_differences(&up, &x)?;
    check_f32(&up, &x)?;
    let odd = [noise(&[1, 2, 5, 7], 1)?];
    let pool = |x: &[Tensor]| -> Result<Tensor> { Ok(layers::max_pool2x2(&x[0])?) };
    check_differences(&pool, &odd)?;
    check_f32(&pool, &odd)
}

#[test]
fn max_pool_sends_a_tie_to_the_first() -> Result<()> {
    let x = Var::from_tensor(&Tensor::ones((1, 1, 2, 2), DType::F32, &Device::Cpu)?)?;
    let grads = layers::max_pool2x2(x.as_tensor())?.sum_all()?.backward()?;
    let grad = grads.get(&x).map(Tensor::flatten_all).transpose()?;
    assert_eq!(grad.map(|grad| grad.to_vec1::<f32>()).transpose()?, Some(vec![1.0, 0.0, 0.0, 0.0]));
    Ok(())
}

#[test]
fn pointwise() -> Result<()> {
    let x = [noise(&[40], 1)?];
    let ops: [Op; 4] = [
        &|x| Ok(layers::silu(&x[0])?),
        &|x| Ok(layers::relu(&x[0])?),
        &|x| Ok(layers::leaky_relu(&x[0], 0.2)?),
        &|x| Ok(layers::abs(&x[0])?),
    ];
    for op in ops {
        check_differences(op, &x)?;
        check_f32(op, &x)?;
    }
    // At exactly 0, where candle's own gradients are wrong: torch's are 0, slope, 0.
    let zero = [Tensor::zeros(3, DType::F64, &Device::Cpu)?];
    for (op, slope) in ops[1..].iter().zip([0.0, 0.2, 0.0]) {
        let grads = gradients(*op, &zero)?.1;
        golden::close("at 0", &grads[0], &(noise(&[3], 99)? * slope)?, 0.0)?;
    }
    Ok(())
}

#[test]
fn attention() -> Result<()> {
    let names = ["norm", "q", "k", "v", "proj_out"];
    let mut inputs = vec![noise(&[2, 32, 2, 3], 1)?];
    for (i, name) in names.iter().enumerate() {
        let shape: &[usize] = if *name == "norm" { &[32] } else { &[32, 32, 1, 1] };
        inputs.push((noise(shape, 10 + i as u64)? * 0.7)?);
        inputs.push((noise(&[32], 20 + i as u64)? * 0.5)?);
    }
    let op = |x: &[Tensor]| -> Result<Tensor> {
        let tensors = names.iter().zip(x[1..].chunks(2)).flat_map(|(name, pair)| {
            [(format!("{name}.weight"), pair[0].clone()), (format!("{name}.bias"), pair[1].clone())]
        });
        let vb = VarBuilder::from_tensors(tensors.collect(), x[0].dtype(), &Device::Cpu);
        Ok(layers::attn_block(32, vb)?.forward(&x[0])?)
    };
    check_differences(&op, &inputs)?;
    check_f32(&op, &inputs)
}

#[test]
fn shapes_that_do_not_fit_are_errors() -> Result<()> {
    let conv =
        Conv2d::new(noise(&[4, 3, 3, 3], 1)?.to_dtype(DType::F32)?, None, Conv2dConfig::default());
    for shape in [[1, 2, 8, 8], [1, 3, 2, 8], [1, 3, 0, 8]] {
        let x = Tensor::zeros(&shape, DType::F32, &Device::Cpu)?;
        assert!(conv.forward(&x).is_err(), "{shape:?}");
    }
    assert!(GroupNorm::new(noise(&[30], 1)?, noise(&[30], 1)?, 32, 1e-6).is_err());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Any shape, also larger than a tile, and inputs that are not contiguous.
    #[test]
    fn fast_convolution_equals_plain(
        (batch, in_channels, out_channels) in (0usize..4, 1usize..40, 1usize..20),
        (h, w, kernel, stride) in (1usize..40, 1usize..40, 1usize..5, 1usize..4),
        (top, bottom, left, right) in (0usize..4, 0usize..4, 0usize..4, 0usize..4),
        (bias, transposed) in (any::<bool>(), any::<bool>()),
    ) {
        prop_assume!(h + top + bottom >= kernel && w + left + right >= kernel && batch > 0);
        let config = Conv2dConfig { stride, padding: Padding { top, bottom, left, right } };
        let inputs = [
            noise(&[batch, in_channels, w, h], 1).unwrap(),
            noise(&[out_channels, in_channels, kernel, kernel], 2).unwrap(),
            noise(&[out_channels], 3).unwrap(),
        ];
        let op = move |x: &[Tensor]| -> Result<Tensor> {
            let input = if transposed { x[0].transpose(2, 3)? } else { x[0].reshape((batch, in_channels, h, w))? };
            let conv = Conv2d::new(x[1].clone(), bias.then(|| x[2].clone()), config);
            Ok(conv.forward(&input)?)
        };
        check_f32(&op, &inputs).unwrap();
    }

    /// The same picture gives the same bytes alone, in a batch, and on any number
    /// of threads.
    #[test]
    fn results_do_not_depend_on_batch_or_threads(
        channels in 1usize..3, h in 1usize..50, w in 1usize..50, threads in 1usize..4,
    ) {
        let channels = 32 * channels;
        let x = noise(&[3, channels, h, w], 1).unwrap().to_dtype(DType::F32).unwrap();
        let weight = noise(&[17, channels, 3, 3], 2).unwrap().to_dtype(DType::F32).unwrap();
        let affine = noise(&[channels], 3).unwrap().to_dtype(DType::F32).unwrap();
        let run = |x: &Tensor| -> Vec<f32> {
            let norm = GroupNorm::new(affine.clone(), affine.clone(), 32, 1e-6).unwrap();
            let conv = Conv2d::new(weight.clone(), None, Conv2dConfig::same(3));
            let y = conv.forward(&norm.forward_silu(x).unwrap()).unwrap();
            y.flatten_all().unwrap().to_vec1().unwrap()
        };
        let whole = run(&x);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let parts: Vec<f32> =
            pool.install(|| (0..3).flat_map(|i| run(&x.narrow(0, i, 1).unwrap())).collect());
        prop_assert!(whole.iter().zip(&parts).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
}

#[test]
fn fused_passes_equal_those_one_after_the_other() -> Result<()> {
    // Sizes and channels that go through the fused kernels, and that do not.
    for (channels, h, w) in [(32, 16, 16), (40, 9, 23), (64, 31, 45), (3, 8, 8)] {
        let f32 = |tensor: Tensor| tensor.to_dtype(DType::F32);
        let weight = f32(noise(&[channels, channels, 3, 3], 1)?)?;
        let bias = f32(noise(&[channels], 2)?)?;
        let x = f32(noise(&[2, channels, h, w], 3)?)?;
        let residual = f32(noise(&[2, channels, h, w], 4)?)?;
        for bias in [Some(bias), None] {
            let conv = Conv2d::new(weight.clone(), bias, Conv2dConfig::same(3));
            let apart = (conv.forward(&x)? + &residual)?;
            let difference = (conv.forward_add(&x, &residual)? - apart)?.abs()?.max_all()?;
            ensure!(difference.to_scalar::<f32>()? < 1e-5, "residual: {difference}");
            let apart = conv.forward(&layers::upsample_nearest2x(&x)?)?;
            let difference = (conv.forward_upsampled(&x)? - apart)?.abs()?.max_all()?;
            ensure!(difference.to_scalar::<f32>()? < 1e-5, "upsampled: {difference}");
            // A transposed view is read as it looks, and wrong shapes are errors.
            let turned = residual.transpose(2, 3)?.contiguous()?.transpose(2, 3)?;
            let same = (conv.forward_add(&x, &turned)? - conv.forward_add(&x, &residual)?)?;
            ensure!(same.abs()?.max_all()?.to_scalar::<f32>()? == 0.0);
            ensure!(conv.forward_add(&x, &residual.narrow(0, 0, 1)?.narrow(2, 0, 1)?).is_err());
        }
        // With gradients the parts run one after the other.
        let var = Var::from_tensor(&x)?;
        let conv = Conv2d::new(weight.clone(), None, Conv2dConfig::same(3));
        let grads = conv.forward_add(var.as_tensor(), &residual)?.sum_all()?.backward()?;
        ensure!(grads.get(&var).is_some());
    }
    Ok(())
}
