//! `cargo xtask train`: first stages, transformers, both of them, curves.

mod all;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use candle_core::Device;
use clap::{Args, Subcommand};
use training::{
    ConditionSetting, InputKind, Limits, RunConfig, Summary, TrainConfig, TransformerTrainConfig,
    train_transformer, train_vqgan,
};

use crate::interrupt;
use crate::plot::Plot;
use crate::progress::Progress;

#[derive(Subcommand)]
pub enum Train {
    /// Train a first stage on a folder of pictures, or on the maps beside them
    Vqgan(Run),
    /// Train a transformer on the codes of a first stage
    Transformer(Run),
    /// Train both on a folder of pictures, and draw samples
    All(all::All),
    /// Draw the curves of runs over one another
    Plot(Plot),
}

#[derive(Args)]
pub struct Run {
    /// The configuration, a TOML file; assets/configs has some
    #[arg(long)]
    config: PathBuf,
    /// Show lines instead of a bar
    #[arg(long)]
    plain: bool,
    /// Where to train: cpu, cuda or cuda:N (a build with the feature cuda)
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Let a GPU round factors to TF32: faster, with errors of 1e-3 instead of 1e-6
    #[arg(long)]
    tf32: bool,
    /// Settings of the configuration to change: data=FOLDER run=FOLDER
    /// first-stage=FOLDER optimizer.schedule.lr=1e-4 ...
    #[arg(value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

impl Train {
    /// Does what was asked for: trains to the end of a run, or until Ctrl-C.
    pub fn run(self) -> Result<ExitCode> {
        match self {
            Self::Vqgan(run) => {
                let config = TrainConfig::read(&run.config, &run.settings)?;
                let mut process = Process::new(run.plain, &run.device, run.tf32)?;
                let summary = process.first_stage(&config)?;
                println!("{}", after_first_stage(&config, &summary));
                Ok(process.exit(&summary))
            }
            Self::Transformer(run) => {
                let config = TransformerTrainConfig::read(&run.config, &run.settings)?;
                let mut process = Process::new(run.plain, &run.device, run.tf32)?;
                let summary = process.second_stage(&config)?;
                println!("try it: {}", generate_command(&config, &summary));
                Ok(process.exit(&summary))
            }
            Self::All(all) => all.run(),
            Self::Plot(plot) => plot.run().map(|()| ExitCode::SUCCESS),
        }
    }
}

/// A process that trains, shows how it goes, and listens to Ctrl-C.
struct Process {
    plain: bool,
    device: Device,
    asked: &'static AtomicBool,
}

impl Process {
    fn new(plain: bool, device: &str, tf32: bool) -> Result<Self> {
        layers::cuda::allow_tf32(tf32);
        let device = pipeline::parse_device(device)?;
        Ok(Self { plain, device, asked: interrupt::listen()? })
    }

    fn limits(&self) -> Limits {
        Limits { stop: Some(self.asked), ..Limits::default() }
    }

    /// Trains a first stage.
    fn first_stage(&mut self, config: &TrainConfig) -> Result<Summary> {
        let mut progress = Progress::new(self.plain);
        let summary = train_vqgan(config, &self.device, self.limits(), &mut progress)?;
        progress.finish();
        say_end(&summary);
        Ok(summary)
    }

    /// Trains a transformer.
    fn second_stage(&mut self, config: &TransformerTrainConfig) -> Result<Summary> {
        let mut progress = Progress::new(self.plain);
        let summary = train_transformer(config, &self.device, self.limits(), &mut progress)?;
        progress.finish();
        say_end(&summary);
        Ok(summary)
    }

    /// How the process ends.
    fn exit(&self, summary: &Summary) -> ExitCode {
        let interrupted = !summary.finished && self.asked.load(Ordering::Relaxed);
        if interrupted { interrupt::EXIT_CODE.into() } else { ExitCode::SUCCESS }
    }
}

fn say_end(summary: &Summary) {
    let state = if summary.finished { "finished" } else { "stopped; run it again to go on" };
    println!("{state} at step {}", summary.step);
}

/// What to do with the first stage of a run.
fn after_first_stage(config: &TrainConfig, summary: &Summary) -> String {
    let model = summary.model.display();
    match config.input {
        InputKind::Pictures => {
            format!("try it: synth-cli reconstruct --model {model} PICTURE.png --compare")
        }
        InputKind::Labels | InputKind::Depth => {
            format!("{model} reads maps, not pictures: it is for the condition of a transformer")
        }
    }
}

/// What draws pictures with the model of a run.
fn generate_command(config: &TransformerTrainConfig, summary: &Summary) -> String {
    let condition = match config.condition {
        ConditionSetting::None {} => "",
        ConditionSetting::Class { .. } => " --class NAME",
        ConditionSetting::Text { .. } => " --prompt TEXT",
        ConditionSetting::Grid { .. } => " --condition FILE",
    };
    format!("synth-cli generate --model {}{condition} --count 9 --grid", summary.model.display())
}
