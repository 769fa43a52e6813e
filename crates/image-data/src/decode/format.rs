//! Which format a file is in.

use std::path::Path;

use image::ImageFormat;

use crate::{Error, Result};

/// The formats this crate reads, with the name used in messages.
const READ: [(ImageFormat, &str); 8] = [
    (ImageFormat::Jpeg, "JPEG"),
    (ImageFormat::Png, "PNG"),
    (ImageFormat::WebP, "WebP"),
    (ImageFormat::Gif, "GIF"),
    (ImageFormat::Tiff, "TIFF"),
    (ImageFormat::Bmp, "BMP"),
    (ImageFormat::Pnm, "PNM"),
    (ImageFormat::Tga, "TGA"),
];

/// Formats that `image` has no mark for, but people have files of: offset, mark, name.
const FOREIGN: [(usize, &[u8], &str); 8] = [
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"8BPS", "Photoshop"),
    (0, b"%PDF", "PDF"),
];

/// The end of a TGA file of version 2, which has no mark at its beginning.
const TGA_FOOTER: &[u8] = b"TRUEVISION-XFILE.\0";

pub(super) fn name(format: ImageFormat) -> &'static str {
    READ.iter().find(|(known, _)| *known == format).map_or("picture", |(_, name)| name)
}

/// The format by content; the file's name counts only for TGA, which may have no mark.
pub(super) fn detect(bytes: &[u8], path: &Path) -> Result<ImageFormat> {
    let unsupported = |what: String| Error::Unsupported { path: path.to_path_buf(), what };
    if let Ok(format) = image::guess_format(bytes) {
        return match READ.iter().any(|(known, _)| *known == format) {
            true => Ok(format),
            false => Err(unsupported(format!("the format {format:?}"))),
        };
    }
    for (offset, mark, name) in FOREIGN {
        if bytes.get(offset..).is_some_and(|rest| rest.starts_with(mark)) {
            return Err(unsupported(format!("the format {name}")));
        }
    }
    let named_tga = path.extension().is_some_and(|extension| {
        ["tga", "icb", "vda", "vst"].iter().any(|known| extension.eq_ignore_ascii_case(known))
    });
    if named_tga || bytes.ends_with(TGA_FOOTER) {
        return Ok(ImageFormat::Tga);
    }
    Err(Error::UnknownFormat { path: path.to_path_buf() })
}
