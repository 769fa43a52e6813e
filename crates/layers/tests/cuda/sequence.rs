//! What transformers are made of.

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor, Var};
use layers::sequence::{
    Dropout, Linear, RowNorm, add_positions_taped, classify, embed_taped, gate_taped, gelu_taped,
    rotate, row_norm_taped,
};
use layers::{Factors, Gradients, Tape};

use crate::harness::{Found, Layer, VIEWS, View, compare, noise, on_gpu};

#[test]
fn linear() -> Result<()> {
    on_gpu("linear", |device| {
        for with_bias in [true, false] {
            let make = |p: &[Tensor]| Linear {
                weight: p[0].clone(),
                bias: p.get(1).cloned(),
                factors: Factors::F32,
            };
            let layer = Layer {
                plain: &|p, x| Ok(make(p).formula(x)?),
                taped: &|p, x, tape| Ok(make(p).forward_taped(x, None, tape)?),
            };
            for shape in [[1, 1, 5], [5, 17, 33], [2, 64, 128]] {
                let weight = [31, shape[2]];
                let both: [&[usize]; 2] = [&weight, &[31]];
                let parameters = if with_bias { &both[..] } else { &both[..1] };
                for view in VIEWS {
                    layer.check("linear", device, DType::F32, (&shape, view), parameters)?;
                }
            }
        }
        Ok(())
    })
}

#[test]
fn row_norms() -> Result<()> {
    on_gpu("row_norms", |device| {
        for with_bias in [true, false] {
            let make =
                |p: &[Tensor]| RowNorm { weight: p[0].clone(), bias: p.get(1).cloned(), eps: 1e-5 };
            let layer = Layer {
                plain: &|p, x| Ok(row_norm_taped(&make(p), x, &mut Tape::default())?),
                taped: &|p, x, tape| Ok(row_norm_taped(&make(p), x, tape)?),
            };
            for shape in [[1, 1, 5], [5, 17, 33], [2, 64, 128], [1, 300, 1536], [3, 5, 5000]] {
                let both: [&[usize]; 2] = [&[shape[2]], &[shape[2]]];
                let parameters = if with_bias { &both[..] } else { &both[..1] };
                for view in VIEWS {
                    tape_only(&layer, "row norm", device, (&shape, view), parameters)?;
                }
            }
        }
        Ok(())
    })
}

/// For layers that are on tapes only.
fn tape_only(
    layer: &Layer,
    case: &str,
    device: &Device,
    input: (&[usize], View),
    parameters: &[&[usize]],
) -> Result<()> {
    layer.check_tape(case, device, DType::F32, input, parameters)
}

#[test]
fn gelu() -> Result<()> {
    on_gpu("gelu", |device| {
        let layer = Layer {
            plain: &|_, x| Ok((x * 4.0)?.gelu_erf()?),
            taped: &|_, x, tape| {
                let scaled = tape.record(x, |x| x * 4.0)?;
                Ok(gelu_taped(&scaled, tape)?)
            },
        };
        for shape in [[1, 1, 5], [5, 17, 33], [2, 64, 128]] {
            for view in VIEWS {
                layer.check("gelu", device, DType::F32, (&shape, view), &[])?;
            }
        }
        Ok(())
    })
}

/// What `run` finds on the GPU and on the CPU.
pub fn both(case: &str, gpu: &Device, run: impl Fn(&Device) -> Result<Found>) -> Result<()> {
    compare(case, &run(gpu)?, &run(&Device::Cpu)?, 1e-4)
}

/// Tensors by their places.
pub fn named(tensors: Vec<Tensor>) -> Found {
    tensors.into_iter().enumerate().map(|(i, t)| (i.to_string(), t)).collect()
}

#[test]
fn swiglu_gate() -> Result<()> {
    on_gpu("swiglu_gate", |device| {
        for shape in [[1, 1, 5], [3, 17, 33], [2, 64, 128]] {
            both("gate", device, |device| {
                let [a, b, dy] = [1, 2, 3].map(|seed| noise(&shape, seed));
                let to = |t: Tensor| (t * 3.0)?.to_device(device);
                let (y, back) = gate_taped(&to(a?)?, &to(b?)?)?;
                let (da, db) = back(&to(dy?)?)?;
                Ok(named(vec![y, da, db]))
            })?;
        }
        Ok(())
    })
}

#[test]
fn dropout() -> Result<()> {
    on_gpu("dropout", |device| {
        let dropout = Dropout { share: 0.3, seed: 5, stream: 9 };
        let layer = Layer {
            plain: &|_, x| Ok(dropout.apply_taped(x, &mut Tape::default())?),
            taped: &|_, x, tape| Ok(dropout.apply_taped(x, tape)?),
        };
        for shape in [[1, 1, 5], [5, 17, 33], [2, 64, 128]] {
            tape_only(&layer, "dropout", device, (&shape, View::Whole), &[])?;
        }
        Ok(())
    })
}

#[test]
fn classification() -> Result<()> {
    on_gpu("classification", |device| {
        for (rows, width, classes) in [(1, 4, 3), (17, 33, 1000), (300, 64, 16384)] {
            let targets: Vec<u32> = (0..rows).map(|i| (i * 7919 % classes) as u32).collect();
            both("classify", device, |device| {
                let x = noise(&[rows, width], 1)?.to_device(device)?;
                let weight = noise(&[classes, width], 2)?.to_device(device)?;
                let head = Linear { weight: weight.clone(), bias: None, factors: Factors::F32 };
                let found = classify(&x, &head, &targets, true)?;
                let (dx, dw) = found.gradients.context("gradients")?;
                let alone = classify(&x, &head, &targets, false)?;
                let nll = Tensor::stack(&[found.nll, alone.nll], 0)?;
                Ok(named(vec![nll, dx, dw]))
            })?;
        }
        Ok(())
    })
}

#[test]
fn embedding_and_positions() -> Result<()> {
    on_gpu("embedding_and_positions", |device| {
        for (batch, len, width) in [(1, 1, 3), (3, 17, 33), (2, 64, 128)] {
            both("embed", device, |device| {
                let to = |t: Tensor| t.to_device(device);
                let table = Var::from_tensor(&to(noise(&[11, width], 1)?)?)?;
                let positions = Var::from_tensor(&to(noise(&[1, len + 2, width], 2)?)?)?;
                let tokens: Vec<u32> = (0..batch * len).map(|i| (i * 7 % 11) as u32).collect();
                let tokens = to(Tensor::from_vec(tokens, (batch, len), &Device::Cpu)?)?;
                let (mut tape, mut gradients) = (Tape::default(), Gradients::default());
                let x = embed_taped(&tokens, &table, &mut tape)?;
                let y = add_positions_taped(&x, &positions, &mut tape)?;
                let dy = to(noise(y.dims(), 3)?)?;
                tape.backward(&dy, &mut gradients)?;
                let get = |v: &Var| gradients.get(v).cloned().context("gradient");
                Ok(named(vec![y, get(&table)?, get(&positions)?]))
            })?;
        }
        Ok(())
    })
}

#[test]
fn rotary_positions() -> Result<()> {
    on_gpu("rotary_positions", |device| {
        for (batch, len, heads, half) in [(1, 1, 1, 1), (3, 17, 3, 5), (2, 64, 4, 32)] {
            both("rotary", device, |device| {
                let to = |t: Tensor| t.to_device(device);
                let x = to(noise(&[batch, len, heads * 2 * half], 1)?)?;
                let (c, s) = (to(noise(&[len, half], 2)?)?, to(noise(&[len, half], 3)?)?);
                Ok(named(vec![rotate(&x, &c, &s, false)?, rotate(&x, &c, &s, true)?]))
            })?;
        }
        Ok(())
    })
}

/// By angles in f32.
#[test]
fn rotary_positions_of_half_precision() -> Result<()> {
    on_gpu("rotary_positions_of_half_precision", |device| {
        let (c, s) = (noise(&[64, 32], 2)?, noise(&[64, 32], 3)?);
        for (dtype, tolerance) in [(DType::BF16, 2e-2), (DType::F16, 2e-3)] {
            let x = noise(&[2, 64, 128], 1)?.to_dtype(dtype)?;
            for back in [false, true] {
                let expected = rotate(&x.to_dtype(DType::F32)?, &c, &s, back)?;
                let to = |t: &Tensor| t.to_device(device);
                let found = rotate(&to(&x)?, &to(&c)?, &to(&s)?, back)?;
                ensure!(found.dtype() == dtype, "{:?}", found.dtype());
                let found = found.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
                golden::close("rotary", &found, &expected, tolerance)?;
            }
        }
        Ok(())
    })
}
