//! Train steps, loops, optimiser state and run folders.
//!
//! [`train_vqgan`] runs a [`TrainConfig`] to its end in a run folder. It can be
//! killed at any time; the same call continues from the newest intact
//! checkpoint, and on the CPU a continued run equals an uninterrupted one bit
//! for bit: weights, order and augmentation are functions of (seed, step), see
//! [`ParameterStore`] and [`image_data::Batches`].
//!
//! [`VqTrainer::step`] is the method of the paper without the machinery around
//! it. Progress goes to an [`Observer`]: this crate knows no terminals.

mod adam;
mod average;
mod build;
mod checkpoint;
mod config;
mod elementwise;
mod event_log;
mod export;
mod fine_tune;
mod foreach;
mod guards;
mod init;
mod input;
mod meter;
mod metrics;
#[cfg(test)]
mod mixed_precision_tests;
mod observer;
mod perceptual_weights;
mod pictures;
mod preview;
mod readings;
mod revival;
mod run;
mod run_folder;
mod scale;
mod schedule;
mod step;
mod store;
mod transformer;
mod validation;
mod vqgan;

pub use adam::{Adam, AdamConfig};
pub use average::Average;
pub use build::{adversary, reconstruction_loss};
pub use checkpoint::{Checkpoints, Loaded, Progress};
pub use config::{
    AdversarialConfig, CheckpointConfig, Frame, GuardsConfig, InitConfig, InputKind, LogConfig,
    LossConfig, LrRule, OptimizerConfig, PerceptualKind, PicturesConfig, PixelLoss, Precision,
    Resizing, RevivalConfig, RunConfig, TrainConfig, UpdateOrder, ValidationConfig,
};
pub use event_log::EventLog;
pub use export::{write_model, written_input};
pub use guards::Guards;
pub use init::initial_value;
pub use meter::{MEASURED, Meter};
pub use metrics::MetricsLog;
pub use observer::{Event, Observer, Terms};
pub use pictures::{held_out_batches, open_pictures, training_crops};
pub use preview::write_preview;
pub use revival::Revival;
pub use run::{Limits, Summary};
pub use run_folder::RunFolder;
pub use scale::Scale;
pub use schedule::{Decay, Schedule};
pub use step::{Adversary, Perceptual, ReconstructionLoss, StepOutcome, VqTrainer};
pub use store::ParameterStore;
pub use transformer::{
    CodeExamples, CodeModel, Condition, ConditionSetting, Conditioning, DropoutConfig,
    ExampleBatch, GridCodec, HandOut, Labels, Lesson, ModelSetting, SamplingSetting,
    TransformerInit, TransformerOutcome, TransformerTrainConfig, TransformerTrainer,
    keep_or_replace, step_rng, train_transformer, write_samples,
};
pub use validation::{Quality, Validation, validate, validate_labels};
pub use vqgan::train_vqgan;
