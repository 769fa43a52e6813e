//! The training that is killed: a process of this program on pictures made here.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use image::{Rgb, RgbImage};
use serde_json::{Map, Value};
use training::{Checkpoints, MEASURED};

/// Steps between two checkpoints.
pub const SAVE_EVERY: u64 = 4;
const PICTURES: u32 = 24;
/// Steps of the first stage below a transformer: its codes are as good as any.
const FIRST_STAGE_STEPS: u64 = 2;

/// What is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Vqgan,
    Transformer,
}

/// Everything that has state: discriminator, averaged weights, revival, schedule.
const VQGAN: &str = r#"
batch = 2
[pictures]
side = 16
largest = 24
workers = 2
[optimizer]
ema = 0.9
clip = 1.0
[optimizer.schedule]
lr = 1e-3
warmup = 5
decay = "cosine"
floor = 0.1
[revival]
every = 3
until = 0.9
[adversarial]
weight = 0.5
start = 6
[adversarial.patchgan]
ndf = 8
n_layers = 1
[validation]
every = 10
pictures = 4
fraction = 0.2
[log]
every = 1
preview_every = 25
[checkpoint]
every = 4
minutes = 0
keep = 2
[model]
layout = "taming"
in_channels = 3
out_channels = 3
ch = 32
ch_mult = [1, 1]
num_res_blocks = 1
resolution = 16
z_channels = 8
[model.quantizer]
kind = "normalized"
len = 32
dim = 4
"#;

/// The same: averaged weights, dropout, noise, accumulation, schedule, the best
/// validation, a tokenizer, and pictures that are encoded first.
const TRANSFORMER: &str = r#"
batch = 2
accumulate = 2
crops = 2
pkeep = 0.9
[condition]
kind = "text"
vocabulary = 270
tokens = 4
drop = 0.2
[pictures]
side = 16
largest = 24
workers = 2
[dropout]
embedding = 0.1
residual = 0.1
attention = 0.1
[optimizer]
ema = 0.9
clip = 1.0
[optimizer.schedule]
lr = 1e-3
warmup = 5
decay = "cosine"
floor = 0.1
[validation]
every = 10
pictures = 4
fraction = 0.2
[log]
every = 1
preview_every = 25
preview_pictures = 2
[checkpoint]
every = 4
minutes = 0
keep = 2
[model]
kind = "gpt"
n_layer = 2
n_head = 2
n_embd = 32
"#;

/// A training configuration and its data.
pub struct Subject {
    stage: Stage,
    config: PathBuf,
    data: PathBuf,
    /// Of a transformer.
    first_stage: Option<PathBuf>,
    steps: u64,
}

impl Subject {
    /// Writes pictures and a configuration into `folder`, and for a transformer trains a
    /// first stage for a moment.
    pub fn prepare(folder: &Path, stage: Stage, steps: u64) -> Result<Self> {
        let data = folder.join("pictures");
        fs::create_dir_all(&data)?;
        let mut captions = String::new();
        for i in 0..PICTURES {
            let picture = RgbImage::from_fn(30 + i, 32, |x, y| {
                let inside = x / 7 % 2 == i % 2 && y / 5 % 2 == 0;
                Rgb([(6 * x) as u8, (6 * y) as u8, if inside { 230 } else { 10 * i as u8 }])
            });
            let file = format!("{i:02}.png");
            picture.save(data.join(&file))?;
            let caption = if i % 2 == 0 { "even bars" } else { "odd bars" };
            captions += &format!("{{\"file\": {file:?}, \"caption\": {caption:?}}}\n");
        }
        let subject = |stage, text: &str, first_stage, steps| -> Result<Self> {
            let config = folder.join(format!("{stage:?}.toml").to_lowercase());
            fs::write(&config, text)?;
            Ok(Self { stage, config, data: data.clone(), first_stage, steps })
        };
        if stage == Stage::Vqgan {
            return subject(stage, VQGAN, None, steps);
        }
        fs::write(data.join("captions.jsonl"), captions)?;
        let first_stage = folder.join("first-stage");
        subject(Stage::Vqgan, VQGAN, None, FIRST_STAGE_STEPS)?.start(&first_stage)?.finish()?;
        subject(stage, TRANSFORMER, Some(first_stage), steps)
    }

    /// Starts or continues training in the folder `run`.
    pub fn start(&self, run: &Path) -> Result<Life> {
        let log = run.with_extension("log");
        let output = File::options().create(true).append(true).open(&log)?;
        let stage = match self.stage {
            Stage::Vqgan => "vqgan",
            Stage::Transformer => "transformer",
        };
        let first_stage = self.first_stage.as_ref();
        let child = Command::new(std::env::current_exe()?)
            .args(["train", stage, "--plain", "--config"])
            .arg(&self.config)
            .arg(format!("data={}", self.data.display()))
            .arg(format!("run={}", run.display()))
            .arg(format!("steps={}", self.steps))
            .args(first_stage.map(|folder| format!("first-stage={}", folder.display())))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("cannot start the training process")?;
        Ok(Life { child, log })
    }

    /// Checks that two runs ended alike: every tensor of the last checkpoint bit by bit,
    /// every line of the log but for times; and that nothing half-written is left.
    pub fn compare(&self, whole: &Path, killed: &Path) -> Result<()> {
        let (a, b) = (bits(whole, self.steps)?, bits(killed, self.steps)?);
        for (name, expected) in &a {
            let actual = b.iter().find(|(other, _)| other == name).map(|(_, bits)| bits);
            ensure!(actual == Some(expected), "{name} is another than in the undisturbed run");
        }
        ensure!(a.len() == b.len(), "{} tensors instead of {}", b.len(), a.len());
        let (a, b) = (lines(whole)?, lines(killed)?);
        if let Some(i) = (0..a.len().max(b.len())).find(|&i| a.get(i) != b.get(i)) {
            bail!("line {} of metrics.jsonl is {:?}, not {:?}", i + 1, b.get(i), a.get(i));
        }
        let places =
            ["", "checkpoints", "previews", "model", "codes"].map(|place| killed.join(place));
        for place in places {
            ensure!(!half_written(&place), "{}: something half-written is left", place.display());
        }
        Ok(())
    }
}

/// A process that trains.
pub struct Life {
    child: Child,
    log: PathBuf,
}

impl Life {
    /// Whether it ended by itself.
    pub fn is_over(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Kills it at once. False if it had ended just before.
    pub fn kill(&mut self) -> Result<bool> {
        self.child.kill()?;
        let status = self.child.wait()?;
        match status.code() {
            // By a signal.
            None => Ok(true),
            Some(0) => Ok(false),
            Some(_) => self.failed(status),
        }
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Result<()> {
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { self.failed(status) }
    }

    fn failed<T>(&self, status: ExitStatus) -> Result<T> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let last: Vec<&str> = text.lines().rev().take(5).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        bail!("the training process ended with {status}:\n{}", last.join("\n"))
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        // It is over already, unless something failed here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a temporary file of ours lies in `folder`.
pub fn half_written(folder: &Path) -> bool {
    let names = fs::read_dir(folder).into_iter().flatten().flatten();
    names.map(|entry| entry.file_name()).any(|name| {
        let name = name.to_string_lossy();
        name.starts_with('.') && [".tmp", ".part"].iter().any(|end| name.ends_with(end))
    })
}

/// The step of the newest checkpoint, which must be intact; 0 if there is none yet.
pub fn newest(run: &Path) -> Result<u64> {
    let folder = run.join("checkpoints");
    if !folder.is_dir() {
        return Ok(0);
    }
    let (loaded, complaints) = Checkpoints::new(folder, 2).newest(&Device::Cpu)?;
    ensure!(complaints.is_empty(), "unreadable: {}", complaints.join("; "));
    Ok(loaded.map_or(0, |loaded| loaded.progress.step))
}

/// The last step in the log; only its last line may be cut short.
pub fn last_logged(run: &Path) -> Result<u64> {
    let path = run.join("metrics.jsonl");
    let text = if path.exists() { fs::read_to_string(&path)? } else { String::new() };
    let mut last = 0;
    for line in text.split_inclusive('\n') {
        match serde_json::from_str::<Value>(line) {
            Ok(line) => last = line["step"].as_u64().context("a line without a step")?,
            Err(_) if !line.ends_with('\n') => {}
            Err(error) => bail!("metrics.jsonl: {error} in {line}"),
        }
    }
    Ok(last)
}

/// The last checkpoint's tensors as bits.
fn bits(run: &Path, steps: u64) -> Result<Vec<(String, Vec<u64>)>> {
    let (loaded, complaints) = Checkpoints::new(run.join("checkpoints"), 2).newest(&Device::Cpu)?;
    ensure!(complaints.is_empty(), "unreadable: {}", complaints.join("; "));
    let loaded = loaded.context("no checkpoint")?;
    let at = loaded.progress.step;
    ensure!(at == steps, "the run ended at step {at} of {steps}");
    // Every dtype in a checkpoint is exact in f64.
    let of_tensor = |tensor: &Tensor| -> Result<Vec<u64>> {
        let values = tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        Ok(values.into_iter().map(f64::to_bits).collect())
    };
    loaded.tensors.iter().map(|(name, tensor)| Ok((name.clone(), of_tensor(tensor)?))).collect()
}

/// The log without what measures the process and not the run.
fn lines(run: &Path) -> Result<Vec<Map<String, Value>>> {
    let text = fs::read_to_string(run.join("metrics.jsonl"))?;
    let line = |line| -> Result<Map<String, Value>> {
        let mut line: Map<String, Value> = serde_json::from_str(line)?;
        line.retain(|name, _| !MEASURED.contains(&name.as_str()));
        Ok(line)
    };
    text.lines().map(line).collect()
}
