use proptest::prelude::*;

use super::pillow::Filter;
use super::*;
use crate::{example_rng, resize};
use image::{GrayImage, Luma, Rgb, RgbImage};

fn noise(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let n = (x * 7919 + y * 104_729).wrapping_mul(2_654_435_761);
        Rgb([(n >> 24) as u8, (n >> 16) as u8, (n >> 8) as u8])
    })
}

const ALL: [Interpolation; 3] =
    [Interpolation::Nearest, Interpolation::Linear, Interpolation::Cubic];

#[test]
fn sides_round_half_to_even() {
    assert_eq!(smallest_max_size(71, 53, 32), (43, 32));
    // 5 * 3 / 2 = 7.5 and 3 * 3 / 2 = 4.5.
    assert_eq!(smallest_max_size(5, 2, 3), (8, 3));
    assert_eq!(smallest_max_size(2, 3, 3), (3, 4));
    assert_eq!(smallest_max_size(64, 64, 64), (64, 64));
    assert_eq!(center_origin(43, 32, 32), (5, 0));
}

#[test]
fn halving_exactly_averages_blocks() -> Result<()> {
    let image = GrayImage::from_raw(2, 2, vec![1, 2, 3, 4]).unwrap_or_default();
    assert_eq!(resize_u8(&image, 1, 1, Interpolation::Linear)?.as_raw(), &[3]);
    let depth = DepthImage::from_raw(2, 2, vec![1.0, 2.0, 3.0, 4.0]).unwrap_or_default();
    assert_eq!(resize_f32(&depth, 1, 1, Interpolation::Linear)?.as_raw(), &[2.5]);
    Ok(())
}

#[test]
fn nearest_takes_the_floor() -> Result<()> {
    let ramp = GrayImage::from_fn(90, 1, |x, _| Luma([x as u8]));
    let small = resize_u8(&ramp, 35, 1, Interpolation::Nearest)?;
    let expected: Vec<u8> = (0..35).map(|i| (i * 90 / 35) as u8).collect();
    assert_eq!(small.as_raw(), &expected);
    Ok(())
}

/// The formula of bilinear interpolation, pixel by pixel, in f64.
fn linear_in_f64(image: &RgbImage, width: u32, height: u32) -> Vec<f64> {
    let axis = |i: u32, to: u32, from: u32| {
        let at = (f64::from(i) + 0.5) * f64::from(from) / f64::from(to) - 0.5;
        let at = at.clamp(0.0, f64::from(from - 1));
        (at.floor() as u32, (at.floor() as u32 + 1).min(from - 1), at.fract())
    };
    let mut out = Vec::new();
    for y in 0..height {
        let (y0, y1, fy) = axis(y, height, image.height());
        for x in 0..width {
            let (x0, x1, fx) = axis(x, width, image.width());
            for c in 0..3 {
                let at = |x, y| f64::from(image.get_pixel(x, y)[c]);
                let top = at(x0, y0) * (1.0 - fx) + at(x1, y0) * fx;
                let bottom = at(x0, y1) * (1.0 - fx) + at(x1, y1) * fx;
                out.push(top * (1.0 - fy) + bottom * fy);
            }
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn linear_agrees_with_the_formula(
        (w, h) in (1_u32..40, 1_u32..40),
        (to_w, to_h) in (1_u32..40, 1_u32..40),
    ) {
        let image = noise(w, h);
        let resized = resize_u8(&image, to_w, to_h, Interpolation::Linear)
            .map_err(|e| TestCaseError::fail(e.to_string()))?;
        for (actual, exact) in resized.iter().zip(linear_in_f64(&image, to_w, to_h)) {
            prop_assert!((f64::from(*actual) - exact).abs() <= 1.01, "{actual} {exact}");
        }
    }

    #[test]
    fn flat_pictures_stay_flat(
        (w, h) in (1_u32..30, 1_u32..30),
        (to_w, to_h) in (1_u32..30, 1_u32..30),
        value in any::<u8>(),
    ) {
        let fail = |e: crate::Error| TestCaseError::fail(e.to_string());
        let image = RgbImage::from_pixel(w, h, Rgb([value; 3]));
        for interpolation in ALL {
            let resized = resize_u8(&image, to_w, to_h, interpolation).map_err(fail)?;
            prop_assert_eq!(resized.dimensions(), (to_w, to_h));
            prop_assert!(resized.iter().all(|&v| v == value), "{:?}", interpolation);
        }
        for filter in [Filter::Box, Filter::Bicubic] {
            let resized = pillow::resize(&image, to_w, to_h, filter).map_err(fail)?;
            prop_assert!(resized.iter().all(|&v| v == value), "{:?}", filter);
        }
    }

    #[test]
    fn adm_crops_are_squares_of_the_size(
        (w, h) in (1_u32..300, 1_u32..300),
        size in 1_u32..40,
        seed in any::<u64>(),
    ) {
        let fail = |e: crate::Error| TestCaseError::fail(e.to_string());
        let image = noise(w, h);
        let center = adm::center_crop(&image, size).map_err(fail)?;
        prop_assert_eq!(center.dimensions(), (size, size));
        let mut rng = example_rng(seed, 0, 0);
        let random = adm::random_crop(&image, size, (0.8, 1.0), &mut rng).map_err(fail)?;
        prop_assert_eq!(random.dimensions(), (size, size));
    }
}

#[test]
fn impossible_arguments_are_errors() {
    let image = noise(4, 3);
    for interpolation in ALL {
        assert!(resize_u8(&image, 0, 3, interpolation).is_err());
        assert!(resize_u8(&RgbImage::new(0, 3), 2, 2, interpolation).is_err());
    }
    let depth = DepthImage::new(3, 3);
    assert!(resize_f32(&depth, 2, 2, Interpolation::Cubic).is_err());
    assert!(resize_f32(&depth, 0, 2, Interpolation::Linear).is_err());
    for (x, y, size) in [(1, 0, 4), (0, 1, 3), (0, 0, 0), (u32::MAX, 0, 2)] {
        assert!(resize::crop(&image, x, y, size).is_err());
    }
    assert!(resize::crop(&image, 1, 0, 3).is_ok_and(|c| c.dimensions() == (3, 3)));
    assert!(adm::center_crop(&image, 0).is_err());
    let mut rng = example_rng(0, 0, 0);
    for fractions in [(0.0, 1.0), (0.9, 0.8), (0.5, 1.5), (f64::NAN, 1.0)] {
        assert!(adm::random_crop(&image, 2, fractions, &mut rng).is_err());
    }
}
