//! `cargo xtask train vqgan`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use anyhow::Result;
use candle_core::Device;
use clap::{Args, Subcommand};
use training::{Limits, RunConfig, TrainConfig, train_vqgan};

use crate::interrupt;
use crate::plot::Plot;
use crate::progress::Progress;

#[derive(Subcommand)]
pub enum Train {
    /// Train a first stage on a folder of pictures
    Vqgan(Vqgan),
    /// Draw the curves of runs over one another
    Plot(Plot),
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
    /// Does what was asked for.
    pub fn run(self) -> Result<ExitCode> {
        match self {
            Self::Vqgan(vqgan) => vqgan.run(),
            Self::Plot(plot) => plot.run().map(|()| ExitCode::SUCCESS),
        }
    }
}

impl Vqgan {
    /// Trains to the end of the run, or until Ctrl-C.
    fn run(self) -> Result<ExitCode> {
        let config = TrainConfig::read(&self.config, &self.settings)?;
        let mut progress = Progress::new(self.plain);
        let asked = interrupt::listen()?;
        let limits = Limits { stop: Some(asked), ..Limits::default() };
        let summary = train_vqgan(&config, &Device::Cpu, limits, &mut progress)?;
        progress.finish();
        let state = if summary.finished { "finished" } else { "stopped; run it again to go on" };
        println!("{state} at step {}", summary.step);
        println!(
            "try it: synth-cli reconstruct --model {} PICTURE.png --compare",
            summary.model.display()
        );
        let interrupted = !summary.finished && asked.load(Ordering::Relaxed);
        Ok(if interrupted { interrupt::EXIT_CODE.into() } else { ExitCode::SUCCESS })
    }
}
