//! The reference's preprocessing, with the arithmetic of the libraries it calls.
//!
//! taming-transformers resizes with albumentations 0.4.3, that is OpenCV without
//! anti-aliasing ([`resize_u8`], [`resize_f32`], [`smallest_max_size`]); LlamaGen with
//! Pillow, which anti-aliases ([`adm`]). A model should be shown the pixels it was
//! trained on, so both are repeated here to the bit where that is possible.

pub mod adm;
mod opencv;
pub mod pillow;

use image::{ImageBuffer, Pixel};
use serde::{Deserialize, Serialize};

use crate::{DepthImage, Error, Result};

/// How a pixel between pixels is found (OpenCV's names).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// `INTER_NEAREST`: for label maps.
    Nearest,
    /// `INTER_LINEAR`: the default for pictures and depth.
    Linear,
    /// `INTER_CUBIC` with a = -0.75: pictures of the segmentation examples.
    Cubic,
}

/// `cv2.resize` of an 8-bit picture of any channel count, without anti-aliasing.
///
/// # Errors
/// A side of 0, in or out.
pub fn resize_u8<P>(
    image: &ImageBuffer<P, Vec<u8>>,
    width: u32,
    height: u32,
    interpolation: Interpolation,
) -> Result<ImageBuffer<P, Vec<u8>>>
where
    P: Pixel<Subpixel = u8>,
{
    check_sides(image.dimensions(), (width, height))?;
    let source = Plane::new(image, usize::from(P::CHANNEL_COUNT));
    let (w, h) = (width as usize, height as usize);
    let data = match interpolation {
        _ if image.dimensions() == (width, height) => return Ok(image.clone()),
        Interpolation::Nearest => opencv::nearest(&source, w, h),
        Interpolation::Linear => opencv::linear_u8(&source, w, h),
        Interpolation::Cubic => opencv::cubic_u8(&source, w, h),
    };
    from_raw(width, height, data)
}

/// `cv2.resize` of a float map with `INTER_LINEAR` (or `INTER_NEAREST`).
///
/// # Errors
/// A side of 0, in or out; cubic interpolation, which the reference does not use on floats.
pub fn resize_f32(
    image: &DepthImage,
    width: u32,
    height: u32,
    interpolation: Interpolation,
) -> Result<DepthImage> {
    check_sides(image.dimensions(), (width, height))?;
    let source = Plane::new(image, 1);
    let (w, h) = (width as usize, height as usize);
    let data = match interpolation {
        _ if image.dimensions() == (width, height) => return Ok(image.clone()),
        Interpolation::Nearest => opencv::nearest(&source, w, h),
        Interpolation::Linear => opencv::linear_f32(&source, w, h),
        Interpolation::Cubic => {
            return Err(Error::argument("resize_f32", "no cubic interpolation of float maps"));
        }
    };
    from_raw(width, height, data)
}

/// The (width, height) at which the smaller side is `size`: albumentations'
/// `SmallestMaxSize`, which rounds half to even.
pub fn smallest_max_size(width: u32, height: u32, size: u32) -> (u32, u32) {
    let scale = f64::from(size) / f64::from(width.min(height).max(1));
    let side = |n: u32| (f64::from(n) * scale).round_ties_even().max(1.0) as u32;
    (side(width), side(height))
}

/// The (x, y) at which a square crop of `size` is centred: `(W - size) // 2`.
/// The picture must be at least that large.
pub fn center_origin(width: u32, height: u32, size: u32) -> (u32, u32) {
    (width.saturating_sub(size) / 2, height.saturating_sub(size) / 2)
}

/// A square of `size` at (`x`, `y`).
///
/// # Errors
/// The square is not inside the picture.
pub fn crop<P>(
    image: &ImageBuffer<P, Vec<P::Subpixel>>,
    x: u32,
    y: u32,
    size: u32,
) -> Result<ImageBuffer<P, Vec<P::Subpixel>>>
where
    P: Pixel + 'static,
{
    let (width, height) = image.dimensions();
    let fits = |origin: u32, extent| origin.checked_add(size).is_some_and(|end| end <= extent);
    if size == 0 || !fits(x, width) || !fits(y, height) {
        let reason = format!("no square of {size} at ({x}, {y}) in a picture of {width}x{height}");
        return Err(Error::argument("crop", reason));
    }
    Ok(image::imageops::crop_imm(image, x, y, size, size).to_image())
}

/// Interleaved samples with their extent.
struct Plane<'a, T> {
    data: &'a [T],
    width: usize,
    height: usize,
    channels: usize,
}

impl<'a, T> Plane<'a, T> {
    fn new<P: Pixel<Subpixel = T>>(image: &'a ImageBuffer<P, Vec<T>>, channels: usize) -> Self {
        let (width, height) = (image.width() as usize, image.height() as usize);
        Self { data: image.as_raw(), width, height, channels }
    }

    fn row(&self, y: usize) -> &'a [T] {
        let stride = self.width * self.channels;
        &self.data[y * stride..(y + 1) * stride]
    }
}

fn check_sides(from: (u32, u32), to: (u32, u32)) -> Result<()> {
    if [from.0, from.1, to.0, to.1].contains(&0) {
        let reason = format!("cannot resize {}x{} to {}x{}", from.0, from.1, to.0, to.1);
        return Err(Error::argument("resize", reason));
    }
    Ok(())
}

fn from_raw<P: Pixel>(
    width: u32,
    height: u32,
    data: Vec<P::Subpixel>,
) -> Result<ImageBuffer<P, Vec<P::Subpixel>>> {
    ImageBuffer::from_raw(width, height, data)
        .ok_or_else(|| Error::argument("resize", format!("{width}x{height} is too large")))
}

#[cfg(test)]
mod tests;
