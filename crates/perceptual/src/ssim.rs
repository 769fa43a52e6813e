//! Structural similarity (Wang, Bovik, Sheikh & Simoncelli 2004).
//!
//! Convention: a Gaussian window of 11x11 pixels and σ = 1.5, K1 = 0.01,
//! K2 = 0.03, population (not sample) covariance; per channel; averaged over the
//! positions where the window lies inside the image, then over channels. This is
//! the authors' code, and scikit-image's `structural_similarity(gaussian_weights=
//! True, sigma=1.5, use_sample_covariance=False, data_range=…, channel_axis=…)`.
//! No conversion to grey, no downsampling first.
//!
//! **Images with a side below 11**, which those refuse, get the largest odd window
//! that fits, σ unchanged, weights normalised again.

use candle_core::{Result, Tensor};

use crate::Rgb8;
use crate::planes::Planes;

/// Side of the window, in pixels.
const WINDOW: usize = 11;
/// Standard deviation of the window, in pixels.
const SIGMA: f64 = 1.5;
/// Stabilises the luminance term, relative to the data range.
const K1: f64 = 0.01;
/// Stabilises the contrast term, relative to the data range.
const K2: f64 = 0.03;

/// The mean SSIM of two pictures, at most 1 (equal); see [the module](self).
///
/// # Errors
/// When the sizes differ.
pub fn ssim_rgb8(a: Rgb8, b: Rgb8) -> Result<f64> {
    a.check_same_size("ssim", &b)?;
    let size = (a.height(), a.width());
    let sum: f64 = (0..3)
        .map(|channel| {
            let value = |x: &Rgb8, i: usize| f64::from(x.pixels()[3 * i + channel]);
            plane_ssim(size, 255.0, &|i| value(&a, i), &|i| value(&b, i))
        })
        .sum();
    Ok(sum / 3.0)
}

/// The mean SSIM of each image of two batches `[B, C, H, W]`, any dtype and number
/// of channels; see [the module](self).
///
/// `data_range` is the distance from the smallest to the largest value an image
/// may have: 2 for `[-1, 1]`, 1 for `[0, 1]`, 255 for bytes.
///
/// # Errors
/// When the shapes differ or have no pixels, or `data_range` is not positive.
pub fn ssim(a: &Tensor, b: &Tensor, data_range: f64) -> Result<Vec<f64>> {
    let (a, b) = Planes::pair("ssim", a, b, data_range)?;
    let one = |image| {
        let sum: f64 = (0..a.channels)
            .map(|channel| {
                let (pa, pb) = (a.plane(image, channel), b.plane(image, channel));
                plane_ssim((a.height, a.width), data_range, &|i| pa[i], &|i| pb[i])
            })
            .sum();
        sum / a.channels as f64
    };
    Ok((0..a.images).map(one).collect())
}

/// The window's weights along one axis, for an image whose shorter side is `side`.
fn window(side: usize) -> Vec<f64> {
    let fits = if side % 2 == 1 { side } else { side - 1 };
    let radius = (fits.min(WINDOW) / 2) as f64;
    let weight = |i| (-0.5 * ((i as f64 - radius) / SIGMA).powi(2)).exp();
    let weights: Vec<f64> = (0..fits.min(WINDOW)).map(weight).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|w| w / sum).collect()
}

/// The five maps whose local means SSIM is made of: a, b, a², b², ab.
const MAPS: usize = 5;

/// Mean SSIM of one channel, its pixels given by index in reading order.
///
/// The window is separable: rows are filtered as they come and kept for as long
/// as the window covers them, so memory is a few rows, whatever the image's size.
fn plane_ssim(
    (height, width): (usize, usize),
    data_range: f64,
    a: &impl Fn(usize) -> f64,
    b: &impl Fn(usize) -> f64,
) -> f64 {
    let weights = window(height.min(width));
    let size = weights.len();
    let (rows, columns) = (height - size + 1, width - size + 1);
    let (c1, c2) = ((K1 * data_range).powi(2), (K2 * data_range).powi(2));

    let mut maps = vec![0.0; MAPS * width];
    // Row y of the filtered maps lies at y % size.
    let mut filtered = vec![0.0; size * MAPS * columns];
    let mut means = vec![0.0; MAPS * columns];
    let mut total = 0.0;
    for y in 0..height {
        for x in 0..width {
            let (a, b) = (a(y * width + x), b(y * width + x));
            for (m, value) in [a, b, a * a, b * b, a * b].into_iter().enumerate() {
                maps[m * width + x] = value;
            }
        }
        let slot = &mut filtered[(y % size) * MAPS * columns..][..MAPS * columns];
        for m in 0..MAPS {
            let out = &mut slot[m * columns..][..columns];
            out.fill(0.0);
            for (t, weight) in weights.iter().enumerate() {
                add_scaled(out, *weight, &maps[m * width + t..][..columns]);
            }
        }
        if y + 1 < size {
            continue;
        }
        means.fill(0.0);
        for (t, weight) in weights.iter().enumerate() {
            let row = (y + 1 - size + t) % size;
            add_scaled(&mut means, *weight, &filtered[row * MAPS * columns..][..MAPS * columns]);
        }
        for x in 0..columns {
            let [ma, mb, aa, bb, ab] = std::array::from_fn(|m| means[m * columns + x]);
            let (va, vb, vab) = (aa - ma * ma, bb - mb * mb, ab - ma * mb);
            total += (2.0 * ma * mb + c1) * (2.0 * vab + c2)
                / ((ma * ma + mb * mb + c1) * (va + vb + c2));
        }
    }
    total / (rows * columns) as f64
}

/// `out += scale * row`.
fn add_scaled(out: &mut [f64], scale: f64, row: &[f64]) {
    for (out, value) in out.iter_mut().zip(row) {
        *out += scale * value;
    }
}

#[cfg(test)]
mod tests;
