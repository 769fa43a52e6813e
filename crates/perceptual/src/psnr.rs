//! Peak signal-to-noise ratio, in decibels.

use candle_core::{Result, Tensor};

use crate::Rgb8;
use crate::planes::Planes;

/// `10 log10(255² / mse)` of two pictures, the mean taken over all pixels and
/// channels; positive infinity where they are equal.
///
/// # Errors
/// When the sizes differ.
pub fn psnr_rgb8(a: Rgb8, b: Rgb8) -> Result<f64> {
    a.check_same_size("psnr", &b)?;
    let squares: u64 = a
        .pixels()
        .iter()
        .zip(b.pixels())
        .map(|(&a, &b)| u64::from(a.abs_diff(b)) * u64::from(a.abs_diff(b)))
        .sum();
    Ok(decibels(squares as f64 / a.pixels().len() as f64, 255.0))
}

/// The PSNR of each image of two batches `[B, C, H, W]`, any dtype; positive
/// infinity where they are equal, NaN where a value is.
///
/// `data_range` is the distance from the smallest to the largest value an image
/// may have: 2 for `[-1, 1]`, 1 for `[0, 1]`, 255 for bytes. Values outside the
/// range are not clamped.
///
/// # Errors
/// When the shapes differ or have no pixels, or `data_range` is not positive.
pub fn psnr(a: &Tensor, b: &Tensor, data_range: f64) -> Result<Vec<f64>> {
    let (a, b) = Planes::pair("psnr", a, b, data_range)?;
    let mse = |i| {
        let (a, b) = (a.image(i), b.image(i));
        a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>() / a.len() as f64
    };
    Ok((0..a.images).map(|i| decibels(mse(i), data_range)).collect())
}

fn decibels(mse: f64, data_range: f64) -> f64 {
    // Division by a zero error is the infinity we want.
    10.0 * (data_range * data_range / mse).log10()
}

#[cfg(test)]
mod tests;
