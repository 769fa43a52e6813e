//! The second stage: a transformer that learns to draw the codes of a first stage.
//!
//! | file | what |
//! |---|---|
//! | `config` | everything a run can be told |
//! | `tokenise` | pictures to codes, once, into the run folder |
//! | `examples` | code sequences and their conditions; batches of them |
//! | `grids` | conditions that are codes of maps or small pictures |
//! | `condition` | what comes in front of the codes, and its rows in the vocabulary |
//! | `model` | both architectures under one roof |
//! | `step` | one update: noise, cross entropy, gradients, AdamW |
//! | `fine_tune` | starting from a transformer that was trained before |
//! | `carry` | which of its rows become which of ours |
//! | `samples` | pictures drawn with a finished model folder |
//! | `run` | the stage that the shared loop drives |

mod carry;
mod condition;
mod config;
mod examples;
mod export;
mod fine_tune;
mod grids;
mod model;
mod noise;
mod preview;
mod run;
mod samples;
mod step;
mod tokenise;
mod validation;

pub use condition::{Condition, Conditioning, Labels};
pub use config::{
    ConditionSetting, DropoutConfig, HandOut, ModelSetting, SamplingSetting, TransformerInit,
    TransformerTrainConfig,
};
pub use examples::{CodeExamples, ExampleBatch};
pub use grids::GridCodec;
pub use model::{CodeModel, Lesson};
pub use noise::{keep_or_replace, step_rng};
pub use run::train_transformer;
#[cfg(test)]
pub(crate) use run::train_transformer_in;
pub use samples::write_samples;
pub use step::{TransformerOutcome, TransformerTrainer};
