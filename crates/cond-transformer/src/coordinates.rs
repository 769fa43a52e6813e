//! Where a crop lies in its picture, as condition tokens (`CoordStage`).

use candle_core::{DType, Tensor};
use codebook::CodeGrid;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Turns a picture of coordinates in `[0, 1]` into a coarse grid of levels.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Coordinates {
    /// Coordinate 1 is this token; there are `levels + 1` of them.
    pub levels: u32,
    /// Pixels a side of what becomes one token.
    pub factor: usize,
}

impl Default for Coordinates {
    /// As the published face model has them.
    fn default() -> Self {
        Self { levels: 1024, factor: 16 }
    }
}

impl Coordinates {
    /// The coordinates of a whole picture, `[1, 1, H, W]` (f32): its pixels counted
    /// row by row, divided by their number.
    pub fn of_picture(height: usize, width: usize) -> Result<Tensor> {
        let pixels = (height * width) as f32;
        let values: Vec<f32> = (0..height * width).map(|i| i as f32 / pixels).collect();
        Ok(Tensor::from_vec(values, (1, 1, height, width), &candle_core::Device::Cpu)?)
    }

    /// Tokens `[B, H / factor, W / factor]` of coordinates `[B, 1, H, W]` in
    /// `[0, 1]`: averages over squares, times `levels`, rounded half to even.
    ///
    /// # Errors
    /// If a side is no multiple of the factor, or a coordinate is outside `[0, 1]`.
    pub fn encode(&self, coordinates: &Tensor) -> Result<CodeGrid> {
        let (batch, channels, height, width) = coordinates.dims4()?;
        let factor = self.factor;
        if factor == 0
            || height * width == 0
            || channels != 1
            || height % factor != 0
            || width % factor != 0
        {
            return Err(Error::Shape {
                op: "coordinates",
                what: "coordinates",
                shape: coordinates.dims().to_vec(),
                expected: format!("[batch, 1, height, width] with sides divisible by {factor}"),
            });
        }
        let values = coordinates.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        if let Some(value) = values.iter().find(|value| !(0.0..=1.0).contains(*value)) {
            return Err(Error::Request(format!("coordinate {value} is outside [0, 1]")));
        }
        let (rows, columns) = (height / factor, width / factor);
        let mut tokens = Vec::with_capacity(batch * rows * columns);
        for picture in values.chunks(height * width) {
            for (row, column) in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
                let square = (0..factor).flat_map(|y| {
                    let start = (row * factor + y) * width + column * factor;
                    &picture[start..start + factor]
                });
                let mean = square.sum::<f32>() / factor as f32 / factor as f32;
                let level = self.levels as f32 * mean.clamp(0.0, 1.0);
                tokens.push(level.round_ties_even() as u32);
            }
        }
        Ok(CodeGrid::from_vec(tokens, (batch, rows, columns), coordinates.device())?)
    }

    /// Coordinates `[B, 1, H, W]` of tokens: each level over the square it stands for.
    pub fn decode(&self, tokens: &CodeGrid) -> Result<Tensor> {
        let (batch, rows, columns) = tokens.dims();
        let factor = self.factor;
        let levels = (tokens.codes().to_dtype(DType::F32)? / f64::from(self.levels))?;
        Ok(levels
            .reshape((batch, 1, rows, 1, columns, 1))?
            .broadcast_as((batch, 1, rows, factor, columns, factor))?
            .reshape((batch, 1, rows * factor, columns * factor))?)
    }
}
