//! Picture files to 8-bit RGB.

mod flatten;
mod format;
mod jpeg;
mod maps;
mod tiff;

use std::io::Cursor;
use std::path::Path;

use image::error::{ImageError, UnsupportedErrorKind};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};

pub use maps::{decode_depth, decode_labels};

use crate::{Error, Limits, Location, Result};

/// Reads the picture `path` as 8-bit RGB.
///
/// JPEG, PNG, WebP, GIF, TIFF, BMP, PNM and TGA, told apart by content (TGA, which
/// may have no mark of its own, by its name where nothing else fits). Turned upright
/// by the EXIF or TIFF orientation; alpha composited on white; gray, palette, CMYK and
/// 16-bit converted, rounding to nearest; of an animation the first frame, of a
/// multi-page file the first page. Colour profiles are not applied, as in the reference.
///
/// # Errors
/// Every error names the file: not readable, empty, no picture, damaged or cut short
/// (a part of a picture is never returned), over a limit of `limits`.
pub fn load_rgb(path: &Path, limits: &Limits) -> Result<RgbImage> {
    decode_rgb(&Location::File(path.to_path_buf()).read(limits)?, path, limits)
}

/// Decodes the picture in `bytes` as [`load_rgb`] does; `path` names it in messages,
/// and its extension decides where the content does not tell the format.
pub fn decode_rgb(bytes: &[u8], path: &Path, limits: &Limits) -> Result<RgbImage> {
    if bytes.is_empty() {
        return Err(Error::EmptyFile { path: path.to_path_buf() });
    }
    let format = format::detect(bytes, path)?;
    if format == ImageFormat::Jpeg && !jpeg::is_complete(bytes) {
        // The decoder would fill what is missing with gray and say nothing.
        return Err(damaged(path, format, "no end-of-image marker"));
    }
    if format == ImageFormat::Tiff
        && let Some(image) = tiff::decode(bytes, path, limits)?
    {
        return Ok(image);
    }

    let mut decoder_limits = image::Limits::no_limits();
    decoder_limits.max_alloc = Some(limits.max_alloc);
    let fail = |error| image_error(path, format, limits, error);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(decoder_limits);
    let mut decoder = reader.into_decoder().map_err(fail)?;

    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(damaged(path, format, &format!("it has no pixels ({width}x{height})")));
    }
    limits.check_size(path, width, height)?;
    let rgb_bytes = 3 * u64::from(width) * u64::from(height);
    limits.check_alloc(path, decoder.total_bytes().saturating_add(rgb_bytes))?;

    // Orientation is advice: a picture with unreadable EXIF data is shown as stored.
    let orientation = decoder.orientation().unwrap_or(image::metadata::Orientation::NoTransforms);
    let decoded = DynamicImage::from_decoder(decoder).map_err(fail)?;
    let mut upright = DynamicImage::ImageRgb8(flatten::on_white(decoded));
    upright.apply_orientation(orientation);
    Ok(upright.into_rgb8())
}

fn damaged(path: &Path, format: ImageFormat, reason: &str) -> Error {
    let path = path.to_path_buf();
    Error::Damaged { path, format: format::name(format), reason: reason.to_string() }
}

fn image_error(path: &Path, format: ImageFormat, limits: &Limits, error: ImageError) -> Error {
    let name = format::name(format);
    match error {
        ImageError::Unsupported(error) => {
            let what = match error.kind() {
                UnsupportedErrorKind::GenericFeature(feature) => {
                    format!("this kind of {name} ({feature})")
                }
                UnsupportedErrorKind::Color(color) => {
                    format!("this kind of {name} (pixels of type {color:?})")
                }
                _ => format!("this kind of {name}"),
            };
            Error::Unsupported { path: path.to_path_buf(), what }
        }
        // The decoder does not say how much it wanted: more than it was given.
        ImageError::Limits(_) => Error::Limit {
            path: path.to_path_buf(),
            what: "the decoder's memory in bytes, at least",
            value: limits.max_alloc.saturating_add(1),
            limit: limits.max_alloc,
            name: "max_alloc",
            needed: limits.max_pixels.saturating_mul(2),
        },
        error => damaged(path, format, &error.to_string()),
    }
}

#[cfg(test)]
mod tests;
