//! The crops of ADM (Dhariwal and Nichol 2021, `guided_diffusion/image_datasets.py`),
//! which LlamaGen trains and evaluates with.

use std::borrow::Cow;

use image::RgbImage;
use rand_chacha::ChaCha8Rng;

use super::pillow::{Filter, resize};
use super::{center_origin, crop};
use crate::random::below;
use crate::{Error, Result};

/// `center_crop_arr`: halved by box filter while at least twice as large, then bicubic
/// to a smaller side of `size`, then the centre square.
///
/// # Errors
/// A side of 0, in or out.
pub fn center_crop(image: &RgbImage, size: u32) -> Result<RgbImage> {
    let resized = shrink(image, size)?;
    let (x, y) = center_origin(resized.width(), resized.height(), size);
    crop(&resized, x, y, size)
}

/// `random_crop_arr`: as [`center_crop`], with the smaller side drawn such that the
/// square is a fraction of it in `[min_fraction, max_fraction]` (the reference: 0.8 and
/// 1), and the square anywhere.
///
/// # Errors
/// A side of 0; fractions not in order within (0, 1].
pub fn random_crop(
    image: &RgbImage,
    size: u32,
    fractions: (f64, f64),
    rng: &mut ChaCha8Rng,
) -> Result<RgbImage> {
    let side = random_side(size, fractions, rng)?;
    let resized = shrink(image, side)?;
    let y = below(rng, u64::from(resized.height() - size) + 1) as u32;
    let x = below(rng, u64::from(resized.width() - size) + 1) as u32;
    crop(&resized, x, y, size)
}

/// The smaller side from which [`random_crop`] cuts.
pub(crate) fn random_side(
    size: u32,
    (min_fraction, max_fraction): (f64, f64),
    rng: &mut ChaCha8Rng,
) -> Result<u32> {
    if !(0.0 < min_fraction && min_fraction <= max_fraction && max_fraction <= 1.0) {
        let reason = format!("crop fractions {min_fraction} to {max_fraction} are not in (0, 1]");
        return Err(Error::argument("random_crop", reason));
    }
    let smallest = (f64::from(size) / max_fraction).ceil() as u32;
    let largest = (f64::from(size) / min_fraction).ceil() as u32;
    Ok(smallest + below(rng, u64::from(largest - smallest) + 1) as u32)
}

/// Resizes to a smaller side of `size`.
pub(crate) fn shrink(image: &RgbImage, size: u32) -> Result<RgbImage> {
    let mut current = Cow::Borrowed(image);
    while is_halved(current.dimensions(), size) {
        let (width, height) = (current.width() / 2, current.height() / 2);
        current = Cow::Owned(resize(&current, width, height, Filter::Box)?);
    }
    let (width, height) = super::smallest_max_size(current.width(), current.height(), size);
    resize(&current, width, height, Filter::Bicubic)
}

/// The extent of what [`shrink`] makes of a picture.
///
/// # Errors
/// A side of 0, in or out.
pub(crate) fn shrunk_extent(width: u32, height: u32, size: u32) -> Result<(u32, u32)> {
    super::check_sides((width, height), (size, size))?;
    let (mut width, mut height) = (width, height);
    while is_halved((width, height), size) {
        (width, height) = (width / 2, height / 2);
    }
    Ok(super::smallest_max_size(width, height, size))
}

fn is_halved((width, height): (u32, u32), size: u32) -> bool {
    size > 0 && u64::from(width.min(height)) >= 2 * u64::from(size)
}
