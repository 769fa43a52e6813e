//! A second-stage run from start, or from where it stopped, to its end.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use cond_transformer::Permuter;
use pipeline::{Architecture, Codec, LoadOptions, ModelSpec, TransformerWeights};

use super::condition::Conditioning;
use super::config::{HandOut, ModelSetting, TransformerTrainConfig};
use super::examples::{CodeBatches, CodeExamples};
use super::export::{Export, stage_folders};
use super::fine_tune::{FineTune, Start, hand_over_tokenizer};
use super::grids::GridCodec;
use super::model::{CodeModel, architecture};
use super::preview::Preview;
use super::step::TransformerTrainer;
use super::tokenise::Codes;
use super::validation::{Best, held_out_nll};
use crate::average::Average;
use crate::checkpoint::{Progress, add_section};
use crate::observer::{Event, Observer, Terms};
use crate::pictures::spread;
use crate::run::{Limits, Log, Opened, Run, Stage, Stepped, Summary};
use crate::store::ParameterStore;

/// Trains a transformer as `config` says, from the newest intact checkpoint of its
/// run folder if there is one.
///
/// # Errors
/// If the configuration, first stage, data or run folder do not allow it, or losses
/// stay not finite.
pub fn train_transformer(
    config: &TransformerTrainConfig,
    device: &Device,
    limits: Limits,
    observer: &mut dyn Observer,
) -> Result<Summary> {
    let compute = config.precision.dtype(device)?;
    train_transformer_in(compute, config, device, limits, observer)
}

/// [`train_transformer`], the transformer in `compute`, whatever the configuration says:
/// tests run on CPUs, where there is f16.
pub(crate) fn train_transformer_in(
    compute: DType,
    config: &TransformerTrainConfig,
    device: &Device,
    limits: Limits,
    observer: &mut dyn Observer,
) -> Result<Summary> {
    let first_stage = &config.first_stage;
    ensure!(
        !first_stage.as_os_str().is_empty(),
        "no first stage: give a run or model folder with first-stage=FOLDER"
    );
    let options = LoadOptions { device: device.clone(), ..LoadOptions::default() };
    let codec = Codec::load(&ModelSpec::new(first_stage), &options)
        .with_context(|| format!("first-stage={}", first_stage.display()))?;
    // What could not be handed out need not be trained.
    stage_folders(config)?;
    let Start { config, from } = Start::new(config)?;
    let config = &*config;
    let opened = Opened::new(config, device, observer)?;
    let codec = Arc::new(codec);
    let machine = (device, compute, limits);
    let Some(stage) = SecondStage::new(config, codec, &opened, (machine, from), observer)? else {
        let model = opened.folder.model();
        let step = opened.progress().step;
        return Ok(Summary { step, finished: false, validation: None, model });
    };
    Run::new(config, opened, stage)?.go(limits, observer)
}

struct SecondStage<'a> {
    config: &'a TransformerTrainConfig,
    device: Device,
    codec: Arc<Codec>,
    conditioning: Conditioning,
    architecture: Architecture,
    permuter: Permuter,
    grid: (usize, usize),
    trainer: TransformerTrainer,
    /// The trained model in f32: the weights that are handed out.
    masters: CodeModel,
    average: Option<Average<CodeModel>>,
    train: CodeExamples,
    held_out: CodeExamples,
    /// Conditions of a preview, and what people call them.
    shown: Vec<(Vec<u32>, String)>,
    batches: CodeBatches,
    best: Best,
    validation: Option<(u64, Terms)>,
    /// The step of the model folder that this process wrote last.
    written: Option<u64>,
}

impl<'a> SecondStage<'a> {
    /// None if it was asked to stop while pictures were encoded.
    fn new(
        config: &'a TransformerTrainConfig,
        codec: Arc<Codec>,
        opened: &Opened,
        ((device, compute, limits), from): ((&Device, DType, Limits), Option<TransformerWeights>),
        observer: &mut dyn Observer,
    ) -> Result<Option<Self>> {
        let grids = GridCodec::open(&config.condition, &codec, device)?;
        let codecs = (&*codec, grids.as_ref());
        let cache = opened.folder.codes();
        let Some(codes) = Codes::open(config, codecs, &cache, limits, observer)? else {
            return Ok(None);
        };
        let grid = codes.grid();
        let permuter = Permuter::new(config.order, grid.0, grid.1)?;
        let kinds = codec.describe().codes;
        let grids = grids.as_ref().zip(codes.condition_grid());
        let Codes { train, held_out, labels } = codes;
        let tokenizer = opened.folder.path().join("tokenizer.json");
        if let Some(from) = &from {
            hand_over_tokenizer(from, &config.condition, &tokenizer)?;
        }
        let conditioning = Conditioning::new(
            &config.condition,
            labels,
            &names(&train.codes).collect(),
            kinds,
            matches!(config.model, ModelSetting::Llama { .. }),
            &tokenizer,
            grids,
        )?;
        let [train, held_out] = [&train, &held_out]
            .map(|part| CodeExamples::new(&part.codes, &part.conditions, &permuter, &conditioning));
        let (train, held_out) = (train?, held_out?);
        let examples = if held_out.is_empty() { &train } else { &held_out };
        let shown = shown(examples, &conditioning, config.log.preview_pictures);

        let architecture = architecture(&config.model, &conditioning, kinds, grid.0 * grid.1);
        let parameters = ParameterStore::new(config.seed);
        let build = |parameters: &ParameterStore, dtype| {
            CodeModel::new(&architecture, parameters.var_builder(dtype, device))
        };
        let (model, masters) = (build(&parameters, compute)?, build(&parameters, DType::F32)?);
        let null = conditioning.null.clone();
        let mut trainer = TransformerTrainer::new(config, model, parameters, kinds, null)?;
        let mut best = Best::default();
        let (loaded, progress) = (&opened.loaded, opened.progress());
        if let Some(loaded) = loaded {
            trainer.parameters.load(&loaded.section("model."))?;
            trainer.optimizer.load_state(progress.updates, &loaded.section("optimizer."))?;
            best.load(&loaded.section("validation."))?;
        } else if let Some(from) = &from {
            let fine_tune = FineTune {
                config,
                from,
                architecture: &architecture,
                conditioning: &conditioning,
                grid,
                codes: kinds,
                codec_sha256: codec.sha256(),
            };
            for message in fine_tune.start(&mut trainer, device)? {
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
        observer.see(&Event::Started {
            step: progress.step,
            steps: config.steps,
            parameters: trainer.parameters.parameters().iter().map(|(_, v)| v.elem_count()).sum(),
            pictures: (train.len(), held_out.len()),
            resumed: loaded.as_ref().map(|loaded| loaded.path()),
        });
        Ok(Some(Self {
            config,
            device: device.clone(),
            codec,
            conditioning,
            architecture,
            permuter,
            grid,
            trainer,
            masters,
            average,
            train,
            held_out,
            shown,
            batches: CodeBatches::new(config.seed, config.batch),
            best,
            validation: None,
            written: None,
        }))
    }

    /// The model that is measured and handed out.
    fn model(&self) -> &CodeModel {
        self.average.as_ref().map_or(&self.masters, |average| &average.model)
    }

    fn weights(&self) -> BTreeMap<String, Tensor> {
        let averaged = self.average.as_ref().map(|average| &average.parameters);
        averaged.unwrap_or(&self.trainer.parameters).tensors()
    }
}

impl Stage for SecondStage<'_> {
    fn step(&mut self, lr: f64, progress: &mut Progress, _log: &mut Log) -> Result<Stepped> {
        let mut batches = Vec::with_capacity(self.config.accumulate);
        for _ in 0..self.config.accumulate {
            let batch = self.batches.at(&self.train, progress.position)?;
            progress.position = batch.next;
            batches.push(batch);
        }
        let outcome = self.trainer.step(&batches, lr, progress.step, &self.device)?;
        progress.updates = self.trainer.optimizer.step();
        if outcome.broken.is_none() {
            self.best.trained(outcome.terms["nll"]);
            if let Some(average) = &self.average {
                average.follow(&self.trainer.parameters, progress.step + 1)?;
            }
        }
        Ok(Stepped {
            terms: outcome.terms,
            broken: outcome.broken,
            pictures: batches.into_iter().flat_map(|batch| batch.names).collect(),
        })
    }

    fn validate(&mut self, step: u64, log: &mut Log) -> Result<Option<Terms>> {
        if self.held_out.is_empty() {
            return Ok(None);
        }
        let count = self.config.validation.pictures;
        let batch = self.config.batch;
        let terms = held_out_nll(self.model(), &self.held_out, count, batch, &self.device)?;
        let (_, said) = self.best.validated(step, terms["val_nll"], self.config.hand_out);
        if let Some(message) = said {
            log.warn(&message);
        }
        self.validation = Some((step, terms.clone()));
        Ok(Some(terms))
    }

    fn preview(&mut self, path: &Path, step: u64) -> Result<bool> {
        let (conditions, names): (Vec<_>, Vec<_>) = self.shown.iter().cloned().unzip();
        if conditions.is_empty() {
            return Ok(false);
        }
        let mut description = format!("samples at step {step}");
        if names.iter().any(|name| !name.is_empty()) {
            description += &format!(", row by row: {}", names.join(" | "));
        }
        let preview = Preview {
            architecture: &self.architecture,
            codec: &self.codec,
            permuter: &self.permuter,
            grid: self.grid,
            seed: self.config.seed,
            sampling: &self.config.sampling,
            codes: self.codec.describe().codes,
            null: self.conditioning.null.as_deref(),
        };
        preview.write(path, self.weights(), &conditions, description)?;
        Ok(true)
    }

    fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut tensors = BTreeMap::new();
        add_section(&mut tensors, "model.", self.trainer.parameters.tensors());
        add_section(&mut tensors, "optimizer.", self.trainer.optimizer.state());
        if let Some(average) = &self.average {
            add_section(&mut tensors, "average.", average.parameters.tensors());
        }
        add_section(&mut tensors, "validation.", self.best.state()?);
        Ok(tensors)
    }

    /// Keeps the model of the best validation, unless the last one is asked for.
    fn write_model(&mut self, folder: &Path, step: u64) -> Result<bool> {
        let best = self.config.hand_out == HandOut::Last
            || self.best.best.is_none_or(|(at, _)| at == step);
        let stays = !best && folder.exists();
        if stays || self.written == Some(step) {
            return Ok(false);
        }
        let export = Export {
            config: self.config,
            codec: &self.codec,
            conditioning: &self.conditioning,
            architecture: &self.architecture,
            grid: self.grid,
            step,
            validation: self.validation.as_ref().filter(|(at, _)| *at == step).map(|(_, v)| v),
        };
        export.write(folder, &self.weights())?;
        self.written = Some(step);
        Ok(true)
    }
}

/// The names of the pictures of `files`.
fn names(files: &[checkpoints::codes_file::CodesFile]) -> impl Iterator<Item = &str> {
    files.iter().flat_map(|file| &file.items).map(|item| item.name.as_str())
}

/// The conditions of `count` pictures of `examples`, spread over all of them in the order
/// of their names.
fn shown(
    examples: &CodeExamples,
    conditioning: &Conditioning,
    count: usize,
) -> Vec<(Vec<u32>, String)> {
    let mut distinct = BTreeMap::new();
    for index in 0..examples.len() {
        distinct.entry(examples.name(index)).or_insert(index);
    }
    let distinct: Vec<_> = distinct.into_iter().collect();
    let count = count.max(1);
    let pick = |i: usize| {
        let (name, index) = distinct[i];
        (examples.condition(index).to_vec(), conditioning.describe(name))
    };
    spread(distinct.len(), count).map(pick).collect()
}
