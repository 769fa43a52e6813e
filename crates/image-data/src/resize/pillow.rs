//! `PIL.Image.resize` (Pillow `src/libImaging/Resample.c`): separable, the filter
//! widened when shrinking (anti-aliasing), 8-bit between the passes.

use image::{ImageBuffer, Pixel};

use super::{Plane, check_sides, from_raw};
use crate::Result;

/// Pillow's fixed point: 32 bits, less 8 of the sample, less 2 for overshoot.
const WEIGHT_BITS: u32 = 32 - 8 - 2;

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

/// `image.resize((width, height), filter)` of an 8-bit picture.
///
/// # Errors
/// A side of 0, in or out.
pub fn resize<P>(
    image: &ImageBuffer<P, Vec<u8>>,
    width: u32,
    height: u32,
    filter: Filter,
) -> Result<ImageBuffer<P, Vec<u8>>>
where
    P: Pixel<Subpixel = u8>,
{
    check_sides(image.dimensions(), (width, height))?;
    let channels = usize::from(P::CHANNEL_COUNT);
    let mut current = image.clone();
    if width != current.width() {
        let taps = taps(current.width(), width, filter);
        let data = horizontal(&Plane::new(&current, channels), &taps);
        current = from_raw(width, current.height(), data)?;
    }
    if height != current.height() {
        let taps = taps(current.height(), height, filter);
        let data = vertical(&Plane::new(&current, channels), &taps);
        current = from_raw(width, height, data)?;
    }
    Ok(current)
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

/// The weighted sum of samples, rounded and clipped to 8 bits.
fn sum(samples: impl Iterator<Item = u8>, weights: &[i32]) -> u8 {
    let start = 1_i32 << (WEIGHT_BITS - 1);
    let sum = samples.zip(weights).fold(start, |sum, (s, w)| sum + i32::from(s) * w);
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

fn horizontal(source: &Plane<u8>, taps: &[Taps]) -> Vec<u8> {
    let channels = source.channels;
    let mut out = Vec::with_capacity(taps.len() * source.height * channels);
    for y in 0..source.height {
        let row = source.row(y);
        for taps in taps {
            for c in 0..channels {
                let samples = row[taps.first * channels + c..].iter().step_by(channels);
                out.push(sum(samples.copied(), &taps.weights));
            }
        }
    }
    out
}

fn vertical(source: &Plane<u8>, taps: &[Taps]) -> Vec<u8> {
    let stride = source.width * source.channels;
    let mut out = Vec::with_capacity(taps.len() * stride);
    for taps in taps {
        let rows = &source.data[taps.first * stride..];
        out.extend(
            (0..stride).map(|i| sum(rows[i..].iter().step_by(stride).copied(), &taps.weights)),
        );
    }
    out
}
