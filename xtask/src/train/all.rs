//! `cargo xtask train all`: from a folder of pictures to samples.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use training::{
    ConditionSetting, Labels, RunConfig, TrainConfig, TransformerTrainConfig, write_samples,
};

use super::{Process, generate_command};

const FIRST: &str = include_str!("../../../assets/configs/tiny.toml");
const SECOND: &str = include_str!("../../../assets/configs/tiny-transformer.toml");
/// What is set anew in both, so that all of it takes some ten minutes on two cores: 8x8
/// codes a picture.
const FIRST_SETTINGS: [&str; 3] =
    ["steps=1200", "model.ch_mult=[1, 2, 2]", "model.quantizer.len=512"];
/// Pictures in the grid of samples.
const SAMPLES: usize = 25;

#[derive(Args)]
pub struct All {
    /// Show lines instead of bars
    #[arg(long)]
    plain: bool,
    /// Where to train: cpu, cuda or cuda:N (a build with the feature cuda)
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Let a GPU round factors to TF32: faster, with errors of 1e-3 instead of 1e-6
    #[arg(long)]
    tf32: bool,
    /// data=FOLDER, run=FOLDER (runs/all), and settings of either stage:
    /// vqgan.steps=4000 transformer.condition.kind=class ...
    #[arg(value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

/// What the settings say.
struct Plan {
    run: PathBuf,
    first: TrainConfig,
    second: TransformerTrainConfig,
}

impl Plan {
    fn new(settings: &[String]) -> Result<Self> {
        let (mut run, mut data) = (PathBuf::from("runs/all"), None);
        let mut first: Vec<String> = FIRST_SETTINGS.map(str::to_owned).to_vec();
        let mut second = Vec::new();
        for setting in settings {
            match setting.split_once('=') {
                Some(("run", value)) => run = PathBuf::from(value),
                Some(("data", value)) => data = Some(value),
                Some((key, _)) if key.starts_with("vqgan.") => {
                    first.push(setting["vqgan.".len()..].to_owned());
                }
                Some((key, _)) if key.starts_with("transformer.") => {
                    second.push(setting["transformer.".len()..].to_owned());
                }
                _ => bail!(
                    "{setting:?}: the settings here are data=FOLDER, run=FOLDER, vqgan.KEY=VALUE \
                     and transformer.KEY=VALUE"
                ),
            }
        }
        let Some(data) = data else {
            bail!("no pictures: give a folder with data=FOLDER");
        };
        let stage = |name: &str| run.join(name).display().to_string();
        for list in [&mut first, &mut second] {
            list.push(format!("data={data}"));
            list.push("data_card=".to_owned());
        }
        first.push(format!("run={}", stage("vqgan")));
        second.push(format!("run={}", stage("transformer")));
        second.push(format!("first_stage={}", stage("vqgan")));
        Ok(Self {
            first: TrainConfig::parse(FIRST, &first)?,
            second: TransformerTrainConfig::parse(SECOND, &second)?,
            run,
        })
    }
}

impl All {
    /// Trains both stages, each from where it stands, and draws samples.
    pub fn run(self) -> Result<ExitCode> {
        let plan = Plan::new(&self.settings)?;
        let mut process = Process::new(self.plain, &self.device, self.tf32)?;
        println!("first stage, in {}", plan.first.run.display());
        let summary = process.first_stage(&plan.first)?;
        if !summary.finished {
            return Ok(process.exit(&summary));
        }
        println!("transformer, in {}", plan.second.run.display());
        let summary = process.second_stage(&plan.second)?;
        if !summary.finished {
            return Ok(process.exit(&summary));
        }
        let samples = plan.run.join("samples.png");
        let prompts = prompts(&plan.second.condition, &plan.second.data)?;
        write_samples(&summary.model, &prompts, SAMPLES, plan.second.seed, &samples)?;
        println!("samples: {}", samples.display());
        println!("try it: {}", generate_command(&plan.second, &summary));
        Ok(ExitCode::SUCCESS)
    }
}

/// Captions of the data, where the model takes text.
fn prompts(condition: &ConditionSetting, data: &Path) -> Result<Vec<String>> {
    match condition {
        ConditionSetting::Text { .. } => Ok(Labels::read(data)?.some_captions(SAMPLES)),
        _ => Ok(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_reach_their_stage() -> Result<()> {
        let settings = ["data=/p", "run=/r", "vqgan.steps=7", "transformer.condition.kind=none"];
        let plan = Plan::new(&settings.map(str::to_owned))?;
        assert_eq!((plan.first.steps, plan.first.data.as_path()), (7, Path::new("/p")));
        assert_eq!(plan.second.first_stage, Path::new("/r/vqgan"));
        assert_eq!(plan.second.pictures.side, plan.first.pictures.side);
        for wrong in [&["data=/p", "steps=3"][..], &["run=/r"], &["data=/p", "vqgan.stps=3"]] {
            let wrong: Vec<_> = wrong.iter().map(|&setting| setting.to_owned()).collect();
            assert!(Plan::new(&wrong).is_err(), "{wrong:?}");
        }
        Ok(())
    }
}
