//! A borrowed 8-bit picture, whatever library holds it.

use candle_core::Result;

/// Pixels of a picture: rows from the top, `r, g, b` bytes each.
#[derive(Clone, Copy, Debug)]
pub struct Rgb8<'a> {
    width: usize,
    height: usize,
    pixels: &'a [u8],
}

impl<'a> Rgb8<'a> {
    /// A view of `height` rows of `width` pixels of three bytes.
    ///
    /// # Errors
    /// When a side is 0 or `pixels` is not `3 * width * height` bytes long.
    pub fn new(width: u32, height: u32, pixels: &'a [u8]) -> Result<Self> {
        let bytes = u64::from(width).checked_mul(u64::from(height)).and_then(|n| n.checked_mul(3));
        if width == 0 || height == 0 || bytes != Some(pixels.len() as u64) {
            candle_core::bail!(
                "rgb8: {} bytes are not a picture of {width}x{height} pixels with 3 bytes each",
                pixels.len()
            )
        }
        Ok(Self { width: width as usize, height: height as usize, pixels })
    }

    /// Pixels in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The bytes, `3 * width * height`.
    pub fn pixels(&self) -> &'a [u8] {
        self.pixels
    }

    /// Fails unless `self` and `other` have one size.
    pub(crate) fn check_same_size(&self, op: &str, other: &Self) -> Result<()> {
        if (self.width, self.height) != (other.width, other.height) {
            candle_core::bail!(
                "{op}: pictures of {}x{} and {}x{} pixels cannot be compared: crop or resize one",
                self.width,
                self.height,
                other.width,
                other.height
            )
        }
        Ok(())
    }
}
