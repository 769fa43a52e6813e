//! The sliding window as the reference runs it: position by position.

use codebook::CodeGrid;

use super::task::{Drawing, Site};
use super::{Progress, WindowRequest};
use crate::{NextCode, Result};

/// Draws grids row by row, one position at a time: the plain twin of
/// [`generate_wavefront`](super::generate_wavefront). `[B, H, W]`.
///
/// For each position the window is laid around it, and the model reads the window's
/// part of the condition, then the window's codes before the position. (The
/// reference also reads those behind it, which no earlier position sees.) Given
/// codes are taken over; they are seen by later positions.
///
/// # Errors
/// If parts of the request do not fit together or the model, or a logit is NaN.
pub fn generate_raster(
    model: &dyn NextCode,
    request: &WindowRequest,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<CodeGrid> {
    let mut drawing = Drawing::new(model, request)?;
    let (height, width) = request.size;
    let mut done = 0;
    for row in 0..height {
        for column in 0..width {
            for sample in 0..drawing.samples() {
                let site = Site { sample, row, column };
                if !drawing.take_given(site) {
                    drawing.draw(&[site])?;
                }
                done += 1;
            }
            let rows = vec![row + usize::from(column + 1 == width); drawing.samples()];
            progress(Progress { done, codes: drawing.codes(), rows: &rows });
        }
    }
    drawing.finish()
}
