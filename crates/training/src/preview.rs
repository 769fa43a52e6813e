//! Pictures of how a run is doing.

use std::path::Path;

use anyhow::{Result, ensure};
use image::RgbImage;
use image::imageops::{FilterType, resize};
use image_data::{grid, save_png};

/// Pixels between pictures.
const GAP: u32 = 2;
/// Pictures side by side.
const COLUMNS: usize = 8;
/// Smaller pictures are enlarged to about this side, in whole pixels.
const VISIBLE: u32 = 96;

/// Writes `originals`, eight in a row, and the reconstructions `made` of them in the row
/// below each.
///
/// # Errors
/// If there are not as many of both, or the file cannot be written.
pub fn write_preview(
    path: &Path,
    originals: &[RgbImage],
    made: &[RgbImage],
    step: u64,
) -> Result<()> {
    ensure!(originals.len() == made.len(), "{} of {} pictures", made.len(), originals.len());
    let columns = originals.len().min(COLUMNS);
    let blank = |picture: &RgbImage| {
        RgbImage::from_pixel(picture.width(), picture.height(), image::Rgb([255; 3]))
    };
    let mut cells = Vec::with_capacity(2 * originals.len().next_multiple_of(COLUMNS));
    for (above, below) in originals.chunks(COLUMNS).zip(made.chunks(COLUMNS)) {
        for row in [above, below] {
            let row: Vec<_> = row.iter().map(enlarged).collect();
            cells.extend_from_slice(&row);
            cells.extend(std::iter::repeat_n(blank(&row[0]), columns - row.len()));
        }
    }
    let text =
        [("Description".to_string(), format!("originals over reconstructions, step {step}"))];
    save_png(path, &grid(&cells, columns, GAP), &text, true)?;
    Ok(())
}

/// `picture` in squares of pixels, where it is too small to be looked at.
fn enlarged(picture: &RgbImage) -> RgbImage {
    let (width, height) = picture.dimensions();
    let times = (VISIBLE / width.max(height).max(1)).max(1);
    resize(picture, times * width, times * height, FilterType::Nearest)
}
