//! Attention, activations, pooling, batch norm.

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Module, Tensor, Var};
use candle_nn::VarBuilder;
use layers::{BatchNormLeaky, Gradients, Tape, Taped};

use crate::harness::{Layer, VIEWS, View, close, compare, noise, on_gpu};

/// A builder of parameters, noise for each by its place.
fn builder(p: &[Tensor], names: &[&str]) -> VarBuilder<'static> {
    let tensors = names.iter().zip(p).map(|(name, t)| (name.to_string(), t.clone())).collect();
    VarBuilder::from_tensors(tensors, p[0].dtype(), p[0].device())
}

const NAMES: [&str; 10] = [
    "norm.weight",
    "norm.bias",
    "q.weight",
    "q.bias",
    "k.weight",
    "k.bias",
    "v.weight",
    "v.bias",
    "proj_out.weight",
    "proj_out.bias",
];

#[test]
fn attention() -> Result<()> {
    on_gpu("attention", |device| {
        let square: [usize; 4] = [32, 32, 1, 1];
        let layer = Layer {
            plain: &|p, x| Ok(layers::attn_block(32, builder(p, &NAMES))?.forward(x)?),
            taped: &|p, x, tape| {
                Ok(layers::attn_block(32, builder(p, &NAMES))?.forward_taped(x, tape)?)
            },
        };
        let mut parameters: Vec<&[usize]> = vec![&[32], &[32]];
        for _ in 0..4 {
            parameters.push(&square);
            parameters.push(&[32]);
        }
        for shape in [[1, 32, 5, 3], [5, 32, 6, 5], [1, 32, 16, 16]] {
            for view in [View::Whole, View::Late] {
                layer.check("attention", device, DType::F32, (&shape, view), &parameters)?;
            }
        }
        layer.check("attention", device, DType::BF16, (&[2, 32, 6, 5], View::Whole), &parameters)
    })
}

#[test]
fn activations() -> Result<()> {
    on_gpu("activations", |device| {
        for shape in [[1, 2, 3, 5], [5, 8, 32, 31]] {
            for view in VIEWS {
                let input = (&shape[..], view);
                let leaky = Layer {
                    plain: &|_, x| Ok(layers::leaky_relu(x, 0.2)?),
                    taped: &|_, x, tape| Ok(layers::activation::leaky_relu_taped(x, 0.2, tape)?),
                };
                leaky.check("leaky relu", device, DType::F32, input, &[])?;
                type Function = fn(&Tensor) -> candle_core::Result<Tensor>;
                let functions: [(&str, Function); 5] = [
                    ("silu", layers::silu),
                    ("relu", layers::relu),
                    ("abs", layers::abs),
                    ("upsample", layers::upsample_nearest2x),
                    ("max pool", |x| layers::max_pool2x2(&layers::upsample_nearest2x(x)?)),
                ];
                for (name, function) in functions {
                    let layer = Layer {
                        plain: &|_, x| Ok(function(x)?),
                        taped: &|_, x, tape| Ok(tape.record(x, function)?),
                    };
                    layer.check(name, device, DType::F32, input, &[])?;
                }
            }
        }
        Ok(())
    })
}

#[test]
fn batch_norm_with_leaky_relu() -> Result<()> {
    on_gpu("batch_norm_with_leaky_relu", |device| {
        for shape in [[2, 3, 1, 1], [3, 5, 4, 7], [5, 16, 32, 32], [1, 4, 150, 100]] {
            let mut sides = Vec::new();
            for device in [device, &Device::Cpu] {
                let to = |t: Tensor| t.to_device(device);
                let channels = [shape[1]];
                let weight = Var::from_tensor(&to((noise(&channels, 2)? + 0.5)?)?)?;
                let bias = Var::from_tensor(&to(noise(&channels, 3)?)?)?;
                let norm = BatchNormLeaky {
                    weight: weight.as_tensor().clone(),
                    bias: bias.as_tensor().clone(),
                    eps: 1e-5,
                    slope: 0.2,
                };
                let x = to(noise(&shape, 1)?)?;
                if !norm.supports(&x) {
                    println!("batch norm: no kernel, formula in use");
                    return Ok(());
                }
                let mut tape = Tape::default();
                let (y, statistics) = norm.forward_taped(&x, &mut tape)?;
                let (dy, plus) = (to(noise(&shape, 5)?)?, to(noise(&shape, 6)?)?);
                let mut gradients = Gradients::default();
                let dx = tape.backward_add(&dy, Some(&plus), &mut gradients)?.context("dx")?;
                sides.push(vec![
                    ("y".to_string(), y),
                    ("mean".to_string(), statistics.mean),
                    ("variance".to_string(), statistics.unbiased_variance),
                    ("dx".to_string(), dx),
                    ("dweight".to_string(), gradients.get(&weight).context("dw")?.clone()),
                    ("dbias".to_string(), gradients.get(&bias).context("db")?.clone()),
                ]);
            }
            compare(&format!("batch norm {shape:?}"), &sides[0], &sides[1], 1e-4)?;
        }
        Ok(())
    })
}

#[test]
fn tensors_without_elements() -> Result<()> {
    on_gpu("tensors_without_elements", |device| {
        let Ok(x) = Tensor::zeros((0, 4, 8, 8), DType::F32, device) else {
            println!("candle makes no empty tensors on this device");
            return Ok(());
        };
        let ones = Tensor::ones(4, DType::F32, device)?;
        let norm = layers::GroupNorm::new(ones.clone(), ones, 2, 1e-6)?;
        // Whatever candle does, nothing of ours may be launched, or panic.
        match norm.forward(&x) {
            Ok(y) => ensure!(y.dims() == x.dims()),
            Err(error) => println!("an empty group norm: {error}"),
        }
        Ok(())
    })
}

#[test]
fn results_do_not_change_from_run_to_run() -> Result<()> {
    on_gpu("results_do_not_change", |device| {
        let x = noise(&[4, 32, 64, 64], 1)?.to_device(device)?;
        let weight = Var::from_tensor(&noise(&[32, 32, 3, 3], 2)?.to_device(device)?)?;
        let ones = Var::from_tensor(&Tensor::ones(32, DType::F32, device)?)?;
        let config = layers::Conv2dConfig::same(3);
        let (w, o) = (weight.as_tensor(), ones.as_tensor());
        let conv = layers::Conv2d::new(w.clone(), Some(o.clone()), config);
        let norm = layers::GroupNorm::new(o.clone(), o.clone(), 8, 1e-6)?;
        let run = || -> Result<Vec<Tensor>> {
            let (mut tape, mut gradients) = (Tape::default(), Gradients::default());
            let hidden = norm.forward_silu_taped(&x, &mut tape)?;
            let y = conv.forward_taped(&hidden, &mut tape)?;
            let dx = tape.backward(&y, &mut gradients)?.context("dx")?;
            let get = |v: &Var| gradients.get(v).cloned().context("gradient");
            Ok(vec![y, dx, get(&weight)?, get(&ones)?])
        };
        let first = run()?;
        for _ in 0..3 {
            for (a, b) in run()?.iter().zip(&first) {
                close("again", a, b, 0.0)?;
            }
        }
        Ok(())
    })
}
