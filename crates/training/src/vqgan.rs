//! A first-stage run from start, or from where it stopped, to its end.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use image_data::{BatchPlan, Batches, Catalog, Dataset, PictureDataset, Split};
use vq_autoencoder::{ImageCodec, VqModel};

use crate::average::Average;
use crate::build::{adversary, reconstruction_loss};
use crate::checkpoint::{Progress, add_section};
use crate::config::{InputKind, TrainConfig};
use crate::export::write_model;
use crate::fine_tune;
use crate::guards::Guards;
use crate::input::Input;
use crate::observer::{Event, Observer, Terms};
use crate::pictures::{held_out_batches, open_pictures, training_crops};
use crate::preview::write_preview;
use crate::revival::Revival;
use crate::run::{Limits, Log, Opened, Run, Stage, Stepped, Summary};
use crate::step::VqTrainer;
use crate::store::ParameterStore;
use crate::validation::{Validation, validate, validate_labels};

/// Trains a VQGAN, or the codec of maps, as `config` says, from the newest intact checkpoint of its
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
    let compute = config.precision.dtype(device)?;
    train_vqgan_in(compute, config, device, limits, observer)
}

/// [`train_vqgan`], encoder and decoder in `compute`, whatever the configuration says: tests
/// run on CPUs, where there is f16.
pub(crate) fn train_vqgan_in(
    compute: DType,
    config: &TrainConfig,
    device: &Device,
    limits: Limits,
    observer: &mut dyn Observer,
) -> Result<Summary> {
    let config = &*fine_tune::resolved(config)?;
    let catalog = open_pictures(&config.data, config.validation.fraction)?;
    let input = Input::new(config, &catalog)?;
    let opened = Opened::new(config, device, observer)?;
    let stage = FirstStage::new(config, input, &catalog, &opened, (device, compute), observer)?;
    Run::new(config, opened, stage)?.go(limits, observer)
}

struct FirstStage<'a> {
    config: &'a TrainConfig,
    input: Input,
    device: Device,
    trainer: VqTrainer,
    /// The trained model in f32: the weights that are handed out.
    masters: VqModel,
    average: Option<Average<VqModel>>,
    revival: Revival,
    guards: Guards,
    crops: Arc<PictureDataset>,
    batches: Batches,
    unreadable: usize,
    held_out: Vec<Tensor>,
    validation: Option<(u64, Validation)>,
    /// The step of the model folder that this process wrote last.
    written: Option<u64>,
}

impl<'a> FirstStage<'a> {
    fn new(
        config: &'a TrainConfig,
        input: Input,
        catalog: &Catalog,
        opened: &Opened,
        (device, compute): (&Device, DType),
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        let parameters = ParameterStore::new(config.seed);
        let build = |parameters: &ParameterStore, dtype| {
            Ok(VqModel::new(&config.model, parameters.var_builder(dtype, device))?)
        };
        let model = build(&parameters, compute)?;
        let masters = build(&parameters, DType::F32)?;
        let mut trainer = VqTrainer::new(
            config,
            model,
            parameters,
            reconstruction_loss(config, device)?,
            adversary(config, device)?,
        )?;
        let mut revival = Revival::new(config, trainer.model.codebook_len());
        let mut guards = Guards::new(config, trainer.model.codebook_len());
        let (loaded, progress) = (&opened.loaded, opened.progress());
        if let Some(loaded) = loaded {
            trainer.parameters.load(&loaded.section("model."))?;
            trainer.optimizer.load_state(progress.updates, &loaded.section("optimizer."))?;
            if let Some(adversary) = &mut trainer.adversary {
                adversary.parameters.load(&loaded.section("critic."))?;
                let state = loaded.section("critic_optimizer.");
                adversary.optimizer.load_state(progress.critic_updates, &state)?;
                adversary.load_state(&loaded.section("critic_state."))?;
            }
            revival.load(&loaded.section("revival."))?;
            guards.load(&loaded.section("guards."))?;
        } else if !config.init.model.as_os_str().is_empty() {
            for message in fine_tune::start(config, &mut trainer, device)? {
                observer.see(&Event::Warning { message: &message });
            }
        }
        let average = if config.optimizer.ema > 0.0 {
            let build = |parameters: &ParameterStore| build(parameters, DType::F32);
            let average = Average::new(config.optimizer.ema, &trainer.parameters, build)?;
            if let Some(loaded) = loaded {
                average.parameters.load(&loaded.section("average."))?;
            }
            Some(average)
        } else {
            None
        };

        observer.see(&Event::Note { message: &format!("data: {}", catalog.description()) });
        let (held_out, unreadable) = held_out_batches(
            catalog,
            &config.pictures,
            &config.validation,
            config.model.factor(),
            config.batch,
            |batch, dataset| Ok(input.of_batch(batch, dataset)?.to_device(device)?),
        )?;
        for message in catalog.warnings().iter().chain(&unreadable) {
            observer.see(&Event::Warning { message });
        }
        let crops = Arc::new(training_crops(catalog, &config.pictures)?);
        observer.see(&Event::Started {
            step: progress.step,
            steps: config.steps,
            parameters: trainer.parameters.parameters().iter().map(|(_, v)| v.elem_count()).sum(),
            pictures: (crops.len(), catalog.of_split(Split::Val).count()),
            resumed: loaded.as_ref().map(|loaded| loaded.path()),
        });
        let plan = BatchPlan {
            start: progress.position,
            workers: config.pictures.workers,
            drop_last: crops.len() >= config.pictures_per_update(),
            device: device.clone(),
            ..BatchPlan::new(config.pictures_per_update(), config.seed)
        };
        Ok(Self {
            batches: Batches::with_plan(crops.clone(), plan)?,
            crops,
            unreadable: 0,
            config,
            input,
            trainer,
            masters,
            average,
            revival,
            guards,
            held_out,
            device: device.clone(),
            validation: None,
            written: None,
        })
    }

    /// The model that is measured and handed out.
    fn model(&self) -> &VqModel {
        self.average.as_ref().map_or(&self.masters, |average| &average.model)
    }

    fn weights(&self) -> BTreeMap<String, Tensor> {
        let averaged = self.average.as_ref().map(|average| &average.parameters);
        averaged.unwrap_or(&self.trainer.parameters).tensors()
    }

    fn warn_of_unreadable(&mut self, log: &mut Log) {
        let unreadable = self.batches.unreadable();
        if unreadable.len() > self.unreadable {
            self.unreadable = unreadable.len();
            let last = unreadable.values().next_back().map_or("", String::as_str);
            log.warn(&format!(
                "{} pictures cannot be read and are left out; {last}",
                self.unreadable
            ));
        }
    }
}

impl Stage for FirstStage<'_> {
    fn step(&mut self, lr: f64, progress: &mut Progress, log: &mut Log) -> Result<Stepped> {
        let batch = self.batches.next().context("the pictures have come to an end")??;
        self.warn_of_unreadable(log);
        let lr = lr * self.config.lr_factor();
        let input = self.input.of_batch(&batch, &self.crops)?.to_device(&self.device)?;
        let input = self.input.for_model(&input)?;
        let outcome = self.trainer.step(&input, lr, progress.step)?;
        progress.position = batch.next;
        progress.updates = self.trainer.optimizer.step();
        if let Some(adversary) = &self.trainer.adversary {
            progress.critic_updates = adversary.optimizer.step();
        }
        let done = progress.step + 1;
        let mut terms = outcome.terms;
        if let (None, Some(codes)) = (outcome.broken, &outcome.codes) {
            for message in self.guards.after_step(codes, &mut terms)? {
                log.warn(&format!("step {done}: {message}"));
            }
            if let Some(average) = &self.average {
                average.follow(&self.trainer.parameters, done)?;
            }
            let revived = self.revival.after_step(done, codes, &input, &mut self.trainer)?;
            if revived > 0 {
                log.write(done, "revival", &Terms::from([("revived", revived as f64)]))?;
                log.see(&Event::Revived { step: done, codes: revived });
            }
        }
        Ok(Stepped { terms, broken: outcome.broken, pictures: batch.names })
    }

    fn validate(&mut self, step: u64, _log: &mut Log) -> Result<Option<Terms>> {
        if self.held_out.is_empty() {
            return Ok(None);
        }
        let result = match self.input.kind() {
            InputKind::Pictures | InputKind::Depth => validate(self.model(), &self.held_out)?,
            InputKind::Labels => validate_labels(self.model(), &self.held_out)?,
        };
        let terms = result.terms();
        self.validation = Some((step, result));
        Ok(Some(terms))
    }

    fn preview(&mut self, path: &Path, step: u64) -> Result<bool> {
        if self.held_out.is_empty() {
            return Ok(false);
        }
        let shown = Tensor::cat(&self.held_out, 0)?;
        let count = shown.dim(0)?.min(self.config.log.preview_pictures.max(1));
        let [originals, made] = self.input.show(self.model(), &shown.narrow(0, 0, count)?)?;
        write_preview(path, &originals, &made, step)?;
        Ok(true)
    }

    fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut tensors = BTreeMap::new();
        add_section(&mut tensors, "model.", self.trainer.parameters.tensors());
        add_section(&mut tensors, "optimizer.", self.trainer.optimizer.state());
        if let Some(adversary) = &self.trainer.adversary {
            add_section(&mut tensors, "critic.", adversary.parameters.tensors());
            add_section(&mut tensors, "critic_optimizer.", adversary.optimizer.state());
            add_section(&mut tensors, "critic_state.", adversary.state()?);
        }
        if let Some(average) = &self.average {
            add_section(&mut tensors, "average.", average.parameters.tensors());
        }
        add_section(&mut tensors, "revival.", self.revival.state()?);
        add_section(&mut tensors, "guards.", self.guards.state()?);
        Ok(tensors)
    }

    fn write_model(&mut self, folder: &Path, step: u64) -> Result<bool> {
        if self.written == Some(step) {
            return Ok(false);
        }
        let validation = self.validation.as_ref();
        let input = self.input.of_codec();
        write_model(folder, self.config, &input, step, &self.weights(), validation)?;
        self.written = Some(step);
        Ok(true)
    }
}
