//! Label and depth maps out of PNG files: the stored numbers, not their colours.

use std::io::Cursor;
use std::path::Path;

use image::{GrayImage, RgbaImage};
use png::{BitDepth, ColorType};

use crate::{DepthImage, Error, Limits, Result, depth_from_rgba};

/// The label map in `bytes`, a PNG file: gray values, or numbers of palette entries, as
/// `np.array(Image.open(path))` has them in the reference. 16-bit gray is taken if no
/// label is above 255.
///
/// # Errors
/// No PNG, damaged, over a limit, in colours without a palette; a label above 255.
pub fn decode_labels(bytes: &[u8], path: &Path, limits: &Limits) -> Result<GrayImage> {
    let map = Map::read(bytes, path, limits)?;
    let labels = match (map.color, map.depth) {
        (ColorType::Grayscale | ColorType::Indexed, BitDepth::Sixteen) => {
            let wide = map.data.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            let narrow = wide.map(|label| {
                u8::try_from(label).map_err(|_| {
                    refuse(path, format!("labels above 255 (here {label}) are not read"))
                })
            });
            narrow.collect::<Result<_>>()?
        }
        (ColorType::Grayscale | ColorType::Indexed, depth) => map.unpacked(depth as usize),
        (color, _) => {
            let reason = format!(
                "it is in colours ({color:?}); a label map is an 8-bit gray or palette PNG \
                 whose values are the labels"
            );
            return Err(refuse(path, reason));
        }
    };
    GrayImage::from_raw(map.width, map.height, labels)
        .ok_or_else(|| refuse(path, "its data are short".to_string()))
}

/// The depth map in `bytes`, a PNG file: 8-bit RGBA is an f32 in four bytes, as in the
/// reference ([`depth_from_rgba`]); 8- or 16-bit gray is taken as it is. Not normalised.
///
/// # Errors
/// No PNG, damaged, over a limit, of another kind.
pub fn decode_depth(bytes: &[u8], path: &Path, limits: &Limits) -> Result<DepthImage> {
    let map = Map::read(bytes, path, limits)?;
    let (width, height) = (map.width, map.height);
    let short = || refuse(path, "its data are short".to_string());
    let gray = match (map.color, map.depth) {
        (ColorType::Rgba, BitDepth::Eight) => {
            let rgba = RgbaImage::from_raw(width, height, map.data).ok_or_else(short)?;
            return Ok(depth_from_rgba(&rgba));
        }
        (ColorType::Grayscale, BitDepth::Eight) => {
            map.data.iter().map(|&value| f32::from(value)).collect()
        }
        (ColorType::Grayscale, BitDepth::Sixteen) => {
            let pairs = map.data.chunks_exact(2);
            pairs.map(|pair| f32::from(u16::from_be_bytes([pair[0], pair[1]]))).collect()
        }
        (color, depth) => {
            let reason = format!(
                "it is {color:?} of {} bits; a depth map is gray of 8 or 16 bits, or RGBA of 8 \
                 bits that are the bytes of an f32",
                depth as u8
            );
            return Err(refuse(path, reason));
        }
    };
    DepthImage::from_raw(width, height, gray).ok_or_else(short)
}

/// A decoded PNG with its samples as stored.
struct Map {
    width: u32,
    height: u32,
    color: ColorType,
    depth: BitDepth,
    data: Vec<u8>,
}

impl Map {
    fn read(bytes: &[u8], path: &Path, limits: &Limits) -> Result<Self> {
        if bytes.is_empty() {
            return Err(Error::EmptyFile { path: path.to_path_buf() });
        }
        let damaged = |error: png::DecodingError| Error::Damaged {
            path: path.to_path_buf(),
            format: "PNG",
            reason: error.to_string(),
        };
        let budget = png::Limits { bytes: usize::try_from(limits.max_alloc).unwrap_or(usize::MAX) };
        let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), budget);
        decoder.set_transformations(png::Transformations::IDENTITY);
        let mut reader = decoder.read_info().map_err(damaged)?;
        let (width, height) = reader.info().size();
        limits.check_size(path, width, height)?;
        let needed = reader.output_buffer_size().unwrap_or(usize::MAX);
        limits.check_alloc(path, needed as u64)?;
        let mut data = vec![0; needed];
        let frame = reader.next_frame(&mut data).map_err(damaged)?;
        data.truncate(frame.buffer_size());
        let (color, depth) = (frame.color_type, frame.bit_depth);
        Ok(Self { width, height, color, depth, data })
    }

    /// One byte a sample, of rows that hold `bits` (1, 2, 4 or 8) a sample.
    fn unpacked(&self, bits: usize) -> Vec<u8> {
        let width = self.width as usize;
        let row_bytes = (width * bits).div_ceil(8).max(1);
        let mask = u8::MAX >> (8 - bits);
        let rows = self.data.chunks_exact(row_bytes);
        rows.flat_map(|row| {
            (0..width).map(move |x| (row[x * bits / 8] >> (8 - bits - x * bits % 8)) & mask)
        })
        .collect()
    }
}

fn refuse(path: &Path, reason: String) -> Error {
    Error::Map { path: path.to_path_buf(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Result;

    fn png(color: ColorType, depth: BitDepth, size: (u32, u32), data: &[u8]) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, size.0, size.1);
        encoder.set_color(color);
        encoder.set_depth(depth);
        if color == ColorType::Indexed {
            encoder.set_palette((0..48).collect::<Vec<u8>>());
        }
        let mut writer = encoder.write_header()?;
        writer.write_image_data(data)?;
        writer.finish()?;
        Ok(bytes)
    }

    fn labels(bytes: &[u8]) -> crate::Result<GrayImage> {
        decode_labels(bytes, Path::new("map.png"), &Limits::default())
    }

    fn depth(bytes: &[u8]) -> crate::Result<DepthImage> {
        decode_depth(bytes, Path::new("map.png"), &Limits::default())
    }

    #[test]
    fn labels_are_the_stored_numbers() -> Result<()> {
        let gray = png(ColorType::Grayscale, BitDepth::Eight, (2, 2), &[0, 7, 255, 3])?;
        assert_eq!(labels(&gray)?.as_raw(), &[0, 7, 255, 3]);
        // Rows of 5 samples of 4 and of 2 bits, padded to whole bytes.
        let four =
            png(ColorType::Indexed, BitDepth::Four, (5, 2), &[0x01, 0x23, 0x40, 0x56, 0x78, 0x90])?;
        assert_eq!(labels(&four)?.as_raw(), &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let two = png(ColorType::Grayscale, BitDepth::Two, (5, 1), &[0b0001_1011, 0b0100_0000])?;
        assert_eq!(labels(&two)?.as_raw(), &[0, 1, 2, 3, 1]);
        let wide = png(ColorType::Grayscale, BitDepth::Sixteen, (2, 1), &[0, 9, 0, 200])?;
        assert_eq!(labels(&wide)?.as_raw(), &[9, 200]);
        let over = png(ColorType::Grayscale, BitDepth::Sixteen, (1, 1), &[1, 0])?;
        assert!(labels(&over).is_err_and(|e| e.to_string().contains("256")));
        let colours = png(ColorType::Rgb, BitDepth::Eight, (1, 1), &[1, 2, 3])?;
        assert!(labels(&colours).is_err_and(|e| e.to_string().contains("map.png")));
        Ok(())
    }

    #[test]
    fn depth_is_gray_or_the_bytes_of_floats() -> Result<()> {
        let gray = png(ColorType::Grayscale, BitDepth::Sixteen, (2, 1), &[1, 0, 0, 9])?;
        assert_eq!(depth(&gray)?.as_raw(), &[256.0, 9.0]);
        let bytes: Vec<u8> = [0.25_f32, -7.5].iter().flat_map(|v| v.to_le_bytes()).collect();
        let rgba = png(ColorType::Rgba, BitDepth::Eight, (2, 1), &bytes)?;
        assert_eq!(depth(&rgba)?.as_raw(), &[0.25, -7.5]);
        let palette = png(ColorType::Indexed, BitDepth::Eight, (1, 1), &[2])?;
        assert!(depth(&palette).is_err_and(|e| e.to_string().contains("Indexed")));
        Ok(())
    }

    #[test]
    fn damage_and_bombs_are_refused() -> Result<()> {
        let whole = png(ColorType::Grayscale, BitDepth::Eight, (64, 64), &[5; 4096])?;
        for end in [0, 7, 30, whole.len() / 2] {
            assert!(labels(&whole[..end]).is_err(), "{end} bytes");
        }
        let small = Limits { max_pixels: 4095, ..Limits::default() };
        let refused = decode_labels(&whole, Path::new("map.png"), &small);
        assert!(matches!(refused, Err(Error::Limit { .. })));
        Ok(())
    }
}
