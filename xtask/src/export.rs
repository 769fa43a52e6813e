//! `cargo xtask export`: what a run has learned as a model folder.
//!
//! Of a first stage, the newest checkpoint; of a transformer, the model that the run keeps
//! (that of the best held-out likelihood), its codecs inside.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device};
use clap::{Args, ValueEnum};
use pipeline::{CopyOptions, TransformerFolder};
use training::{
    Checkpoints, RunConfig, TrainConfig, TransformerTrainConfig, write_model, written_input,
};

#[derive(Args)]
pub struct Export {
    /// The run folder
    run: PathBuf,
    /// The model folder to write
    #[arg(long)]
    output: PathBuf,
    /// The type of the weights, those of a transformer's codecs included; half the size
    /// costs little quality
    #[arg(long, value_enum, default_value_t = Weights::F32)]
    dtype: Weights,
    /// Of a transformer: name this codec, a path relative to OUTPUT, instead of copying the
    /// first stage (models that lie beside one another can share it)
    #[arg(long, value_name = "PATH")]
    shared_first_stage: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Weights {
    F32,
    F16,
    Bf16,
}

impl Export {
    /// Writes the folder.
    pub fn run(self) -> Result<()> {
        let model = self.run.join("model");
        if TransformerFolder::is_one(&model) {
            self.transformer(&model)?;
        } else {
            ensure!(
                self.shared_first_stage.is_none(),
                "--shared-first-stage is for transformers, and {} is the run of a first stage",
                self.run.display()
            );
            self.first_stage()?;
        }
        println!("{}", self.output.display());
        Ok(())
    }

    /// Copies the model of a transformer's run.
    fn transformer(&self, model: &Path) -> Result<()> {
        let dtype = match self.dtype {
            // As it was trained; a codec of less is not blown up.
            Weights::F32 => None,
            Weights::F16 => Some(DType::F16),
            Weights::Bf16 => Some(DType::BF16),
        };
        let trained = TransformerFolder::open(model)?;
        let shared_first_stage = self.shared_first_stage.clone();
        let options =
            CopyOptions { dtype, replace: true, shared_first_stage, ..CopyOptions::default() };
        let written = trained.copy(&self.output, &options)?;
        if written.config.first_stage.codec_sha256 != trained.config.first_stage.codec_sha256 {
            eprintln!(
                "note: the first stage was rounded, and is another codec now: codes that the one \
                 before made are not its own"
            );
        }
        Ok(())
    }

    /// Reads the newest checkpoint of a first stage.
    fn first_stage(&self) -> Result<()> {
        let path = self.run.join("config.toml");
        let settings = TransformerTrainConfig::read(&path, &[]);
        if settings.is_ok_and(|config| !config.first_stage.as_os_str().is_empty()) {
            bail!(
                "{} is the run of a transformer and has no model yet: it comes with the first \
                 checkpoint, go on training",
                self.run.display()
            );
        }
        let config = TrainConfig::read(&path, &[])?;
        let checkpoints = Checkpoints::new(self.run.join("checkpoints"), 1);
        let (loaded, complaints) = checkpoints.newest(&Device::Cpu)?;
        for complaint in complaints {
            eprintln!("warning: {complaint}");
        }
        let loaded =
            loaded.with_context(|| format!("{} has no intact checkpoint", self.run.display()))?;
        let dtype = match self.dtype {
            Weights::F32 => DType::F32,
            Weights::F16 => DType::F16,
            Weights::Bf16 => DType::BF16,
        };
        let section = if config.optimizer.ema > 0.0 { "average." } else { "model." };
        let weights = loaded
            .section(section)
            .into_iter()
            .map(|(name, tensor)| Ok((name, tensor.to_dtype(dtype)?)))
            .collect::<Result<_>>()?;
        let input = written_input(&self.run, &config);
        write_model(&self.output, &config, &input, loaded.progress.step, &weights, None)
    }
}
