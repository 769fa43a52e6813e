//! How well a model knows a picture.

use candle_core::Tensor;
use codebook::CodeGrid;
use cond_transformer::{code_nats, window_nats};
use image::RgbImage;

use super::{Front, Generator};
use crate::error::{Error, Result};

/// The bits of each code of a picture: how surprised the model is by it, given the
/// condition and the codes before. A model that knows nothing needs log2 of the
/// number of codes.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// Rows and columns.
    pub grid: (usize, usize),
    /// Row by row.
    pub bits: Vec<f32>,
}

impl Scores {
    /// Bits of all codes.
    pub fn total(&self) -> f64 {
        self.bits.iter().map(|&bits| f64::from(bits)).sum()
    }

    /// Bits a code.
    pub fn mean(&self) -> f64 {
        self.total() / self.bits.len().max(1) as f64
    }

    /// A map of `factor` pixels a code: black is 0 bits, white `brightest` or more.
    pub fn map(&self, factor: usize, brightest: f64) -> RgbImage {
        let (rows, columns) = self.grid;
        let side = factor.max(1) as u32;
        RgbImage::from_fn(columns as u32 * side, rows as u32 * side, |x, y| {
            let bits = self.bits[(y / side) as usize * columns + (x / side) as usize];
            let level = (f64::from(bits) / brightest * 255.0).clamp(0.0, 255.0);
            image::Rgb([level.round() as u8; 3])
        })
    }
}

impl Generator {
    /// The bits of each code of `codes` `[1, H, W]` under `front`, over the whole
    /// vocabulary and at temperature 1: as in training, or as the sliding window
    /// sees them. `progress` is told how many codes are done.
    ///
    /// # Errors
    /// When the grid or the condition does not fit the model, or a logit is NaN.
    pub fn score(
        &self,
        front: &Front,
        codes: &CodeGrid,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Scores> {
        let (batch, rows, columns) = codes.dims();
        if batch != 1 {
            return Err(Error::Condition(format!("{batch} grids to score; give one")));
        }
        let model = self.network.model();
        codes.check_below(self.config.codes)?;
        let fronts = std::slice::from_ref(front);
        let nats = if [rows, columns] == self.config.grid {
            let sequence = self.permuter.permute(&codes.to_vec()?)?;
            let sequence = Tensor::from_vec(sequence, (1, rows * columns), self.device())?;
            let nats = code_nats(model, &self.conditions(fronts)?, &sequence)?.concat();
            progress(nats.len());
            self.permuter.restore(&nats)?
        } else {
            let conditions = self.window_conditions(fronts, (rows, columns))?;
            let codes = CodeGrid::new(codes.codes().to_device(self.device())?)?;
            window_nats(model, &conditions, &codes, self.window(), progress)?
        };
        let bits = nats.into_iter().map(|nats| nats / std::f32::consts::LN_2).collect();
        Ok(Scores { grid: (rows, columns), bits })
    }
}
