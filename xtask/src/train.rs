//! `cargo xtask train vqgan`.

use std::path::PathBuf;

use anyhow::Result;
use candle_core::Device;
use clap::{Args, Subcommand};
use training::{Limits, RunConfig, TrainConfig, train_vqgan};

use crate::progress::Progress;

#[derive(Subcommand)]
pub enum Train {
    /// Train a first stage on a folder of pictures
    Vqgan(Vqgan),
}

#[derive(Args)]
pub struct Vqgan {
    /// The configuration, a TOML file; assets/configs has some
    #[arg(long)]
    config: PathBuf,
    /// Show lines instead of a bar
    #[arg(long)]
    plain: bool,
    /// Settings of the configuration to change: data=FOLDER run=FOLDER
    /// optimizer.schedule.lr=1e-4 ...
    #[arg(value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

impl Train {
    /// Trains to the end of the run.
    pub fn run(self) -> Result<()> {
        let Self::Vqgan(arguments) = self;
        let config = TrainConfig::read(&arguments.config, &arguments.settings)?;
        let mut progress = Progress::new(arguments.plain);
        let summary = train_vqgan(&config, &Device::Cpu, Limits::default(), &mut progress)?;
        progress.finish();
        let state = if summary.finished { "finished" } else { "stopped; run it again to go on" };
        println!("{state} at step {}", summary.step);
        println!(
            "try it: synth-cli reconstruct --model {} PICTURE.png --compare",
            summary.model.display()
        );
        Ok(())
    }
}
