//! Everything a second-stage run can be told, as one TOML file.

mod condition;

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use cond_transformer::Order;
use serde::{Deserialize, Serialize};

use crate::config::{
    CheckpointConfig, Frame, LogConfig, OptimizerConfig, PicturesConfig, Precision, RunConfig,
    ValidationConfig,
};

pub use condition::ConditionSetting;

/// The configuration of a second-stage run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TransformerTrainConfig {
    /// Folder of pictures (split by its `train.txt` and `val.txt`, or by a hash of
    /// names), or codes that `synth-cli encode` wrote: a file, or a folder of files.
    pub data: PathBuf,
    /// The first stage: a run or model folder.
    pub first_stage: PathBuf,
    /// Run folder: checkpoints, logs, previews and the finished model.
    pub run: PathBuf,
    /// Decides initial weights, order, crops, noise and dropout.
    pub seed: u64,
    /// Updates in the whole run.
    pub steps: u64,
    /// Stop (with a checkpoint) after so many minutes of this process; 0: no
    /// limit.
    pub minutes: f64,
    /// What the transformer computes in. The loss is f32.
    pub precision: Precision,
    /// Sequences in a batch.
    pub batch: usize,
    /// Batches whose gradients are averaged for one update.
    pub accumulate: usize,
    /// What the model card says about the data and its licence.
    pub data_card: String,
    /// Start from a model that was trained before instead of noise.
    pub init: TransformerInit,
    /// How pictures are cut before the first stage reads them.
    pub pictures: PicturesConfig,
    /// Crops of each picture that are encoded; each is an example.
    pub crops: usize,
    /// What comes in front of the codes.
    pub condition: ConditionSetting,
    /// The order in which a grid's codes come.
    pub order: Order,
    /// Probability that a code the model reads is the true one; others are drawn at
    /// random. What it has to predict stays true. 1: no noise.
    pub pkeep: f64,
    /// Dropout.
    pub dropout: DropoutConfig,
    /// AdamW, clipping, averaging of weights and the learning rate.
    pub optimizer: OptimizerConfig,
    /// Held-out measurements.
    pub validation: ValidationConfig,
    /// Metrics and previews.
    pub log: LogConfig,
    /// When to save and what to keep.
    pub checkpoint: CheckpointConfig,
    /// Which weights the model folder holds.
    pub hand_out: HandOut,
    /// How previews are drawn, and what the model folder recommends.
    pub sampling: SamplingSetting,
    /// The architecture.
    pub model: ModelSetting,
}

/// Where a run starts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TransformerInit {
    /// Any transformer that `synth-cli` reads: a model or run folder, a reference run folder,
    /// or a weights file (with `config`). Empty: start from noise. The architecture is its
    /// own, and `[model]` is left out. It may have had another condition: rows that are new
    /// start from noise.
    pub model: PathBuf,
    /// Of a weights file: its project file (YAML), `config.json`, or a preset's name.
    pub config: PathBuf,
    /// Take the optimiser's moments along, out of a run folder of ours. Weights are then
    /// those that were trained; without it those that the run hands out, which may be an
    /// average.
    pub optimizer: bool,
}

/// Which weights of a run its model folder holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HandOut {
    /// Those with the best held-out likelihood.
    #[default]
    Best,
    /// The latest. Where every concept was seen in one or two pictures, the held-out
    /// likelihood, which is of other concepts, rises long before the samples of known ones
    /// stop getting better.
    Last,
}

/// Shares of activations that a training step leaves out, the others scaled up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DropoutConfig {
    /// Of the embedded sequence (minGPT `embd_pdrop`, LlamaGen `token_dropout_p`).
    pub embedding: f64,
    /// Of what attention and feed-forward part add (`resid_pdrop`, `resid_dropout_p`
    /// and, in LlamaGen, `ffn_dropout_p`).
    pub residual: f64,
    /// Of attention weights (`attn_pdrop`).
    pub attention: f64,
}

/// How codes are drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SamplingSetting {
    /// Divides the logits.
    pub temperature: f64,
    /// Keeps the k likeliest codes; 0: all.
    pub top_k: usize,
    /// Keeps the likeliest codes up to this probability; 1: all.
    pub top_p: f64,
    /// Guidance towards the condition; 1: none.
    pub cfg_scale: f64,
}

impl Default for SamplingSetting {
    fn default() -> Self {
        Self { temperature: 1.0, top_k: 0, top_p: 0.95, cfg_scale: 1.0 }
    }
}

/// The architecture. Vocabulary and context follow from the first stage and the
/// condition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ModelSetting {
    /// minGPT-style (VQGAN).
    Gpt {
        /// Blocks.
        n_layer: usize,
        /// Attention heads; divides `n_embd`.
        n_head: usize,
        /// Width.
        n_embd: usize,
    },
    /// LLaMA-style (LlamaGen): square grids, no condition or a class.
    Llama {
        /// Blocks.
        n_layer: usize,
        /// Attention heads; `dim / n_head` is a multiple of 4.
        n_head: usize,
        /// Width.
        dim: usize,
        /// The hidden width of the feed-forward part is a multiple of this.
        multiple_of: usize,
    },
}

impl Default for TransformerTrainConfig {
    fn default() -> Self {
        let mut optimizer = OptimizerConfig::default();
        optimizer.adam.beta1 = 0.9;
        optimizer.adam.beta2 = 0.95;
        optimizer.adam.weight_decay = 0.01;
        Self {
            data: PathBuf::new(),
            first_stage: PathBuf::new(),
            run: PathBuf::from("runs/transformer"),
            seed: 23,
            steps: 10_000,
            minutes: 0.0,
            precision: Precision::default(),
            batch: 8,
            accumulate: 1,
            data_card: String::new(),
            init: TransformerInit::default(),
            pictures: PicturesConfig::default(),
            crops: 1,
            condition: ConditionSetting::None {},
            order: Order::Identity,
            pkeep: 1.0,
            dropout: DropoutConfig::default(),
            optimizer,
            validation: ValidationConfig::default(),
            log: LogConfig::default(),
            checkpoint: CheckpointConfig::default(),
            hand_out: HandOut::default(),
            sampling: SamplingSetting::default(),
            model: ModelSetting::Gpt { n_layer: 4, n_head: 4, n_embd: 128 },
        }
    }
}

impl RunConfig for TransformerTrainConfig {
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
            "first_stage",
            "condition.codec",
            "pictures.workers",
            "pictures.cache_mb",
            "sampling.",
        ]
    }

    fn of_others() -> &'static [(&'static str, &'static str)] {
        &[
            ("init.partial", "only `train vqgan` has it; a transformer is built as init.model was"),
            ("init.keep_codes", "only `train vqgan` has it; a transformer's first stage stays"),
            ("init.discriminator", "only `train vqgan` has it; a transformer trains against none"),
        ]
    }

    fn validate(&self) -> Result<()> {
        ensure!(self.batch > 0, "batch = 0: an update needs at least one sequence");
        ensure!(self.accumulate > 0, "accumulate = 0: an update needs at least one batch");
        ensure!(self.steps > 0, "steps = 0: nothing to train");
        ensure!(self.crops > 0, "crops = 0: no pictures to learn from");
        ensure!(
            self.pictures.side > 0 && self.pictures.largest >= self.pictures.side,
            "pictures.largest = {} is below pictures.side = {}, or there is no side",
            self.pictures.largest,
            self.pictures.side
        );
        ensure!(
            self.pictures.smallest <= self.pictures.largest,
            "pictures.smallest = {} is above pictures.largest = {}",
            self.pictures.smallest,
            self.pictures.largest
        );
        let lr = self.optimizer.schedule.lr;
        ensure!(lr.is_finite() && lr > 0.0, "optimizer.schedule.lr = {lr} is not positive");
        let ema = self.optimizer.ema;
        ensure!((0.0..1.0).contains(&ema), "optimizer.ema = {ema} is not in [0, 1)");
        ensure!((0.0..=1.0).contains(&self.pkeep), "pkeep = {} is not in [0, 1]", self.pkeep);
        for (name, share) in [
            ("dropout.embedding", self.dropout.embedding),
            ("dropout.residual", self.dropout.residual),
            ("dropout.attention", self.dropout.attention),
        ] {
            ensure!((0.0..1.0).contains(&share), "{name} = {share} is not in [0, 1)");
        }
        self.condition.validate(&self.model)
    }
}

impl TransformerTrainConfig {
    /// The name of the run, for cards.
    pub fn name(&self) -> String {
        let name = Path::new(&self.run).file_name();
        name.map_or("transformer".to_owned(), |name| name.to_string_lossy().into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_survive_a_round_trip() -> Result<()> {
        let config = TransformerTrainConfig::default();
        assert_eq!(TransformerTrainConfig::parse(&config.to_toml()?, &[])?, config);
        Ok(())
    }

    #[test]
    fn presets_are_valid() -> Result<()> {
        for text in [
            include_str!("../../../../assets/configs/tiny-transformer.toml"),
            include_str!("../../../../assets/configs/small-transformer.toml"),
            include_str!("../../../../assets/configs/emoji-transformer.toml"),
            include_str!("../../../../assets/configs/llamagen-b.toml"),
            include_str!("../../../../assets/configs/taming-cin-transformer.toml"),
        ] {
            TransformerTrainConfig::parse(text, &[])?;
        }
        Ok(())
    }

    #[test]
    fn kinds_bring_their_own_keys() -> Result<()> {
        let overrides = [
            "first-stage=runs/vqgan".to_owned(),
            "model.kind=llama".to_owned(),
            "model.n_layer=2".to_owned(),
            "model.n_head=2".to_owned(),
            "model.dim=64".to_owned(),
            "model.multiple_of=16".to_owned(),
            "condition.kind=class".to_owned(),
            "condition.drop=0.1".to_owned(),
        ];
        // The kind in the file goes with its keys, wherever the new one is named.
        let text = "[model]\nkind = \"gpt\"\nn_layer = 9\nn_head = 1\nn_embd = 8";
        let mut late = overrides.to_vec();
        late.rotate_left(2);
        let config = TransformerTrainConfig::parse(text, &late)?;
        assert_eq!(config, TransformerTrainConfig::parse("", &overrides)?);
        assert_eq!(config.first_stage, PathBuf::from("runs/vqgan"));
        assert_eq!(config.condition, ConditionSetting::Class { drop: 0.1 });
        assert!(matches!(config.model, ModelSetting::Llama { dim: 64, .. }));
        Ok(())
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let error = |overrides: &[&str]| {
            let overrides: Vec<_> = overrides.iter().map(|&o| o.to_owned()).collect();
            let result = TransformerTrainConfig::parse("", &overrides);
            result.err().map(|e| format!("{e:#}")).unwrap_or_default()
        };
        let text = error(&["dropout.atention=0.1"]);
        assert!(text.contains("did you mean dropout.attention?"), "{text}");
        let text = error(&["model.n_embed=64"]);
        assert!(text.contains("n_embed"), "{text}");
        let text = error(&["pkeep=1.5"]);
        assert!(text.contains("pkeep"), "{text}");
    }
}
