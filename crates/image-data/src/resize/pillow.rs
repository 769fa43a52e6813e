//! `PIL.Image.resize` (Pillow `src/libImaging/Resample.c`): separable, the filter
//! widened when shrinking (anti-aliasing), 8-bit between the passes.

use std::borrow::Cow;

use image::RgbImage;

use super::{Plane, check_sides, from_raw};
use crate::Result;

/// Pillow's fixed point: 32 bits, less 8 of the sample, less 2 for overshoot.
const WEIGHT_BITS: u32 = 32 - 8 - 2;
const CHANNELS: usize = 3;

/// Pillow's resampling filters that the reference uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// `Image.BOX`: the mean of the covered samples.
    Box,
    /// `Image.BICUBIC`: a = -0.5.
    Bicubic,
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Self::Box => 0.5,
            Self::Bicubic => 2.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        match self {
            Self::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
            Self::Bicubic => match x.abs() {
                x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
                x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
                _ => 0.0,
            },
        }
    }
}

/// `image.resize((width, height), filter)`.
///
/// # Errors
/// A side of 0, in or out.
pub fn resize(image: &RgbImage, width: u32, height: u32, filter: Filter) -> Result<RgbImage> {
    check_sides(image.dimensions(), (width, height))?;
    let mut current = Cow::Borrowed(image);
    if width != current.width() {
        let taps = taps(current.width(), width, filter);
        let data = horizontal(&Plane::new(&current, CHANNELS), &taps);
        current = Cow::Owned(from_raw(width, current.height(), data)?);
    }
    if height != current.height() {
        let taps = taps(current.height(), height, filter);
        let data = vertical(&Plane::new(&current, CHANNELS), &taps);
        current = Cow::Owned(from_raw(width, height, data)?);
    }
    Ok(current.into_owned())
}

/// The first sample of an output position, and the weights of it and those after it.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// `precompute_coeffs` and `normalize_coeffs_8bpc`.
fn taps(from: u32, to: u32, filter: Filter) -> Vec<Taps> {
    let scale = f64::from(from) / f64::from(to);
    let filter_scale = scale.max(1.0);
    let support = filter.support() * filter_scale;
    let inverse = 1.0 / filter_scale;
    (0..to)
        .map(|i| {
            let center = (f64::from(i) + 0.5) * scale;
            let first = ((center - support + 0.5) as i64).max(0);
            let end = ((center + support + 0.5) as i64).min(i64::from(from));
            let weight = |j: i64| filter.at((j as f64 - center + 0.5) * inverse);
            let weights: Vec<f64> = (first..end).map(weight).collect();
            let sum: f64 = weights.iter().sum();
            let fixed = |w: &f64| {
                let w = if sum == 0.0 { *w } else { w / sum } * f64::from(1 << WEIGHT_BITS);
                (if w < 0.0 { w - 0.5 } else { w + 0.5 }) as i32
            };
            Taps { first: first as usize, weights: weights.iter().map(fixed).collect() }
        })
        .collect()
}

/// Half a level: where sums begin, so that the shift rounds.
const HALF: i32 = 1 << (WEIGHT_BITS - 1);

fn clip(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

fn horizontal(source: &Plane<u8>, taps: &[Taps]) -> Vec<u8> {
    let mut out = Vec::with_capacity(taps.len() * source.height * CHANNELS);
    for y in 0..source.height {
        let (pixels, _) = source.row(y).as_chunks::<CHANNELS>();
        for taps in taps {
            let mut sums = [HALF; CHANNELS];
            for (pixel, weight) in pixels[taps.first..].iter().zip(&taps.weights) {
                for (sum, &sample) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(sample) * weight;
                }
            }
            out.extend(sums.map(clip));
        }
    }
    out
}

fn vertical(source: &Plane<u8>, taps: &[Taps]) -> Vec<u8> {
    let stride = source.width * CHANNELS;
    let mut out = Vec::with_capacity(taps.len() * stride);
    let mut sums = vec![HALF; stride];
    for taps in taps {
        sums.fill(HALF);
        for (y, weight) in (taps.first..).zip(&taps.weights) {
            for (sum, &sample) in sums.iter_mut().zip(source.row(y)) {
                *sum += i32::from(sample) * weight;
            }
        }
        out.extend(sums.iter().map(|&sum| clip(sum)));
    }
    out
}
