//! A first-stage run from start, or from where it stopped, to its end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use image_data::{BatchPlan, Batches};
use vq_autoencoder::{ImageCodec, VqModel};

use crate::average::Average;
use crate::build::{adversary, reconstruction_loss};
use crate::checkpoint::{Checkpoints, Progress, add_section};
use crate::config::TrainConfig;
use crate::export::write_model;
use crate::metrics::MetricsLog;
use crate::observer::{Event, Observer, Terms};
use crate::pictures::{Crops, Pictures, held_out_batches};
use crate::preview::write_preview;
use crate::revival::Revival;
use crate::run_folder::RunFolder;
use crate::step::VqTrainer;
use crate::store::ParameterStore;
use crate::validation::{Validation, validate};

/// When a process leaves a run, beyond what the configuration says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Leave, with a checkpoint, once the run stands at this step.
    pub stop_at: Option<u64>,
}

/// How a process left a run.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Steps done in the whole run.
    pub step: u64,
    /// Whether these are all of them.
    pub finished: bool,
    /// The last measurements.
    pub validation: Option<Validation>,
    /// The model folder.
    pub model: PathBuf,
}

/// Trains a VQGAN as `config` says, from the newest intact checkpoint of its
/// run folder if there is one.
///
/// # Errors
/// If the configuration, data or run folder do not allow it, or losses stay
/// not finite.
pub fn train_vqgan(
    config: &TrainConfig,
    device: &Device,
    limits: Limits,
    observer: &mut dyn Observer,
) -> Result<Summary> {
    Run::open(config, device, observer)?.go(limits, observer)
}

struct Run<'a> {
    config: &'a TrainConfig,
    folder: RunFolder,
    checkpoints: Checkpoints,
    trainer: VqTrainer,
    average: Option<Average>,
    revival: Revival,
    progress: Progress,
    metrics: MetricsLog,
    batches: Batches,
    unreadable: usize,
    held_out: Vec<Tensor>,
    validation: Option<(u64, Validation)>,
}

impl<'a> Run<'a> {
    fn open(config: &'a TrainConfig, device: &Device, observer: &mut dyn Observer) -> Result<Self> {
        let pictures = Pictures::open(&config.data, config.validation.fraction)?;
        let folder = RunFolder::open(&config.run)?;
        folder.settle_config(config)?;

        let parameters = ParameterStore::new(config.seed);
        let model = VqModel::new(&config.model, parameters.var_builder(DType::F32, device))?;
        let mut trainer = VqTrainer::new(
            config,
            model,
            parameters,
            reconstruction_loss(config, device)?,
            adversary(config, device)?,
        )?;
        let mut revival = Revival::new(config, trainer.model.codebook_len());

        let checkpoints = Checkpoints::new(folder.checkpoints(), config.checkpoint.keep);
        let (loaded, complaints) = checkpoints.newest(device)?;
        for message in &complaints {
            observer.see(&Event::Warning { message });
        }
        let mut progress = Progress::default();
        if let Some(loaded) = &loaded {
            progress = loaded.progress.clone();
            trainer.parameters.load(&loaded.section("model."))?;
            trainer.optimizer.load_state(progress.updates, &loaded.section("optimizer."))?;
            if let Some(adversary) = &mut trainer.adversary {
                adversary.parameters.load(&loaded.section("critic."))?;
                let state = loaded.section("critic_optimizer.");
                adversary.optimizer.load_state(progress.critic_updates, &state)?;
            }
            revival.load(&loaded.section("revival."))?;
        }
        let average = if config.optimizer.ema > 0.0 {
            let average =
                Average::new(config.optimizer.ema, &config.model, &trainer.parameters, device)?;
            if let Some(loaded) = &loaded {
                average.parameters.load(&loaded.section("average."))?;
            }
            Some(average)
        } else {
            None
        };

        let held_out = held_out_batches(
            &pictures.held_out,
            &config.pictures,
            &config.validation,
            config.model.factor(),
            config.batch,
        )?;
        observer.see(&Event::Started {
            step: progress.step,
            steps: config.steps,
            parameters: trainer.parameters.parameters().iter().map(|(_, v)| v.elem_count()).sum(),
            pictures: (pictures.train.len(), pictures.held_out.len()),
            resumed: loaded.as_ref().map(|loaded| loaded.path()),
        });
        let plan = BatchPlan {
            start: progress.position,
            workers: config.pictures.workers,
            drop_last: pictures.train.len() >= config.batch,
            device: device.clone(),
            ..BatchPlan::new(config.batch, config.seed)
        };
        let crops = Arc::new(Crops::new(pictures.train, config.pictures.clone()));
        Ok(Self {
            batches: Batches::with_plan(crops, plan)?,
            unreadable: 0,
            metrics: MetricsLog::open(&folder.metrics(), progress.step)?,
            config,
            folder,
            checkpoints,
            trainer,
            average,
            revival,
            progress,
            held_out,
            validation: None,
        })
    }

    /// The model that is measured and handed out.
    fn model(&self) -> &VqModel {
        self.average.as_ref().map_or(&self.trainer.model, |average| &average.model)
    }

    fn weights(&self) -> BTreeMap<String, Tensor> {
        let averaged = self.average.as_ref().map(|average| &average.parameters);
        averaged.unwrap_or(&self.trainer.parameters).tensors()
    }

    fn go(mut self, limits: Limits, observer: &mut dyn Observer) -> Result<Summary> {
        let last = limits.stop_at.map_or(self.config.steps, |stop| stop.min(self.config.steps));
        let (begun, begun_at) = (Instant::now(), self.progress.step);
        let mut saved = Instant::now();
        while self.progress.step < last {
            self.step(observer)?;
            let step = self.progress.step;
            let config = self.config;
            if due(step, config.validation.every) {
                self.validate(observer)?;
            }
            if due(step, config.log.preview_every) {
                self.preview(observer)?;
            }
            let out_of_time = config.minutes > 0.0 && begun.elapsed() >= minutes(config.minutes);
            let by_time = config.checkpoint.minutes > 0.0
                && saved.elapsed() >= minutes(config.checkpoint.minutes);
            if step < last && (due(step, config.checkpoint.every) || by_time || out_of_time) {
                self.save(observer)?;
                saved = Instant::now();
            }
            if out_of_time {
                break;
            }
        }
        // A run that was finished already has said all this.
        if self.progress.step > begun_at || !self.folder.model().exists() {
            self.validate(observer)?;
            self.preview(observer)?;
            self.save(observer)?;
        }
        Ok(Summary {
            step: self.progress.step,
            finished: self.progress.step >= self.config.steps,
            validation: self.validation.map(|(_, result)| result),
            model: self.folder.model(),
        })
    }

    fn step(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let begun = Instant::now();
        let batch = self.batches.next().context("the pictures have come to an end")??;
        self.warn_of_unreadable(observer);
        let at = self.progress.step;
        let lr = self.config.optimizer.schedule.at(at, self.config.steps);
        let outcome = self.trainer.step(&batch.images, lr, at)?;
        self.progress.step += 1;
        self.progress.position = batch.next;
        self.progress.updates = self.trainer.optimizer.step();
        if let Some(adversary) = &self.trainer.adversary {
            self.progress.critic_updates = adversary.optimizer.step();
        }
        let step = self.progress.step;
        match outcome.broken {
            Some(term) => self.count_broken(term, observer)?,
            None => {
                self.progress.broken_in_a_row = 0;
                if let Some(average) = &self.average {
                    average.follow(&self.trainer.parameters, step)?;
                }
                let revived = self.revival.after_step(
                    step,
                    &outcome.codes,
                    &batch.images,
                    &mut self.trainer,
                )?;
                if revived > 0 {
                    let terms = Terms::from([("revived", revived as f64)]);
                    self.metrics.write(step, "revival", &terms)?;
                    observer.see(&Event::Revived { step, codes: revived });
                }
            }
        }
        if due(step, self.config.log.every) {
            self.metrics.write(step, "train", &outcome.terms)?;
        }
        observer.see(&Event::Step {
            step,
            terms: &outcome.terms,
            pictures: batch.names.len(),
            seconds: begun.elapsed().as_secs_f64(),
        });
        Ok(())
    }

    fn warn_of_unreadable(&mut self, observer: &mut dyn Observer) {
        let unreadable = self.batches.unreadable();
        if unreadable.len() > self.unreadable {
            self.unreadable = unreadable.len();
            let last = unreadable.values().next_back().map_or("", String::as_str);
            let message =
                format!("{} pictures cannot be read and are left out; {last}", self.unreadable);
            observer.see(&Event::Warning { message: &message });
        }
    }

    fn count_broken(&mut self, term: &str, observer: &mut dyn Observer) -> Result<()> {
        self.progress.broken_in_a_row += 1;
        let (step, count) = (self.progress.step, self.progress.broken_in_a_row);
        let patience = self.config.optimizer.patience;
        let message = format!("step {step}: {term} is not finite; the batch was skipped");
        observer.see(&Event::Warning { message: &message });
        if count > patience {
            bail!(
                "{message}, as were the {patience} before it: lower optimizer.schedule.lr or set \
                 optimizer.clip, and continue from the last checkpoint"
            );
        }
        Ok(())
    }

    fn validate(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let step = self.progress.step;
        let done = self.validation.as_ref().is_some_and(|(at, _)| *at == step);
        if done || self.held_out.is_empty() {
            return Ok(());
        }
        let result = validate(self.model(), &self.held_out)?;
        self.metrics.write(step, "validation", &result.terms())?;
        observer.see(&Event::Validated { step, result: &result });
        self.validation = Some((step, result));
        Ok(())
    }

    fn preview(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let path = self.folder.preview(self.progress.step);
        if self.held_out.is_empty() || path.exists() {
            return Ok(());
        }
        let images = Tensor::cat(&self.held_out, 0)?;
        let count = images.dim(0)?.min(self.config.log.preview_pictures.max(1));
        let images = images.narrow(0, 0, count)?;
        write_preview(&path, self.model(), &images, self.progress.step)?;
        observer.see(&Event::Wrote { what: "preview", path: &path });
        Ok(())
    }

    fn save(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let mut tensors = BTreeMap::new();
        add_section(&mut tensors, "model.", self.trainer.parameters.tensors());
        add_section(&mut tensors, "optimizer.", self.trainer.optimizer.state());
        if let Some(adversary) = &self.trainer.adversary {
            add_section(&mut tensors, "critic.", adversary.parameters.tensors());
            add_section(&mut tensors, "critic_optimizer.", adversary.optimizer.state());
        }
        if let Some(average) = &self.average {
            add_section(&mut tensors, "average.", average.parameters.tensors());
        }
        add_section(&mut tensors, "revival.", self.revival.state()?);
        let path = self.checkpoints.save(&self.progress, &tensors).context("checkpoint")?;
        observer.see(&Event::Wrote { what: "checkpoint", path: &path });
        let (model, validation) = (self.folder.model(), self.validation.as_ref());
        write_model(&model, self.config, self.progress.step, &self.weights(), validation)
            .context("model folder")?;
        observer.see(&Event::Wrote { what: "model", path: &model });
        Ok(())
    }
}

fn due(step: u64, every: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}

fn minutes(minutes: f64) -> Duration {
    Duration::from_secs_f64(60.0 * minutes.clamp(0.0, 1e9))
}
