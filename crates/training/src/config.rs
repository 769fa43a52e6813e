//! Everything a run can be told, as one TOML file.

mod document;
mod input;
mod precision;
mod run_config;
mod sections;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use codebook::QuantizerConfig;
use serde::{Deserialize, Serialize};
use vq_autoencoder::{Layout, VqConfig};

pub use input::InputKind;
pub use precision::Precision;
pub use run_config::{Frame, RunConfig};
pub use sections::{
    AdversarialConfig, CheckpointConfig, GuardsConfig, InitConfig, LogConfig, LossConfig, LrRule,
    OptimizerConfig, PerceptualKind, PicturesConfig, PixelLoss, Resizing, RevivalConfig,
    UpdateOrder, ValidationConfig,
};

/// The configuration of a first-stage run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainConfig {
    /// Folder of pictures; `train.txt` and `val.txt` in it split it.
    pub data: PathBuf,
    /// Run folder: checkpoints, logs, previews and the finished model.
    pub run: PathBuf,
    /// Decides initial weights, order, crops and revived codes.
    pub seed: u64,
    /// Updates of the autoencoder in the whole run.
    pub steps: u64,
    /// Stop (with a checkpoint) after so many minutes of this process; 0: no
    /// limit.
    pub minutes: f64,
    /// What the autoencoder computes in. Quantizer, losses and discriminator are f32.
    pub precision: Precision,
    /// What it learns to turn into codes and back: pictures, or the maps beside them.
    pub input: InputKind,
    /// Pictures that go through the networks at once.
    pub batch: usize,
    /// Batches whose gradients make one update.
    pub accumulate: usize,
    /// A model to start from, instead of noise.
    pub init: InitConfig,
    /// What the model card says about the data and its licence.
    pub data_card: String,
    /// The pictures and their augmentation.
    pub pictures: PicturesConfig,
    /// The loss terms and their weights.
    pub loss: LossConfig,
    /// The discriminator; off while its weight is 0.
    pub adversarial: AdversarialConfig,
    /// Adam, clipping, averaging of weights and the learning rate.
    pub optimizer: OptimizerConfig,
    /// Replacement of codes that nothing uses.
    pub revival: RevivalConfig,
    /// Warnings of what goes wrong.
    pub guards: GuardsConfig,
    /// Held-out measurements.
    pub validation: ValidationConfig,
    /// Metrics and previews.
    pub log: LogConfig,
    /// When to save and what to keep.
    pub checkpoint: CheckpointConfig,
    /// The architecture.
    pub model: VqConfig,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            data: PathBuf::new(),
            run: PathBuf::from("runs/vqgan"),
            seed: 23,
            steps: 10_000,
            minutes: 0.0,
            precision: Precision::default(),
            input: InputKind::default(),
            batch: 8,
            accumulate: 1,
            init: InitConfig::default(),
            data_card: String::new(),
            pictures: PicturesConfig::default(),
            loss: LossConfig::default(),
            adversarial: AdversarialConfig::default(),
            optimizer: OptimizerConfig::default(),
            revival: RevivalConfig::default(),
            guards: GuardsConfig::default(),
            validation: ValidationConfig::default(),
            log: LogConfig::default(),
            checkpoint: CheckpointConfig::default(),
            model: VqConfig {
                layout: Layout::Taming,
                in_channels: 3,
                out_channels: 3,
                ch: 32,
                ch_mult: vec![1, 2],
                num_res_blocks: 1,
                attn_resolutions: Vec::new(),
                resolution: 32,
                z_channels: 32,
                quantizer: QuantizerConfig::Normalized {
                    len: 256,
                    dim: 8,
                    beta: 0.25,
                    entropy_ratio: 0.0,
                },
                dropout: 0.0,
            },
        }
    }
}

impl TrainConfig {
    /// Pictures of one update.
    pub fn pictures_per_update(&self) -> usize {
        self.batch * self.accumulate
    }

    /// What the schedule's learning rate is multiplied by.
    pub fn lr_factor(&self) -> f64 {
        match self.optimizer.lr_rule {
            LrRule::Absolute => 1.0,
            LrRule::PerPicture => self.pictures_per_update() as f64,
        }
    }
}

impl RunConfig for TrainConfig {
    fn frame(&self) -> Frame<'_> {
        Frame {
            run: &self.run,
            steps: self.steps,
            minutes: self.minutes,
            schedule: &self.optimizer.schedule,
            patience: self.optimizer.patience,
            validate_every: self.validation.every,
            log: &self.log,
            checkpoint: &self.checkpoint,
        }
    }

    fn may_change() -> &'static [&'static str] {
        &[
            "data",
            "data_card",
            "precision",
            "guards.",
            "optimizer.patience",
            "validation.",
            "pictures.workers",
            "pictures.cache_mb",
        ]
    }

    fn validate(&self) -> Result<()> {
        self.model.validate()?;
        let factor = self.model.factor();
        let side = self.pictures.side;
        ensure!(
            side > 0 && side.is_multiple_of(factor),
            "pictures.side = {side} is not a multiple of the model's factor {factor}"
        );
        ensure!(
            self.pictures.largest >= side,
            "pictures.largest = {} is below pictures.side = {side}",
            self.pictures.largest
        );
        ensure!(
            self.pictures.smallest <= self.pictures.largest,
            "pictures.smallest = {} is above pictures.largest = {}",
            self.pictures.smallest,
            self.pictures.largest
        );
        ensure!(self.batch > 0, "batch = 0: an update needs at least one picture");
        ensure!(self.accumulate > 0, "accumulate = 0: an update needs at least one batch");
        ensure!(self.steps > 0, "steps = 0: nothing to train");
        let lr = self.optimizer.schedule.lr;
        ensure!(
            lr.is_finite() && lr > 0.0,
            "optimizer.schedule.lr = {lr} is not a positive number"
        );
        let gan = &self.adversarial;
        for (key, value) in [
            ("loss.perceptual_weight", self.loss.perceptual_weight),
            ("loss.codebook_weight", self.loss.codebook_weight),
            ("adversarial.weight", gan.weight),
            ("adversarial.critic_weight", gan.critic_weight),
            ("adversarial.lr_ratio", gan.lr_ratio),
            ("adversarial.lecam", gan.lecam),
            ("adversarial.r1", gan.r1),
            ("optimizer.clip", self.optimizer.clip),
        ] {
            ensure!(value.is_finite() && value >= 0.0, "{key} = {value} is not a number from 0 up");
        }
        if gan.weight > 0.0 {
            gan.patchgan.validate()?;
            let least = gan.patchgan.min_side();
            ensure!(
                side >= least,
                "pictures.side = {side} is too small for a discriminator with \
                 adversarial.patchgan.n_layers = {}, which needs {least}",
                gan.patchgan.n_layers
            );
        }
        let ema = self.optimizer.ema;
        ensure!((0.0..1.0).contains(&ema), "optimizer.ema = {ema} is not in [0, 1)");
        use QuantizerConfig::{Euclidean, Normalized};
        ensure!(
            matches!(self.model.quantizer, Euclidean { .. } | Normalized { .. }),
            "model.quantizer.kind: codebooks that learn by gradients are trained (euclidean, \
             normalized), not {:?}",
            self.model.quantizer
        );
        let init = &self.init;
        let model = !init.model.as_os_str().is_empty();
        ensure!(
            !init.partial || (model && !init.optimizer),
            "init.partial = true needs init.model, and init.optimizer = false: moments fit no \
             other weights"
        );
        ensure!(
            !init.keep_codes || (model && !init.partial && self.revival.every == 0),
            "init.keep_codes = true needs init.model, init.partial = false and revival.every = 0: \
             encoder and codebook stay as that model has them"
        );
        let unknown = model && !init.partial && self.model == Self::default().model;
        // The architecture that is started from comes later.
        if unknown { self.check_losses_of_input() } else { self.check_input() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_survive_a_round_trip() -> Result<()> {
        let config = TrainConfig::default();
        assert_eq!(TrainConfig::parse(&config.to_toml()?, &[])?, config);
        assert_eq!(TrainConfig::parse("", &[])?, config);
        Ok(())
    }

    #[test]
    fn overrides_reach_nested_keys() -> Result<()> {
        let overrides = [
            "data=/some/where".to_string(),
            "optimizer.schedule.lr=1e-3".to_string(),
            "model.ch_mult=[1, 1]".to_string(),
            "run=runs/5".to_string(),
            "model.quantizer.kind=euclidean".to_string(),
            "model.quantizer.len=64".to_string(),
            "model.quantizer.dim=16".to_string(),
        ];
        let config = TrainConfig::parse("batch = 2", &overrides)?;
        assert_eq!(config.data, PathBuf::from("/some/where"));
        assert_eq!(config.optimizer.schedule.lr, 1e-3);
        assert_eq!(config.model.ch_mult, [1, 1]);
        assert_eq!(config.batch, 2);
        assert!(matches!(
            config.model.quantizer,
            QuantizerConfig::Euclidean { len: 64, dim: 16, legacy_beta: true, .. }
        ));
        Ok(())
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let error = |text: &str, overrides: &[String]| {
            let result = TrainConfig::parse(text, overrides);
            result.err().map(|e| format!("{e:#}")).unwrap_or_default()
        };
        let text = error("[optimizer]\nbeta3 = 1", &[]);
        assert!(text.contains("optimizer.beta3") && text.contains("optimizer.beta"), "{text}");
        let text = error("", &["bach=3".to_string()]);
        assert!(text.contains("bach") && text.contains("did you mean batch?"), "{text}");
        let text = error("batch = 0", &[]);
        assert!(text.contains("at least one picture"), "{text}");
    }

    #[test]
    fn a_longer_run_is_no_conflict_and_another_model_is() -> Result<()> {
        let a = TrainConfig::default();
        let longer = TrainConfig { steps: 99_999, ..a.clone() };
        assert!(a.conflicts(&longer)?.is_empty());
        let other = TrainConfig { batch: 9, ..a.clone() };
        assert_eq!(a.conflicts(&other)?, ["batch: 8 -> 9"]);
        Ok(())
    }
}
