//! `cargo xtask export`: a run's newest checkpoint as a model folder.

use std::path::PathBuf;

use anyhow::{Context, Result};
use candle_core::{DType, Device};
use clap::{Args, ValueEnum};
use training::{Checkpoints, RunConfig, TrainConfig, write_model, written_input};

#[derive(Args)]
pub struct Export {
    /// The run folder
    run: PathBuf,
    /// The model folder to write
    #[arg(long)]
    output: PathBuf,
    /// The type of the weights; half the size costs little quality
    #[arg(long, value_enum, default_value_t = Weights::F32)]
    dtype: Weights,
}

#[derive(Clone, Copy, ValueEnum)]
enum Weights {
    F32,
    F16,
    Bf16,
}

impl Export {
    /// Reads the checkpoint and writes the folder.
    pub fn run(self) -> Result<()> {
        let config = TrainConfig::read(&self.run.join("config.toml"), &[])?;
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
        write_model(&self.output, &config, &input, loaded.progress.step, &weights, None)?;
        println!("{}", self.output.display());
        Ok(())
    }
}
