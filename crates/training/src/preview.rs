//! Pictures of how a run is doing.

use std::path::Path;

use anyhow::Result;
use candle_core::Tensor;
use image_data::{from_tensor, grid, save_png};
use vq_autoencoder::{ImageCodec, VqModel};

/// Pixels between pictures.
const GAP: u32 = 2;

/// Writes the originals `images` `[B, 3, H, W]` in `[-1, 1]` in one row, and
/// the model's reconstructions of them in the row below.
///
/// # Errors
/// If a picture does not fit the model, or the file cannot be written.
pub fn write_preview(path: &Path, model: &VqModel, images: &Tensor, step: u64) -> Result<()> {
    let made = model.decode(&model.encode(images)?)?;
    let columns = images.dim(0)?;
    let mut cells = Vec::with_capacity(2 * columns);
    for row in [images, &made] {
        for i in 0..columns {
            cells.push(from_tensor(&row.get(i)?)?);
        }
    }
    let text =
        [("Description".to_string(), format!("originals over reconstructions, step {step}"))];
    save_png(path, &grid(&cells, columns, GAP), &text, true)?;
    Ok(())
}
