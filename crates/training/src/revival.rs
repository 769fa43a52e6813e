//! When codes are revived, and what is remembered until then.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use codebook::{CodeGrid, CodeUsage, ReviveState};

use crate::adam::Adam;
use crate::config::TrainConfig;
use crate::step::VqTrainer;
use crate::store::QUANTIZER;

/// Counts the use of codes and replaces those that a whole period left unused
/// by vectors of the encoder.
pub struct Revival {
    every: u64,
    last: u64,
    seed: u64,
    usage: CodeUsage,
}

impl Revival {
    /// The revival of a codebook of `len`, as `config` says.
    pub fn new(config: &TrainConfig, len: usize) -> Self {
        let last = config.revival.until.clamp(0.0, 1.0) * config.steps as f64;
        Self {
            every: config.revival.every,
            last: last as u64,
            seed: config.seed,
            usage: CodeUsage::new(len),
        }
    }

    /// Counts the `codes` of the step that was just done, the `step`-th, and at
    /// the end of a period replaces dead codes by vectors of `images`; their
    /// rows in the optimiser's state are reset. Returns how many codes were
    /// replaced.
    ///
    /// # Errors
    /// If the encoder gives vectors that are not finite.
    pub fn after_step(
        &mut self,
        step: u64,
        codes: &CodeGrid,
        images: &Tensor,
        trainer: &mut VqTrainer,
    ) -> Result<usize> {
        if self.every == 0 || step > self.last {
            return Ok(0);
        }
        self.usage.add(codes)?;
        if !step.is_multiple_of(self.every) {
            return Ok(0);
        }
        let dead = self.usage.dead_codes();
        self.usage.reset();
        if dead.is_empty() {
            return Ok(0);
        }
        let quantizer = trainer.model.quantizer();
        let vectors = quantizer.revival_vectors(&trainer.model.pre_quant(images)?)?;
        let Some(vectors) = vectors else { return Ok(0) };
        let revival = codebook::Revival::draw(&dead, &vectors, self.seed, step)?;
        let name = format!("{QUANTIZER}.{}", quantizer.codebook_key());
        let variable = trainer.parameters.variable(&name)?;
        let mut state = CodebookState { optimizer: &mut trainer.optimizer, name: &name };
        revival.apply(&variable, &mut [&mut state])?;
        Ok(revival.rows().len())
    }

    /// The counts of the period under way.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let counts: Vec<i64> = self.usage.counts().iter().map(|&n| n as i64).collect();
        let length = counts.len();
        let counts = Tensor::from_vec(counts, length, &Device::Cpu)?;
        Ok(BTreeMap::from([("counts".to_string(), counts)]))
    }

    /// Goes on from saved counts.
    ///
    /// # Errors
    /// If they are missing or of another codebook.
    pub fn load(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let counts = state.get("counts").context("no revival counts")?.to_vec1::<i64>()?;
        let expected = self.usage.counts().len();
        anyhow::ensure!(
            counts.len() == expected,
            "revival counts of {} codes, not {expected}",
            counts.len()
        );
        self.usage = CodeUsage::from_counts(counts.into_iter().map(|n| n as u64).collect());
        Ok(())
    }
}

/// The codebook's rows in the optimiser.
struct CodebookState<'a> {
    optimizer: &'a mut Adam,
    name: &'a str,
}

impl ReviveState for CodebookState<'_> {
    fn reset_rows(&mut self, rows: &[u32]) -> candle_core::Result<()> {
        self.optimizer.reset_rows(self.name, rows).map_err(candle_core::Error::msg)
    }
}
