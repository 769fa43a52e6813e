//! The loop around every kind of training: when to step, measure, save and stop.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};

use crate::checkpoint::{Checkpoints, Loaded, Progress};
use crate::config::RunConfig;
use crate::meter::Meter;
use crate::metrics::MetricsLog;
use crate::observer::{Event, Observer, Terms};
use crate::run_folder::RunFolder;

/// When a process leaves a run, beyond what the configuration says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Leave, with a checkpoint, once the run stands at this step.
    pub stop_at: Option<u64>,
    /// Leave, with a checkpoint, after the step during which this turns true.
    pub stop: Option<&'static AtomicBool>,
}

impl Limits {
    /// Whether somebody asked to stop.
    pub(crate) fn asked(&self) -> bool {
        self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
    }
}

/// How a process left a run.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Steps done in the whole run.
    pub step: u64,
    /// Whether these are all of them.
    pub finished: bool,
    /// The last measurements, under their names in `metrics.jsonl`.
    pub validation: Option<Terms>,
    /// The model folder.
    pub model: PathBuf,
}

/// What is trained. [`Run`] knows no more of it.
pub(crate) trait Stage {
    /// Does update number `progress.step` (from 0), and notes in `progress` where
    /// data and optimisers stand then (but not the step itself).
    fn step(&mut self, lr: f64, progress: &mut Progress, log: &mut Log) -> Result<Stepped>;

    /// Measures on held-out data, if there is any.
    fn validate(&mut self, step: u64, log: &mut Log) -> Result<Option<Terms>>;

    /// Writes a picture of how things are, if there is something to show.
    fn preview(&mut self, path: &Path, step: u64) -> Result<bool>;

    /// All tensors that a continued run needs.
    fn state(&self) -> Result<BTreeMap<String, Tensor>>;

    /// Writes the model folder, unless a better one is there already.
    fn write_model(&mut self, folder: &Path, step: u64) -> Result<bool>;
}

/// What an update did.
pub(crate) struct Stepped {
    /// Losses, norms and the learning rate.
    pub terms: Terms,
    /// The first term that was not finite: nothing was updated then.
    pub broken: Option<&'static str>,
    /// The names of the pictures in it.
    pub pictures: Vec<String>,
}

/// Where a stage's numbers and messages go.
pub(crate) struct Log<'a> {
    metrics: &'a mut MetricsLog,
    observer: &'a mut dyn Observer,
}

impl Log<'_> {
    /// Says that something is not as it should be.
    pub fn warn(&mut self, message: &str) {
        self.observer.see(&Event::Warning { message });
    }

    /// Tells the observer.
    pub fn see(&mut self, event: &Event) {
        self.observer.see(event);
    }

    /// Writes a line of the metrics.
    pub fn write(&mut self, step: u64, kind: &str, terms: &Terms) -> Result<()> {
        self.metrics.write(step, kind, terms)
    }
}

/// A run folder that was opened, before what is trained in it was built.
pub(crate) struct Opened {
    pub folder: RunFolder,
    checkpoints: Checkpoints,
    /// The newest intact checkpoint.
    pub loaded: Option<Loaded>,
}

impl Opened {
    /// Opens the run folder of `config` and its newest intact checkpoint.
    pub fn new<C: RunConfig>(
        config: &C,
        device: &Device,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        let frame = config.frame();
        let folder = RunFolder::open(frame.run)?;
        let checkpoints = Checkpoints::new(folder.checkpoints(), frame.checkpoint.keep);
        folder.settle_config(config, checkpoints.any()?)?;
        let (loaded, complaints) = checkpoints.newest(device)?;
        for message in &complaints {
            observer.see(&Event::Warning { message });
        }
        Ok(Self { folder, checkpoints, loaded })
    }

    /// Where the run stands.
    pub fn progress(&self) -> Progress {
        self.loaded.as_ref().map(|loaded| loaded.progress.clone()).unwrap_or_default()
    }
}

/// A run from where it stands to its end.
pub(crate) struct Run<'a, C, S> {
    config: &'a C,
    folder: RunFolder,
    checkpoints: Checkpoints,
    stage: S,
    progress: Progress,
    metrics: MetricsLog,
    meter: Meter,
    previewed: Option<u64>,
    validation: Option<(u64, Option<Terms>)>,
}

impl<'a, C: RunConfig, S: Stage> Run<'a, C, S> {
    pub fn new(config: &'a C, opened: Opened, stage: S) -> Result<Self> {
        let progress = opened.progress();
        Ok(Self {
            config,
            metrics: MetricsLog::open(&opened.folder.metrics(), progress.step)?,
            folder: opened.folder,
            checkpoints: opened.checkpoints,
            stage,
            progress,
            meter: Meter::default(),
            previewed: None,
            validation: None,
        })
    }

    pub fn go(mut self, limits: Limits, observer: &mut dyn Observer) -> Result<Summary> {
        let frame = self.config.frame();
        let (begun, begun_at) = (Instant::now(), self.progress.step);
        let (mut saved, mut saved_at) = (Instant::now(), begun_at);
        let mut out_of_time = false;
        while self.progress.step < frame.steps && !out_of_time {
            let asked =
                limits.asked() || limits.stop_at.is_some_and(|stop| self.progress.step >= stop);
            if asked {
                // Nothing is measured here: the run goes on, and its log is to be that of
                // one that never stopped.
                if self.progress.step > saved_at {
                    self.save(observer)?;
                }
                return Ok(self.summary());
            }
            self.step(observer)?;
            let step = self.progress.step;
            if due(step, frame.validate_every) {
                self.validate(observer)?;
            }
            if due(step, frame.log.preview_every) {
                self.preview(observer)?;
            }
            out_of_time = frame.minutes > 0.0 && begun.elapsed() >= minutes(frame.minutes);
            let by_time = frame.checkpoint.minutes > 0.0
                && saved.elapsed() >= minutes(frame.checkpoint.minutes);
            let last = step >= frame.steps || out_of_time;
            if !last && (due(step, frame.checkpoint.every) || by_time) {
                self.save(observer)?;
                (saved, saved_at) = (Instant::now(), step);
            }
        }
        // A run that was finished already has said all this.
        if self.progress.step > begun_at || !self.folder.model().exists() {
            self.validate(observer)?;
            self.preview(observer)?;
            self.save(observer)?;
        }
        Ok(self.summary())
    }

    fn summary(self) -> Summary {
        Summary {
            step: self.progress.step,
            finished: self.progress.step >= self.config.frame().steps,
            validation: self.validation.and_then(|(_, terms)| terms),
            model: self.folder.model(),
        }
    }

    fn step(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let begun = Instant::now();
        let frame = self.config.frame();
        let lr = frame.schedule.at(self.progress.step, frame.steps);
        let mut log = Log { metrics: &mut self.metrics, observer };
        let stepped = self.stage.step(lr, &mut self.progress, &mut log)?;
        self.progress.step += 1;
        let step = self.progress.step;
        match stepped.broken {
            Some(term) => self.count_broken(term, &stepped.pictures, observer)?,
            None => self.progress.broken_in_a_row = 0,
        }
        self.meter.count(stepped.pictures.len());
        if due(step, frame.log.every) {
            let mut terms = stepped.terms.clone();
            terms.append(&mut self.meter.take());
            self.metrics.write(step, "train", &terms)?;
        }
        observer.see(&Event::Step {
            step,
            terms: &stepped.terms,
            pictures: stepped.pictures.len(),
            seconds: begun.elapsed().as_secs_f64(),
        });
        Ok(())
    }

    fn count_broken(
        &mut self,
        term: &str,
        pictures: &[String],
        observer: &mut dyn Observer,
    ) -> Result<()> {
        self.progress.broken_in_a_row += 1;
        self.progress.broken += 1;
        let (step, count) = (self.progress.step, self.progress.broken_in_a_row);
        let patience = self.config.frame().patience;
        let skipped = Terms::from([("skipped", self.progress.broken as f64)]);
        self.metrics.write(step, "skipped", &skipped)?;
        let message = format!(
            "step {step}: {term} is not finite; the batch was skipped ({})",
            some_of(pictures)
        );
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
        if self.validation.as_ref().is_some_and(|(at, _)| *at == step) {
            return Ok(());
        }
        let mut log = Log { metrics: &mut self.metrics, observer };
        let result = self.stage.validate(step, &mut log)?;
        if let Some(terms) = &result {
            self.metrics.write(step, "validation", terms)?;
            observer.see(&Event::Validated { step, terms });
            self.write_model(observer)?;
        }
        self.validation = Some((step, result));
        Ok(())
    }

    fn preview(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let step = self.progress.step;
        let path = self.folder.preview(step);
        if self.previewed != Some(step) && self.stage.preview(&path, step)? {
            self.metrics.picture(step, "preview", &path)?;
            self.previewed = Some(step);
            observer.see(&Event::Wrote { what: "preview", path: &path });
        }
        Ok(())
    }

    fn save(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let tensors = self.stage.state()?;
        let path = self.checkpoints.save(&self.progress, &tensors).context("checkpoint")?;
        observer.see(&Event::Wrote { what: "checkpoint", path: &path });
        self.write_model(observer)
    }

    fn write_model(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let model = self.folder.model();
        if self.stage.write_model(&model, self.progress.step).context("model folder")? {
            observer.see(&Event::Wrote { what: "model", path: &model });
        }
        Ok(())
    }
}

/// The first few of `names`.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn due(step: u64, every: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}

fn minutes(minutes: f64) -> Duration {
    Duration::from_secs_f64(60.0 * minutes.clamp(0.0, 1e9))
}
