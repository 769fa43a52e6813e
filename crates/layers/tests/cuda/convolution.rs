//! Convolution, and sampling up and down.

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Module, Tensor};
use layers::{Conv2d, Conv2dConfig, Padding, Taped};

use crate::harness::{EXACT, Layer, VIEWS, View, close, noise, on_gpu};

const DOWN: Conv2dConfig =
    Conv2dConfig { stride: 2, padding: Padding { top: 0, bottom: 1, left: 0, right: 1 } };
const ODD: Conv2dConfig =
    Conv2dConfig { stride: 1, padding: Padding { top: 2, bottom: 0, left: 1, right: 3 } };
const HALF: Conv2dConfig = Conv2dConfig { stride: 2, padding: Padding::same(1) };
const FLAT: Conv2dConfig =
    Conv2dConfig { stride: 1, padding: Padding { top: 0, bottom: 0, left: 2, right: 2 } };

/// Input, outputs, kernel, stride and padding.
const CASES: [([usize; 4], usize, usize, Conv2dConfig); 12] = [
    ([1, 3, 9, 7], 5, 3, Conv2dConfig::same(3)),
    ([5, 40, 16, 16], 33, 3, Conv2dConfig::same(3)),
    ([1, 64, 32, 32], 64, 3, Conv2dConfig::same(3)),
    ([5, 6, 10, 13], 7, 3, DOWN),
    ([1, 32, 17, 16], 32, 3, DOWN),
    ([2, 6, 7, 7], 7, 1, Conv2dConfig { stride: 1, padding: Padding::ZERO }),
    ([1, 128, 16, 16], 256, 1, Conv2dConfig { stride: 1, padding: Padding::ZERO }),
    ([5, 4, 12, 11], 6, 4, HALF),
    ([2, 18, 8, 8], 20, 4, Conv2dConfig { stride: 1, padding: Padding::same(1) }),
    ([2, 5, 6, 9], 3, 3, ODD),
    ([2, 5, 6, 9], 3, 3, FLAT),
    ([1, 3, 11, 11], 4, 3, Conv2dConfig { stride: 3, padding: Padding::ZERO }),
];

fn conv(parameters: &[Tensor], config: Conv2dConfig) -> Conv2d {
    Conv2d::new(parameters[0].clone(), parameters.get(1).cloned(), config)
}

fn check(device: &Device, dtype: DType, with_bias: bool, views: &[View]) -> Result<()> {
    for (shape, outputs, kernel, config) in CASES {
        for &view in views {
            let layer = Layer {
                plain: &|p, x| Ok(conv(p, config).forward(x)?),
                taped: &|p, x, tape| Ok(conv(p, config).forward_taped(x, tape)?),
            };
            let weight = [outputs, shape[1], kernel, kernel];
            let (whole, bias) = ([outputs], [&weight[..]]);
            let both: [&[usize]; 2] = [&weight, &whole];
            let parameters: &[&[usize]] = if with_bias { &both } else { &bias };
            let case = format!("conv {kernel}x{kernel} {config:?} to {outputs}");
            layer.check(&case, device, dtype, (&shape, view), parameters)?;
        }
    }
    Ok(())
}

#[test]
fn convolutions() -> Result<()> {
    on_gpu("convolutions", |device| check(device, DType::F32, true, &[View::Whole]))
}

#[test]
fn convolutions_without_bias() -> Result<()> {
    on_gpu("convolutions_without_bias", |device| check(device, DType::F32, false, &[View::Whole]))
}

#[test]
fn convolutions_of_views() -> Result<()> {
    on_gpu("convolutions_of_views", |device| check(device, DType::F32, true, &VIEWS[1..]))
}

#[test]
fn convolutions_bf16() -> Result<()> {
    on_gpu("convolutions_bf16", |device| check(device, DType::BF16, true, &[View::Whole]))
}

#[test]
fn convolutions_f16() -> Result<()> {
    on_gpu("convolutions_f16", |device| check(device, DType::F16, true, &[View::Whole]))
}

#[test]
fn convolutions_with_a_residual() -> Result<()> {
    on_gpu("convolutions_with_a_residual", |device| {
        for (shape, outputs, kernel, config) in CASES {
            let (h, w) = config.output_size((shape[2], shape[3]), (kernel, kernel))?;
            let other = noise(&[shape[0] + 1, outputs, h, w], 9)?;
            // A view, and one that begins anywhere.
            let residual = |x: &Tensor| -> Result<Tensor> {
                Ok(other.to_dtype(x.dtype())?.to_device(x.device())?.narrow(0, 1, shape[0])?)
            };
            let layer = Layer {
                plain: &|p, x| Ok(conv(p, config).forward_add(x, &residual(x)?)?),
                taped: &|p, x, tape| {
                    Ok(conv(p, config).forward_add_taped(x, &residual(x)?, tape)?)
                },
            };
            let weight = [outputs, shape[1], kernel, kernel];
            let parameters: [&[usize]; 2] = [&weight, &[outputs]];
            layer.check("residual", device, DType::F32, (&shape, View::Whole), &parameters)?;
        }
        Ok(())
    })
}

#[test]
fn the_gradient_to_a_weight_alone() -> Result<()> {
    on_gpu("the_gradient_to_a_weight_alone", |device| {
        let (x, weight) = (noise(&[2, 5, 9, 8], 1)?, noise(&[3, 5, 3, 3], 2)?);
        let conv = Conv2d::new(weight.clone(), None, Conv2dConfig::same(3));
        let dy = noise(&[2, 3, 9, 8], 3)?;
        let expected = conv.weight_gradient(&x, &dy)?;
        let to = |t: &Tensor| t.to_device(device);
        let conv = Conv2d::new(to(&weight)?, None, Conv2dConfig::same(3));
        close("dw", &conv.weight_gradient(&to(&x)?, &to(&dy)?)?, &expected, 1e-4)?;
        ensure!(conv.weight_gradient(&to(&x)?, &to(&dy)?.narrow(3, 0, 7)?).is_err());
        Ok(())
    })
}

#[test]
fn upsampling() -> Result<()> {
    on_gpu("upsampling", |device| {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            for shape in [[1, 1, 1, 1], [5, 3, 7, 5], [1, 32, 16, 16], [2, 3, 5, 300]] {
                for view in VIEWS {
                    let up = |p: &[Tensor]| conv(p, Conv2dConfig::same(3));
                    let layer = Layer {
                        plain: &|p, x| Ok(up(p).forward_upsampled(x)?),
                        taped: &|p, x, tape| {
                            let upsample = layers::Upsample::new(up(p));
                            Ok(upsample.forward_taped(x, tape)?)
                        },
                    };
                    let weight = [4, shape[1], 3, 3];
                    let parameters: [&[usize]; 2] = [&weight, &[4]];
                    layer.check("upsample", device, dtype, (&shape, view), &parameters)?;
                }
            }
        }
        Ok(())
    })
}

#[test]
fn a_tape_from_data_finds_no_gradient_of_it() -> Result<()> {
    on_gpu("a_tape_from_data", |device| {
        let x = noise(&[1, 2, 4, 4], 1)?.to_device(device)?;
        let weight = candle_core::Var::from_tensor(&noise(&[3, 2, 3, 3], 2)?.to_device(device)?)?;
        let conv = Conv2d::new(weight.as_tensor().clone(), None, Conv2dConfig::same(3));
        let mut tape = layers::Tape::from_data();
        let y = conv.forward_taped(&x, &mut tape)?;
        let mut gradients = layers::Gradients::default();
        ensure!(tape.backward(&y.ones_like()?, &mut gradients)?.is_none());
        ensure!(gradients.get(&weight).is_some());
        Ok(())
    })
}

#[test]
fn convolutions_hand_on_nan() -> Result<()> {
    on_gpu("convolutions_hand_on_nan", |device| {
        let mut values = noise(&[2, 3, 8, 8], 1)?.flatten_all()?.to_vec1::<f32>()?;
        values[283] = f32::NAN;
        let x = Tensor::from_vec(values, (2, 3, 8, 8), &Device::Cpu)?.to_device(device)?;
        let weight = noise(&[4, 3, 3, 3], 2)?.to_device(device)?;
        let y = Conv2d::new(weight, None, Conv2dConfig::same(3)).forward(&x)?;
        let count = y.flatten_all()?.to_vec1::<f32>()?.iter().filter(|y| y.is_nan()).count();
        // At least the outputs that see it; a transformed convolution spreads it further.
        ensure!(count >= 4 * 9, "{count}");
        Ok(())
    })
}

#[test]
fn tf32_is_a_switch() -> Result<()> {
    if Device::new_cuda_with_stream(0).is_err() {
        println!("skipped: no CUDA device (tf32_is_a_switch)");
        return Ok(());
    }
    let _alone = EXACT.write().unwrap_or_else(|e| e.into_inner());
    let device = Device::new_cuda_with_stream(0)?;
    let (x, weight) = (noise(&[2, 64, 32, 32], 1)?, noise(&[64, 64, 3, 3], 2)?);
    let expected = Conv2d::new(weight.clone(), None, Conv2dConfig::same(3)).forward(&x)?;
    let conv = Conv2d::new(weight.to_device(&device)?, None, Conv2dConfig::same(3));
    let x = x.to_device(&device)?;
    layers::cuda::allow_tf32(true);
    let rounded = conv.forward(&x);
    layers::cuda::allow_tf32(false);
    close("TF32", &rounded?, &expected, 5e-3)?;
    close("f32", &conv.forward(&x)?, &expected, 1e-4)?;
    println!("ok tf32_is_a_switch");
    Ok(())
}
