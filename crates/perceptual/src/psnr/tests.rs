use anyhow::Result;
use candle_core::{Device, Tensor};

use super::*;

#[test]
fn is_the_formula() -> Result<()> {
    let (a, b) = ([10_u8, 20, 30, 40, 50, 60], [10_u8, 25, 30, 0, 50, 60]);
    let psnr = psnr_rgb8(Rgb8::new(2, 1, &a)?, Rgb8::new(2, 1, &b)?)?;
    let mse = (25.0 + 1600.0) / 6.0;
    assert!((psnr - 10.0 * (255.0_f64.powi(2) / mse).log10()).abs() < 1e-12);

    let (black, white) = ([0_u8; 3], [255_u8; 3]);
    assert_eq!(psnr_rgb8(Rgb8::new(1, 1, &black)?, Rgb8::new(1, 1, &white)?)?, 0.0);
    Ok(())
}

#[test]
fn equal_images_are_infinitely_close() -> Result<()> {
    let a = [7_u8; 12];
    assert_eq!(psnr_rgb8(Rgb8::new(2, 2, &a)?, Rgb8::new(2, 2, &a)?)?, f64::INFINITY);
    let t = Tensor::zeros((2, 3, 4, 5), candle_core::DType::F32, &Device::Cpu)?;
    assert_eq!(psnr(&t, &t, 2.0)?, [f64::INFINITY; 2]);
    Ok(())
}

#[test]
fn tensors_are_measured_one_by_one() -> Result<()> {
    let a = Tensor::new(&[0_f32, 0., 0., 0.], &Device::Cpu)?.reshape((2, 1, 1, 2))?;
    let b = Tensor::new(&[0.5_f32, 0.5, 0., 2.], &Device::Cpu)?.reshape((2, 1, 1, 2))?;
    let psnr = psnr(&a, &b, 2.0)?;
    assert!((psnr[0] - 10.0 * 16_f64.log10()).abs() < 1e-12);
    assert!((psnr[1] - 10.0 * 2_f64.log10()).abs() < 1e-12);
    Ok(())
}

#[test]
fn what_cannot_be_compared_is_refused() -> Result<()> {
    let bytes = [0_u8; 12];
    assert!(psnr_rgb8(Rgb8::new(2, 2, &bytes)?, Rgb8::new(4, 1, &bytes)?).is_err());
    assert!(Rgb8::new(2, 2, &bytes[..11]).is_err());
    assert!(Rgb8::new(0, 2, &[]).is_err());
    assert!(Rgb8::new(u32::MAX, u32::MAX, &bytes).is_err());
    let t = Tensor::new(&bytes, &Device::Cpu)?.reshape((1, 3, 2, 2))?;
    assert!(psnr(&t, &t.reshape((1, 3, 4, 1))?, 255.0).is_err());
    assert!(psnr(&t, &t, 0.0).is_err());
    assert!(psnr(&t, &t, f64::NAN).is_err());
    assert!(psnr(&t.narrow(0, 0, 0)?, &t.narrow(0, 0, 0)?, 1.0).is_err());
    Ok(())
}
