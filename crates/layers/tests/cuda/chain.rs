//! A chain of layers as a network has it, on one tape.

use anyhow::{Context, Result};
use candle_core::{DType, Device, Module, Tensor, Var};
use layers::{Conv2d, Conv2dConfig, Gradients, GroupNorm, Padding, Tape, Taped, Upsample};

use crate::harness::{close, compare, noise, on_gpu};

/// Channels.
const C: usize = 32;

/// A residual block between a downsampling and an upsampling.
struct Network {
    norms: [GroupNorm; 2],
    convs: [Conv2d; 2],
    down: Conv2d,
    up: Upsample,
}

impl Network {
    fn new(p: &[Tensor]) -> Result<Self> {
        let norm = |i: usize| GroupNorm::new(p[i].clone(), p[i + 1].clone(), 8, 1e-6);
        let conv = |i: usize, config| Conv2d::new(p[i].clone(), Some(p[i + 1].clone()), config);
        let down =
            Conv2dConfig { stride: 2, padding: Padding { top: 0, bottom: 1, left: 0, right: 1 } };
        let same = Conv2dConfig::same(3);
        Ok(Self {
            norms: [norm(0)?, norm(2)?],
            convs: [conv(4, same), conv(6, same)],
            down: conv(8, down),
            up: Upsample::new(conv(10, same)),
        })
    }

    fn parameters(device: &Device) -> Result<Vec<Var>> {
        let scaled = |shape: &[usize], seed, scale: f64, shift: f64| -> Result<Var> {
            let t = ((noise(shape, seed)? * scale)? + shift)?;
            Ok(Var::from_tensor(&t.to_device(device)?)?)
        };
        let mut found = Vec::new();
        for seed in 0..2 {
            found.push(scaled(&[C], 10 + seed, 0.2, 1.0)?);
            found.push(scaled(&[C], 20 + seed, 0.2, 0.0)?);
        }
        for seed in 0..4 {
            found.push(scaled(&[C, C, 3, 3], 30 + seed, 0.08, 0.0)?);
            found.push(scaled(&[C], 40 + seed, 0.2, 0.0)?);
        }
        Ok(found)
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.down.forward(x)?;
        let hidden = self.convs[0].forward(&self.norms[0].forward_silu(&x)?)?;
        let hidden = self.norms[1].forward_silu(&hidden)?;
        Ok(self.up.forward(&self.convs[1].forward_add(&hidden, &x)?)?)
    }

    fn forward_taped(&self, x: &Tensor, tape: &mut Tape) -> Result<Tensor> {
        let x = self.down.forward_taped(x, tape)?;
        let mut branch = tape.branch();
        let hidden = self.norms[0].forward_silu_taped(&x, &mut branch)?;
        let hidden = self.convs[0].forward_taped(&hidden, &mut branch)?;
        let hidden = self.norms[1].forward_silu_taped(&hidden, &mut branch)?;
        let y = self.convs[1].forward_add_taped(&hidden, &x, &mut branch)?;
        tape.push(move |dy, plus, gradients| {
            let aside = plus.map_or_else(|| Ok(dy.clone()), |plus| dy + plus)?;
            branch.backward_add(dy, Some(&aside), gradients)
        });
        Ok(self.up.forward_taped(&y, tape)?)
    }
}

#[test]
fn a_residual_block_between_down_and_up() -> Result<()> {
    on_gpu("a_residual_block_between_down_and_up", |device| {
        for (batch, side) in [(1, 20), (5, 33), (2, 64)] {
            let mut sides = Vec::new();
            for device in [device, &Device::Cpu] {
                let variables = Network::parameters(device)?;
                let tensors: Vec<Tensor> =
                    variables.iter().map(|v| v.as_tensor().clone()).collect();
                let network = Network::new(&tensors)?;
                let x = noise(&[batch, C, side, side], 1)?.to_device(device)?;
                let (mut tape, mut gradients) = (Tape::default(), Gradients::default());
                let y = network.forward_taped(&x, &mut tape)?;
                close("graph and tape", &network.forward(&x)?, &y, 1e-4)?;
                let dy = noise(y.dims(), 2)?.to_device(device)?;
                let dx = tape.backward(&dy, &mut gradients)?.context("dx")?;
                let mut found = vec![("y".to_string(), y), ("dx".to_string(), dx)];
                for (i, variable) in variables.iter().enumerate() {
                    let gradient = gradients.get(variable).context("gradient")?;
                    found.push((format!("gradient {i}"), gradient.clone()));
                }
                sides.push(found);
            }
            compare(&format!("chain {batch} {side}"), &sides[0], &sides[1], 1e-4)?;
        }
        Ok(())
    })
}

#[test]
fn inference_in_half_precision() -> Result<()> {
    on_gpu("inference_in_half_precision", |device| {
        for dtype in [DType::BF16, DType::F16] {
            let mut sides = Vec::new();
            for (device, as_dtype) in [(device, dtype), (&Device::Cpu, DType::F32)] {
                let to = |t: &Tensor| -> Result<Tensor> {
                    Ok(t.to_dtype(dtype)?.to_dtype(as_dtype)?.to_device(device)?)
                };
                let parameters = Network::parameters(&Device::Cpu)?;
                let parameters: Result<Vec<Tensor>> =
                    parameters.iter().map(|v| to(&v.as_detached_tensor())).collect();
                let network = Network::new(&parameters?)?;
                sides.push(network.forward(&to(&noise(&[2, C, 24, 20], 1)?)?)?);
            }
            close(&format!("{dtype:?}"), &sides[0], &sides[1], 2e-2)?;
        }
        Ok(())
    })
}
