//! The sections of a [`TrainConfig`](super::TrainConfig).

use std::path::PathBuf;

use discriminator::{DiscriminatorLoss, GeneratorLoss, PatchGanConfig};
use serde::{Deserialize, Serialize};

use crate::adam::AdamConfig;
use crate::schedule::{Decay, Schedule};

/// How a picture becomes the square that the model sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resizing {
    /// Any square at any scale, see [`PicturesConfig::largest`].
    #[default]
    Scales,
    /// taming-transformers: the shorter side to `side`, without anti-aliasing, then a
    /// random crop.
    Taming,
    /// LlamaGen: ADM's random crops, anti-aliased.
    Adm,
}

/// The model that a run starts from: fine-tuning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct InitConfig {
    /// Any model that `synth-cli` reads: a model or run folder, a reference run folder,
    /// or a weights file (with `config`). Empty: start from noise. The architecture is
    /// its own, and `[model]` is left out.
    pub model: PathBuf,
    /// Of a weights file: its project file (YAML), `config.json`, or a preset's name.
    pub config: PathBuf,
    /// Take its discriminator along, where it has one and this run trains one.
    pub discriminator: bool,
    /// Take the optimisers' moments along, out of a run folder of ours. Weights are then
    /// those that were trained; without it those that the run hands out, which may be an
    /// average.
    pub optimizer: bool,
    /// Build what `[model]` says, and take of the model's weights those that have the same
    /// name and shape; the others start from noise. For a level more, or another codebook.
    /// First stages only.
    pub partial: bool,
    /// Train the decoder alone: encoder and codebook stay as the model has them. Pictures then
    /// keep their codes, and transformers over these stay good (`synth-cli convert
    /// --first-stage` gives them the new decoder). First stages only.
    pub keep_codes: bool,
}

impl Default for InitConfig {
    fn default() -> Self {
        Self {
            model: PathBuf::new(),
            config: PathBuf::new(),
            discriminator: true,
            optimizer: false,
            partial: false,
            keep_codes: false,
        }
    }
}

/// The pictures and their augmentation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PicturesConfig {
    /// Side of the square crops the model sees, in pixels.
    pub side: usize,
    /// Before the crop a picture is resized so that its shorter side is drawn
    /// from `smallest..=largest`: with `largest = side` it is always (nearly) the
    /// whole picture.
    pub largest: usize,
    /// See `largest`; below `side` (0, the default) it is `side`. With
    /// `smallest = largest` crops are pieces of pictures of one size.
    pub smallest: usize,
    /// Fraction of examples whose shorter side is exactly `side`: whole
    /// pictures among the details.
    pub whole: f64,
    /// Mirror half of the examples.
    pub flip: bool,
    /// How pictures are brought to size; `largest` and `whole` are for `scales`.
    pub resize: Resizing,
    /// Threads that decode ahead of the step; 0: none.
    pub workers: usize,
    /// Megabytes of decoded pictures that are kept in memory.
    pub cache_mb: u64,
}

impl Default for PicturesConfig {
    fn default() -> Self {
        Self {
            side: 32,
            largest: 32,
            smallest: 0,
            whole: 0.0,
            flip: true,
            resize: Resizing::default(),
            workers: 1,
            cache_mb: 256,
        }
    }
}

/// The difference between picture and reconstruction that the pixels pay for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PixelLoss {
    /// Mean absolute difference: taming-transformers.
    L1,
    /// Mean squared difference: LlamaGen.
    L2,
    /// Mean binary cross entropy of logits, for label maps: `BCELossWithQuant` of
    /// taming-transformers.
    Bce,
}

/// What compares pictures as people do, or nearly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PerceptualKind {
    /// LPIPS (Zhang et al. 2018), whose weights have to be given.
    Lpips,
    /// [`perceptual::Substitute`]: random features and a pyramid, without weights.
    Substitute,
}

/// The loss terms of the autoencoder and their weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LossConfig {
    /// Which pixel loss; its weight is 1.
    pub pixel: PixelLoss,
    /// Weight of the perceptual loss; 0 leaves it out. The reference has 1.
    pub perceptual_weight: f64,
    /// Which perceptual loss.
    pub perceptual: PerceptualKind,
    /// The weights of LPIPS: a whole network (LPIPS's own `.pth`), a reference VQGAN
    /// checkpoint, which holds one under `loss.perceptual_loss.`, or torchvision's
    /// VGG-16 (`vgg16-397923af.pth`), which needs `perceptual_heads`.
    pub perceptual_file: PathBuf,
    /// The heads of LPIPS (`vgg.pth`, keys `lin0.model.1.weight` ...), where
    /// `perceptual_file` holds none.
    /// Both may be `owner/name[@revision]:FILE` on the hub.
    pub perceptual_heads: PathBuf,
    /// Weight of the quantizer's own losses.
    pub codebook_weight: f64,
}

impl Default for LossConfig {
    fn default() -> Self {
        Self {
            pixel: PixelLoss::L1,
            perceptual_weight: 0.0,
            perceptual: PerceptualKind::Lpips,
            perceptual_file: PathBuf::new(),
            perceptual_heads: PathBuf::new(),
            codebook_weight: 1.0,
        }
    }
}

/// In which order the two optimisers of a step work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateOrder {
    /// One forward pass; the discriminator learns from the reconstruction the
    /// autoencoder was trained with (LlamaGen).
    SingleForward,
    /// The discriminator sees the reconstruction of the already updated
    /// autoencoder: a second forward pass (taming-transformers under
    /// pytorch-lightning 1.0.8).
    Reference,
}

/// The adversarial term and its discriminator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdversarialConfig {
    /// Weight of the adversarial loss; 0 leaves the discriminator out.
    pub weight: f64,
    /// Multiply the weight by eq. 7 of the paper: the ratio of the gradients
    /// of reconstruction and adversarial loss at the decoder's last layer.
    pub adaptive: bool,
    /// The step (batches, from 0) at which the adversarial loss sets in.
    pub start: u64,
    /// Steps over which the adversarial loss then rises to its weight.
    pub ramp: u64,
    /// Leave the discriminator out of the steps before `start`. The references
    /// run it there with a weight of 0, which moves its batch statistics and
    /// its optimiser's step count.
    pub sleep: bool,
    /// Weight of the discriminator's own loss, its penalties included.
    pub critic_weight: f64,
    /// The discriminator's learning rate as a multiple of the autoencoder's.
    pub lr_ratio: f64,
    /// Weight of LeCam regularisation (Tseng et al. 2021); 0: none. MAGVIT has 0.001.
    pub lecam: f64,
    /// The γ of the R1 penalty (Mescheder et al. 2018), half of which is the weight of the
    /// squared gradient at real pictures; 0: none.
    pub r1: f64,
    /// Steps between two R1 penalties, each then counting as many times (Karras et al.
    /// 2020, "lazy regularisation").
    pub r1_every: u64,
    /// What the discriminator minimises.
    pub critic_loss: DiscriminatorLoss,
    /// What the autoencoder minimises of its logits.
    pub generator_loss: GeneratorLoss,
    /// Order of the two updates.
    pub order: UpdateOrder,
    /// The discriminator's size.
    pub patchgan: PatchGanConfig,
}

impl Default for AdversarialConfig {
    fn default() -> Self {
        Self {
            weight: 0.0,
            adaptive: true,
            start: 0,
            ramp: 0,
            sleep: true,
            critic_weight: 1.0,
            lr_ratio: 1.0,
            lecam: 0.0,
            r1: 0.0,
            r1_every: 1,
            critic_loss: DiscriminatorLoss::Hinge,
            generator_loss: GeneratorLoss::Hinge,
            order: UpdateOrder::SingleForward,
            patchgan: PatchGanConfig::default(),
        }
    }
}

/// What the schedule's learning rate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LrRule {
    /// The learning rate.
    Absolute,
    /// The learning rate for one picture, to be multiplied by those of an update: the
    /// reference's `base_learning_rate` (4.5e-6 in each of its configurations), which
    /// `main.py` multiplies by batch size and accumulated batches.
    PerPicture,
}

/// Adam and what surrounds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OptimizerConfig {
    /// Adam's constants.
    pub adam: AdamConfig,
    /// Largest norm of all gradients together; 0: no clipping.
    pub clip: f64,
    /// Decay of an average of the weights, which is what validation, previews
    /// and the model folder use; 0: the weights themselves.
    pub ema: f64,
    /// Whether the schedule's `lr` is for an update or for a picture of it.
    pub lr_rule: LrRule,
    /// The learning rate over the run.
    pub schedule: Schedule,
    /// Steps in a row without a finite loss or gradient that are skipped; at one
    /// more the run stops.
    pub patience: u64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            adam: AdamConfig::default(),
            clip: 0.0,
            ema: 0.0,
            lr_rule: LrRule::Absolute,
            schedule: Schedule { lr: 1e-4, warmup: 0, decay: Decay::Constant, floor: 0.0 },
            patience: 20,
        }
    }
}

/// Replacement of codes that nothing uses by vectors of the encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RevivalConfig {
    /// Steps over which use is counted, and between two revivals; 0: never.
    pub every: u64,
    /// No revival after this fraction of the run, so that codes settle.
    pub until: f64,
}

impl Default for RevivalConfig {
    fn default() -> Self {
        Self { every: 0, until: 0.8 }
    }
}

/// When a run warns of what does not stop it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GuardsConfig {
    /// Warn when a smaller fraction of the codebook than this is among the last
    /// codes (65536, or four times the codebook); 0: never.
    pub usage: f64,
    /// Warn when the discriminator is right in more than this fraction of patches,
    /// both of pictures and of reconstructions; 1: never.
    pub accuracy: f64,
    /// Steps for which it has to be so; accuracies are averaged over as many.
    pub patience: u64,
}

impl Default for GuardsConfig {
    fn default() -> Self {
        Self { usage: 0.1, accuracy: 0.98, patience: 200 }
    }
}

/// Held-out measurements.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ValidationConfig {
    /// Steps between two validations; 0: only at the end.
    pub every: u64,
    /// Pictures to measure on, spread over the held-out list.
    pub pictures: usize,
    /// Without a `val.txt`: the fraction of pictures held out.
    pub fraction: f64,
}

impl Default for ValidationConfig {
    fn default() -> Self {
        Self { every: 500, pictures: 64, fraction: 0.05 }
    }
}

/// Metrics and previews.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogConfig {
    /// Steps between two lines of `metrics.jsonl`.
    pub every: u64,
    /// Steps between two preview grids; 0: only at the end.
    pub preview_every: u64,
    /// Held-out pictures in a preview.
    pub preview_pictures: usize,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { every: 10, preview_every: 500, preview_pictures: 8 }
    }
}

/// When to save and what to keep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckpointConfig {
    /// Steps between two checkpoints; 0: by time only.
    pub every: u64,
    /// Minutes between two checkpoints; 0: by steps only. One is always
    /// written at the end.
    pub minutes: f64,
    /// Newest checkpoints to keep.
    pub keep: usize,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { every: 0, minutes: 5.0, keep: 2 }
    }
}
