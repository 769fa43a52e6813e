//! Limits against decompression bombs.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Bytes a pixel may take while decoding: RGBA in 32-bit floats, the largest kind.
const BYTES_PER_PIXEL: u64 = 16;

/// What a picture may cost before it is refused.
///
/// A file of a few hundred bytes can claim a picture of gigabytes, so sizes are
/// checked before pixels are allocated. The defaults admit every camera sold
/// today; [`Limits::with_max_pixels`] raises them together, which is what the
/// flag `--max-pixels` does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Largest file, in bytes (it is read into memory whole). Default 512 MiB.
    pub max_file_bytes: u64,
    /// Largest width and height, in pixels. Default 65,535. Pictures are padded to
    /// multiples of a model's factor, so a thin one costs more than its pixels.
    pub max_side: u32,
    /// Largest width times height, in pixels. Default 2^27 (134 megapixels).
    pub max_pixels: u64,
    /// Most bytes for decoded pixels: the decoder's buffer and the RGB copy. Default 2 GiB.
    pub max_alloc: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_file_bytes: 512 << 20,
            max_side: 65_535,
            max_pixels: 1 << 27,
            max_alloc: BYTES_PER_PIXEL << 27,
        }
    }
}

impl Limits {
    /// Admits pictures of up to `max_pixels`; the other limits rise as far as that
    /// needs, and are never below their defaults.
    pub fn with_max_pixels(max_pixels: u64) -> Self {
        let bytes = max_pixels.saturating_mul(BYTES_PER_PIXEL);
        let base = Self::default();
        Self {
            max_file_bytes: base.max_file_bytes.max(bytes),
            max_side: base.max_side.max(u32::try_from(max_pixels).unwrap_or(u32::MAX)),
            max_pixels,
            max_alloc: base.max_alloc.max(bytes),
        }
    }

    pub(crate) fn check_file(&self, path: &Path, bytes: u64) -> Result<()> {
        let needed = bytes.div_ceil(BYTES_PER_PIXEL).max(self.max_pixels);
        check(path, "file size in bytes", bytes, self.max_file_bytes, "max_file_bytes", needed)
    }

    pub(crate) fn check_size(&self, path: &Path, width: u32, height: u32) -> Result<()> {
        let pixels = u64::from(width) * u64::from(height);
        let side = width.max(height);
        let needed = pixels.max(u64::from(side));
        let what = if width >= height { "width in pixels" } else { "height in pixels" };
        check(path, "pixel count", pixels, self.max_pixels, "max_pixels", needed)?;
        check(path, what, side.into(), self.max_side.into(), "max_side", needed)
    }

    pub(crate) fn check_alloc(&self, path: &Path, bytes: u64) -> Result<()> {
        let needed = bytes.div_ceil(BYTES_PER_PIXEL).max(self.max_pixels);
        check(path, "memory in bytes", bytes, self.max_alloc, "max_alloc", needed)
    }
}

fn check(
    path: &Path,
    what: &'static str,
    value: u64,
    limit: u64,
    name: &'static str,
    needed: u64,
) -> Result<()> {
    if value <= limit {
        return Ok(());
    }
    Err(Error::Limit { path: path.to_path_buf(), what, value, limit, name, needed })
}
