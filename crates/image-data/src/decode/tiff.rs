//! The kinds of TIFF that `image` refuses: palettes, and gray with alpha.

use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageFormat, RgbImage, metadata::Orientation};
use tiff::decoder::{Decoder, DecodingResult, Limits as TiffLimits};
use tiff::{ColorType, TiffError, tags::Tag};

use super::{damaged, flatten};
use crate::{Error, Limits, Result};

const PHOTOMETRIC: u16 = 262;
const BLACK_IS_ZERO: u16 = 1;
const PALETTE: u16 = 3;

/// Decodes `bytes` if it is a TIFF with a palette or with gray and alpha;
/// `None` leaves every other kind to `image`.
pub(super) fn decode(bytes: &[u8], path: &Path, limits: &Limits) -> Result<Option<RgbImage>> {
    // The `tiff` crate has no palettes: it is shown the indices as gray values instead.
    let relabelled = palette_entry(bytes).map(|(at, value)| {
        let mut copy = bytes.to_vec();
        copy[at..at + 2].copy_from_slice(&value);
        copy
    });
    let is_palette = relabelled.is_some();
    let Ok(mut decoder) = Decoder::new(Cursor::new(relabelled.as_deref().unwrap_or(bytes))) else {
        return Ok(None);
    };
    let (Ok(color), Ok((width, height))) = (decoder.colortype(), decoder.dimensions()) else {
        return Ok(None);
    };
    let bits = match color {
        ColorType::Gray(bits @ (1 | 2 | 4 | 8)) if is_palette => bits,
        ColorType::Multiband { bit_depth: bits @ (8 | 16), num_samples: 2 } if !is_palette => bits,
        _ => return Ok(None),
    };
    let error = |error| tiff_error(path, error);

    limits.check_size(path, width, height)?;
    let pixels = u64::from(width) * u64::from(height);
    limits.check_alloc(path, pixels * (2 * u64::from(bits).div_ceil(8) + 3))?;
    let mut memory = TiffLimits::default();
    memory.decoding_buffer_size = usize::try_from(limits.max_alloc).unwrap_or(usize::MAX);
    memory.intermediate_buffer_size = memory.decoding_buffer_size;
    let mut decoder = decoder.with_limits(memory);

    let orientation = decoder.find_tag_unsigned::<u8>(Tag::Orientation).ok().flatten();
    let samples = decoder.read_image().map_err(error)?;
    let rgb = if is_palette {
        let map = decoder.get_tag_u16_vec(Tag::ColorMap).map_err(error)?;
        let DecodingResult::U8(indices) = samples else { return Ok(None) };
        through_palette(&indices, bits, &map, width, height)
    } else {
        gray_alpha(samples, width, height).map(flatten::on_white)
    };
    let rgb = rgb.ok_or_else(|| {
        damaged(path, ImageFormat::Tiff, "fewer samples or palette entries than pixels need")
    })?;
    let mut upright = DynamicImage::ImageRgb8(rgb);
    let orientation = orientation.and_then(Orientation::from_exif);
    upright.apply_orientation(orientation.unwrap_or(Orientation::NoTransforms));
    Ok(Some(upright.into_rgb8()))
}

/// Where the first directory says "palette", and the bytes that say "gray" instead
/// (TIFF 6.0, section 2: 12-byte entries, a SHORT left-aligned in its value field).
fn palette_entry(bytes: &[u8]) -> Option<(usize, [u8; 2])> {
    let big_endian = bytes.starts_with(b"MM");
    let u16_at = |at: usize| {
        let pair = [*bytes.get(at)?, *bytes.get(at + 1)?];
        Some(if big_endian { u16::from_be_bytes(pair) } else { u16::from_le_bytes(pair) })
    };
    let word = [*bytes.get(4)?, *bytes.get(5)?, *bytes.get(6)?, *bytes.get(7)?];
    let word = if big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) };
    let directory = usize::try_from(word).ok()?;
    let entries = usize::from(u16_at(directory)?);
    let entry =
        (0..entries).map(|i| directory + 2 + 12 * i).find(|&at| u16_at(at) == Some(PHOTOMETRIC))?;
    let gray = if big_endian { BLACK_IS_ZERO.to_be_bytes() } else { BLACK_IS_ZERO.to_le_bytes() };
    (u16_at(entry + 8) == Some(PALETTE)).then_some((entry + 8, gray))
}

/// Indices of `bits` bits, packed by rows, through a colour map of 16-bit
/// reds, greens and blues.
fn through_palette(
    indices: &[u8],
    bits: u8,
    map: &[u16],
    width: u32,
    height: u32,
) -> Option<RgbImage> {
    let entries = 1_usize << bits;
    if map.len() < 3 * entries {
        return None;
    }
    let to8 = |value: u16| ((u32::from(value) + 128) / 257) as u8;
    let color = |i: usize| [map[i], map[entries + i], map[2 * entries + i]].map(to8);
    let colors: Vec<_> = (0..entries).map(color).collect();

    let (width_px, bits) = (width as usize, usize::from(bits));
    let row_bytes = (width_px * bits).div_ceil(8);
    let mut rgb = RgbImage::new(width, height);
    if indices.len() < row_bytes * height as usize {
        return None;
    }
    for (row, out) in indices.chunks(row_bytes).zip(rgb.chunks_exact_mut(3 * width_px)) {
        for (x, out) in out.chunks_exact_mut(3).enumerate() {
            let shift = 8 - bits - (x * bits) % 8;
            let index = usize::from(row[x * bits / 8] >> shift) & (entries - 1);
            out.copy_from_slice(&colors[index]);
        }
    }
    Some(rgb)
}

fn gray_alpha(samples: DecodingResult, width: u32, height: u32) -> Option<DynamicImage> {
    match samples {
        DecodingResult::U8(data) => {
            image::ImageBuffer::from_raw(width, height, data).map(DynamicImage::ImageLumaA8)
        }
        DecodingResult::U16(data) => {
            image::ImageBuffer::from_raw(width, height, data).map(DynamicImage::ImageLumaA16)
        }
        _ => None,
    }
}

fn tiff_error(path: &Path, error: TiffError) -> Error {
    match error {
        TiffError::UnsupportedError(what) => {
            let what = format!("this kind of TIFF ({what})");
            Error::Unsupported { path: path.to_path_buf(), what }
        }
        error => damaged(path, ImageFormat::Tiff, &error.to_string()),
    }
}
