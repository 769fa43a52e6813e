use anyhow::Result;
use candle_core::{DType, Device, Tensor};

use super::*;

/// Two related pictures, by formula.
fn pictures(width: usize, height: usize, k: usize) -> (Vec<u8>, Vec<u8>) {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for i in 0..3 * width * height {
        let (c, x, y) = (i % 3, i / 3 % width, i / 3 / width);
        let value = (x * 7 + y * 13 + c * 40) % 256;
        a.push(value as u8);
        b.push((value + (i * i * k + i * 31) % 61).saturating_sub(30).min(255) as u8);
    }
    (a, b)
}

/// The definition, window by window.
fn slow_ssim(a: &[u8], b: &[u8], width: usize, height: usize) -> f64 {
    let weights = window(width.min(height));
    let size = weights.len();
    let (c1, c2) = (2.55_f64.powi(2), 7.65_f64.powi(2));
    let mut total = 0.0;
    let mut count = 0.0;
    for c in 0..3 {
        for top in 0..=height - size {
            for left in 0..=width - size {
                let mean = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
                    let mut sum = 0.0;
                    for (dy, wy) in weights.iter().enumerate() {
                        for (dx, wx) in weights.iter().enumerate() {
                            let i = 3 * ((top + dy) * width + left + dx) + c;
                            sum += wy * wx * f(f64::from(a[i]), f64::from(b[i]));
                        }
                    }
                    sum
                };
                let (ma, mb) = (mean(&|a, _| a), mean(&|_, b| b));
                let va = mean(&|a, _| (a - ma).powi(2));
                let vb = mean(&|_, b| (b - mb).powi(2));
                let vab = mean(&|a, b| (a - ma) * (b - mb));
                total += (2.0 * ma * mb + c1) / (ma * ma + mb * mb + c1) * (2.0 * vab + c2)
                    / (va + vb + c2);
                count += 1.0;
            }
        }
    }
    total / count
}

fn of(a: &[u8], b: &[u8], width: usize, height: usize) -> Result<f64> {
    let view = |p| Rgb8::new(width as u32, height as u32, p);
    Ok(ssim_rgb8(view(a)?, view(b)?)?)
}

#[test]
fn is_scikit_images() -> Result<()> {
    // scikit-image 0.26, structural_similarity(a, b, gaussian_weights=True, sigma=1.5,
    // use_sample_covariance=False, data_range=255, channel_axis=2).
    for (width, height, k, expected) in [
        (37, 29, 17, 0.839_106_407_446_791_9),
        (11, 11, 5, 0.764_935_281_601_096_7),
        (64, 12, 3, 0.850_319_034_731_522_4),
    ] {
        let (a, b) = pictures(width, height, k);
        let ssim = of(&a, &b, width, height)?;
        assert!((ssim - expected).abs() < 1e-10, "{width}x{height}: {ssim} is not {expected}");
    }
    Ok(())
}

#[test]
fn is_the_definition_at_every_size() -> Result<()> {
    for (width, height) in [(1, 1), (2, 2), (1, 20), (7, 30), (10, 10), (11, 40), (23, 17)] {
        let (a, b) = pictures(width, height, 7);
        let (fast, slow) = (of(&a, &b, width, height)?, slow_ssim(&a, &b, width, height));
        assert!((fast - slow).abs() < 1e-10, "{width}x{height}: {fast} is not {slow}");
    }
    Ok(())
}

#[test]
fn equal_is_one_and_flat_is_the_luminance_term() -> Result<()> {
    let (a, _) = pictures(20, 15, 1);
    assert!((of(&a, &a, 20, 15)? - 1.0).abs() < 1e-12);
    let (a, b) = ([100_u8; 3 * 144], [120_u8; 3 * 144]);
    let c1 = 2.55_f64.powi(2);
    let expected = (2.0 * 12_000.0 + c1) / (10_000.0 + 14_400.0 + c1);
    assert!((of(&a, &b, 12, 12)? - expected).abs() < 1e-9);
    Ok(())
}

#[test]
fn tensors_and_bytes_agree() -> Result<()> {
    let (width, height) = (19, 14);
    let (a, b) = pictures(width, height, 5);
    let expected = of(&a, &b, width, height)?;
    let tensor = |bytes: &[u8]| -> Result<Tensor> {
        let t = Tensor::from_slice(bytes, (1, height, width, 3), &Device::Cpu)?;
        Ok(t.permute((0, 3, 1, 2))?.to_dtype(DType::F64)?)
    };
    let (a, b) = (tensor(&a)?, tensor(&b)?);
    assert!((ssim(&a, &b, 255.0)?[0] - expected).abs() < 1e-12);
    // SSIM knows no unit: [0, 1] gives the same. Batches are measured one by one.
    let both = ssim(
        &Tensor::cat(&[&a, &b], 0)?.affine(1.0 / 255.0, 0.0)?,
        &Tensor::cat(&[&b, &b], 0)?.affine(1.0 / 255.0, 0.0)?,
        1.0,
    )?;
    assert!((both[0] - expected).abs() < 1e-9 && (both[1] - 1.0).abs() < 1e-9);
    assert!(ssim(&a, &b, -1.0).is_err());
    assert!(ssim(&a, &b.narrow(3, 0, 5)?, 255.0).is_err());
    Ok(())
}
