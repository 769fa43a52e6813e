//! One update of a transformer: noise, cross entropy, gradients, AdamW.

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use cond_transformer::Dropouts;
use layers::{Factors, Gradients};

use super::config::TransformerTrainConfig;
use super::examples::ExampleBatch;
use super::model::{CodeModel, Lesson};
use super::noise::{happens, noisy, step_rng};
use crate::adam::Adam;
use crate::foreach::norm;
use crate::observer::Terms;
use crate::readings::{Read, Readings};
use crate::store::ParameterStore;

/// A transformer under training.
pub struct TransformerTrainer {
    /// The network; it shares its variables with `parameters`.
    pub model: CodeModel,
    /// Its variables.
    pub parameters: ParameterStore,
    /// AdamW.
    pub optimizer: Adam,
    noise: Noise,
    dropouts: Dropouts,
    factors: Factors,
    clip: f64,
}

/// What is changed at random about what the model reads.
#[derive(Clone, Debug)]
struct Noise {
    seed: u64,
    /// Probability that a code stays.
    keep: f64,
    /// Kinds of codes.
    codes: usize,
    /// Share of conditions that are withheld, and what stands there then.
    drop: f64,
    null: Option<Vec<u32>>,
}

/// What an update did.
pub struct TransformerOutcome {
    /// `nll` (nats a code), `bits`, `grad_norm`, `lr`.
    pub terms: Terms,
    /// The first term that was not finite: nothing was updated then.
    pub broken: Option<&'static str>,
    /// The gradients before clipping, f32, sorted by name.
    pub gradients: Vec<(String, Tensor)>,
}

impl TransformerTrainer {
    /// A trainer of `model`, which was built from `parameters`, in f32 or half precision, for
    /// `codes` kinds of codes; `null` stands for no condition.
    ///
    /// # Errors
    /// If memory for the optimiser's moments cannot be had.
    pub fn new(
        config: &TransformerTrainConfig,
        model: CodeModel,
        parameters: ParameterStore,
        codes: usize,
        null: Option<Vec<u32>>,
    ) -> Result<Self> {
        let decays = |name: &str, rank: usize| model.decays(name, rank);
        let optimizer = Adam::with_groups(config.optimizer.adam.clone(), &parameters, decays)?;
        let noise = Noise {
            seed: config.seed,
            keep: config.pkeep,
            codes,
            drop: config.condition.drop(),
            null,
        };
        let dropout = &config.dropout;
        let dropouts = Dropouts {
            embedding: dropout.embedding,
            residual: dropout.residual,
            attention: dropout.attention,
            seed: config.seed,
            pass: 0,
        };
        let (factors, clip) = (config.precision.factors(), config.optimizer.clip);
        Ok(Self { model, parameters, optimizer, noise, dropouts, factors, clip })
    }

    /// Update number `step` (from 0) with the mean gradient of `batches`.
    ///
    /// # Errors
    /// If the batches do not fit the model.
    pub fn step(
        &mut self,
        batches: &[ExampleBatch],
        lr: f64,
        step: u64,
        device: &Device,
    ) -> Result<TransformerOutcome> {
        let lessons = self.noise.lessons(batches, step, device)?;
        self.update(&lessons, lr, step)
    }

    /// The update with what the model reads given.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn update(&mut self, lessons: &[Lesson], lr: f64, step: u64) -> Result<TransformerOutcome> {
        // On a thread of the pool, so that no layer has to wake it.
        rayon::scope(|_| self.update_here(lessons, lr, step))
    }

    fn update_here(
        &mut self,
        lessons: &[Lesson],
        lr: f64,
        step: u64,
    ) -> Result<TransformerOutcome> {
        let mut gradients = Gradients::default();
        let share = 1.0 / lessons.len().max(1) as f64;
        let mut readings = Readings::default();
        readings.begin_part(share);
        for (number, lesson) in lessons.iter().enumerate() {
            let pass = step * lessons.len() as u64 + number as u64;
            let dropouts = Dropouts { pass, ..self.dropouts };
            let nll = self.model.learn(lesson, &dropouts, self.factors, Some(&mut gradients))?;
            readings.add("nll", &nll)?;
        }
        readings.end_parts();
        let mut gradients = self.parameters.gradients(|parameter| gradients.get(parameter))?;
        if lessons.len() > 1 {
            for (_, gradient) in &mut gradients {
                *gradient = (&*gradient * share)?;
            }
        }
        let device = lessons.first().context("an update without batches")?.inputs.device();
        let size = norm(gradients.iter().map(|(_, gradient)| gradient), device)?;
        readings.add("grad_norm", &size)?;
        readings.know("lr", lr);
        let gathered = readings.gather(&[])?;
        let scale = gathered.scale("grad_norm", self.clip, None)?;
        self.optimizer.update(&gradients, lr, scale)?;
        self.parameters.refresh()?;
        // The only wait for the device.
        let Read { mut terms, broken, .. } = gathered.read()?;
        if broken.is_some() {
            self.optimizer.take_back();
        }
        terms.insert("bits", terms["nll"] / std::f64::consts::LN_2);
        Ok(TransformerOutcome { terms, broken, gradients })
    }
}

impl Noise {
    fn lessons(&self, batches: &[ExampleBatch], step: u64, device: &Device) -> Result<Vec<Lesson>> {
        let mut codes = step_rng(self.seed, step, "codes");
        let mut conditions = step_rng(self.seed, step, "conditions");
        let mut lessons = Vec::with_capacity(batches.len());
        for batch in batches {
            let mut given = batch.conditions.clone();
            if let Some(null) = &self.null {
                for condition in &mut given {
                    if happens(&mut conditions, self.drop) {
                        condition.clone_from(null);
                    }
                }
            }
            let targets = batch.code_tensor(&Device::Cpu)?;
            let inputs = if self.keep < 1.0 {
                Tensor::new(noisy(&batch.codes, self.keep, self.codes, &mut codes), device)?
            } else {
                targets.to_device(device)?
            };
            lessons.push(Lesson { conditions: Tensor::new(given, device)?, inputs, targets });
        }
        Ok(lessons)
    }
}
