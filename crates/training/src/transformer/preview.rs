//! Pictures that a transformer under training draws.

use std::path::Path;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use cond_transformer::{Guidance, Permuter, Request, Sampling, Stream, generate_grid};
use image_data::{grid, save_png};
use pipeline::{Architecture, Codec};

use super::config::SamplingSetting;
use super::model::CodeModel;

/// Pixels between pictures.
const GAP: u32 = 2;

/// What a preview is drawn with.
pub(super) struct Preview<'a> {
    pub architecture: &'a Architecture,
    pub codec: &'a Codec,
    pub permuter: &'a Permuter,
    pub grid: (usize, usize),
    pub seed: u64,
    pub sampling: &'a SamplingSetting,
    /// Kinds of codes; the rest of the vocabulary is never drawn.
    pub codes: usize,
    pub null: Option<&'a [u32]>,
}

impl Preview<'_> {
    /// Draws a picture for each of `conditions` with `weights` and writes them as one
    /// grid; `description` says what they are.
    pub fn write(
        &self,
        path: &Path,
        weights: impl IntoIterator<Item = (String, Tensor)>,
        conditions: &[Vec<u32>],
        description: String,
    ) -> Result<()> {
        let device = Device::Cpu;
        let weights = weights
            .into_iter()
            .map(|(name, tensor)| Ok((name, tensor.to_device(&device)?)))
            .collect::<Result<_>>()?;
        // Over constants, so that the fast ops for inference run.
        let vb = VarBuilder::from_tensors(weights, DType::F32, &device);
        let model = CodeModel::new(self.architecture, vb)?;
        let count = conditions.len();
        let streams = Stream::range(self.seed, 0, count);
        let mut request = Request::new(model.conditions(conditions, &device)?, streams);
        let &SamplingSetting { temperature, top_k, top_p, cfg_scale } = self.sampling;
        request.sampling =
            Sampling { greedy: false, temperature, top_k: (top_k > 0).then_some(top_k), top_p };
        request.forbidden = (self.codes as u32..model.next_code().vocabulary() as u32).collect();
        if let Some(null) = self.null.filter(|_| cfg_scale > 1.0) {
            let absent = model.conditions(&vec![null.to_vec(); count], &device)?;
            request.guidance = Some(Guidance { scale: cfg_scale, interval: None, absent });
        }
        let codes =
            generate_grid(model.next_code(), &request, self.grid, self.permuter, &mut |_| ())?;
        let factor = self.codec.factor();
        let size = ((self.grid.1 * factor) as u32, (self.grid.0 * factor) as u32);
        let pictures = self.codec.decode(&codes, size)?;
        let columns = (count as f64).sqrt().ceil() as usize;
        let text = [("Description".to_owned(), description)];
        save_png(path, &grid(&pictures, columns, GAP), &text, true)?;
        Ok(())
    }
}
