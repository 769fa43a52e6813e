//! Layers as a caller sees them.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::Module;
use simd::tiles::are_available;

use super::super::tests::noise;
use super::super::{Conv2d, Conv2dConfig};

#[test]
fn layers_with_weights_of_half_precision_take_maps_of_f32() -> Result<()> {
    let device = Device::Cpu;
    let tensor =
        |dims: &[usize], seed| Tensor::from_vec(noise(dims.iter().product(), seed), dims, &device);
    // Three channels go another way than forty.
    for (inputs, outputs, stride) in [(40, 48, 1), (40, 48, 2), (3, 40, 1), (40, 3, 1)] {
        let (x, biases) = (tensor(&[2, inputs, 24, 24], 1.0)?, tensor(&[outputs], 3.0)?);
        let config = Conv2dConfig { stride, ..Conv2dConfig::same(3) };
        for dtype in [DType::BF16, DType::F16] {
            let weight = tensor(&[outputs, inputs, 3, 3], 2.0)?.to_dtype(dtype)?;
            let wide = Conv2d::new(weight.to_dtype(DType::F32)?, Some(biases.clone()), config);
            let conv = Conv2d::new(weight, Some(biases.clone()), config);
            assert_eq!(conv.maps_dtype(), DType::F32);
            let (y, expected) = (conv.forward(&x)?, wide.forward(&x)?);
            // Where there are tiles, maps are rounded, too.
            let within = if are_available() { 5e-3 } else { 1e-6 };
            let near = |a: &Tensor, b: &Tensor| -> Result<()> {
                let off = (a - b)?.abs()?.max_all()?.to_scalar::<f32>()?;
                let largest = b.abs()?.max_all()?.to_scalar::<f32>()?;
                assert!(off <= within * largest, "{off} of {largest}");
                Ok(())
            };
            near(&y, &expected)?;
            if stride == 1 {
                near(&conv.forward_add(&x, &expected)?, &(&expected * 2.0)?)?;
                near(&conv.forward_upsampled(&x)?, &wide.forward_upsampled(&x)?)?;
            }
        }
    }
    Ok(())
}

#[test]
fn shapes_that_do_not_fit_are_errors_and_no_pictures_are_fine() -> Result<()> {
    let device = Device::Cpu;
    let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &device);
    let weight = zeros(&[16, 32, 3, 3])?.to_dtype(DType::BF16)?;
    let conv = |bias: usize| -> Result<Conv2d> {
        Ok(Conv2d::new(weight.clone(), Some(zeros(&[bias])?), Conv2dConfig::same(3)))
    };
    let x = zeros(&[1, 32, 5, 5])?;
    assert!(conv(15)?.forward(&x).is_err());
    assert!(conv(16)?.forward(&zeros(&[1, 31, 5, 5])?).is_err());
    assert!(conv(16)?.forward_add(&x, &zeros(&[1, 16, 5, 4])?).is_err());
    assert_eq!(conv(16)?.forward(&zeros(&[0, 32, 5, 5])?)?.dims(), [0, 16, 5, 5]);
    Ok(())
}
