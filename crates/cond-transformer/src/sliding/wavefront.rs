//! The sliding window over many rows at once.

use codebook::CodeGrid;
use serde::{Deserialize, Serialize};

use super::task::{Drawing, Site};
use super::{Progress, WindowRequest};
use crate::{Error, NextCode, Result};

/// How much memory [`generate_wavefront`] may use; what is drawn stays the same.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Wavefront {
    /// Positions in one batch. Each costs the activations of one window, about
    /// `heads x positions^2` and `20 x positions x width` numbers.
    pub lanes: usize,
    /// Bytes of keys and values kept for windows that will be used again.
    pub cache_bytes: usize,
}

impl Default for Wavefront {
    /// 8 lanes, 2 GiB.
    fn default() -> Self {
        Self { lanes: 8, cache_bytes: 2 << 30 }
    }
}

/// Draws grids with many positions at a time; the same codes as
/// [`generate_raster`](super::generate_raster). `[B, H, W]`.
///
/// A position needs the row above only up to the right edge of its window. So each
/// row follows the one above at that distance, and all rows in flight, of all
/// samples, form one batch. Where the window stays (near the edges, in each
/// direction) its keys and values are kept, and only new codes are read.
/// `progress` is told what is there after every batch.
///
/// # Errors
/// As [`generate_raster`](super::generate_raster), or if there are no lanes.
pub fn generate_wavefront(
    model: &dyn NextCode,
    request: &WindowRequest,
    Wavefront { lanes, cache_bytes }: Wavefront,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<CodeGrid> {
    if lanes == 0 {
        return Err(Error::Request("0 lanes draw nothing; give at least 1".to_owned()));
    }
    let mut drawing = Drawing::new(model, request)?;
    drawing.keep_windows(cache_bytes);
    let (height, width) = request.size;
    let mut front = vec![vec![0; height]; drawing.samples()];
    let mut done = 0;
    loop {
        let mut sites = Vec::new();
        for (sample, columns) in front.iter_mut().enumerate() {
            for row in 0..height {
                // Given codes wait for nothing.
                while columns[row] < width
                    && drawing.take_given(Site { sample, row, column: columns[row] })
                {
                    columns[row] += 1;
                    done += 1;
                }
                let column = columns[row];
                if column == width || sites.len() == lanes {
                    continue;
                }
                let edge = request.window.left(column, width) + request.window.width;
                if row == 0 || columns[row - 1] >= edge {
                    sites.push(Site { sample, row, column });
                }
            }
        }
        if sites.is_empty() {
            return drawing.finish();
        }
        drawing.draw(&sites)?;
        for site in &sites {
            front[site.sample][site.row] += 1;
        }
        done += sites.len();
        let complete = |columns: &Vec<usize>| columns.iter().take_while(|&&c| c == width).count();
        let rows: Vec<usize> = front.iter().map(complete).collect();
        progress(Progress { done, codes: drawing.codes(), rows: &rows });
    }
}
