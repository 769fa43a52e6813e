//! What the scenarios share: small models and pictures from formulas, and a way
//! to run the program.

// Every scenario file uses a part of it.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use checkpoints::expected_tensors;
use checkpoints::model_folder::ModelFolder;
use codebook::QuantizerConfig;
use image::{Rgb, RgbImage};
use serde_json::{Value, json};
use vq_autoencoder::{Layout, VqConfig, VqModel};

/// A folder that is gone after the test.
pub struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Result<Self> {
        Ok(Self { dir: tempfile::tempdir()? })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a picture and gives its path.
    pub fn picture(&self, name: &str, width: u32, height: u32) -> Result<PathBuf> {
        let path = self.path(name);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        picture(width, height, name.len() as u32).save(&path)?;
        Ok(path)
    }

    /// Writes the model folder `name` of `config`, its weights drawn from `seed`.
    pub fn model(&self, name: &str, config: &VqConfig, seed: u64) -> Result<PathBuf> {
        let path = self.path(name);
        let tensors = formula_tensors(config, seed)?;
        let json =
            pipeline::model_config(config, &Default::default(), json!({ "data": "a formula" }))?;
        ModelFolder::write(&path, &json, tensors.iter(), "# A formula\n")?;
        Ok(path)
    }

    /// Every file below `name`, sorted, relative to it.
    pub fn files(&self, name: &str) -> Result<Vec<String>> {
        let root = self.path(name);
        let mut files = Vec::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            for entry in entries {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let relative = path.strip_prefix(&root)?;
                    files.push(relative.to_string_lossy().replace('\\', "/"));
                }
            }
        }
        files.sort();
        Ok(files)
    }

    /// Runs the program in this folder.
    pub fn run(&self, args: &[&str]) -> Result<Run> {
        let output = self.command(args).output()?;
        Run::new(output)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_synth-cli"));
        command.args(args).current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }
}

/// What the program said.
pub struct Run {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Run {
    fn new(output: Output) -> Result<Self> {
        Ok(Self {
            code: output.status.code().context("killed by a signal")?,
            out: String::from_utf8(output.stdout)?,
            err: String::from_utf8(output.stderr)?,
        })
    }

    /// Checks the exit code.
    pub fn exits(self, code: i32) -> Result<Self> {
        ensure!(
            self.code == code,
            "exit code {} instead of {code}\n--- stdout\n{}--- stderr\n{}",
            self.code,
            self.out,
            self.err
        );
        Ok(self)
    }

    /// The JSON lines of a type.
    pub fn lines(&self, kind: &str) -> Result<Vec<Value>> {
        let lines = self.out.lines().map(serde_json::from_str::<Value>);
        let lines = lines.collect::<Result<Vec<_>, _>>()?;
        Ok(lines.into_iter().filter(|line| line["type"] == kind).collect())
    }

    /// The JSON line of a type that comes once.
    pub fn line(&self, kind: &str) -> Result<Value> {
        let mut lines = self.lines(kind)?;
        ensure!(lines.len() == 1, "{} lines of type {kind}:\n{}", lines.len(), self.out);
        Ok(lines.remove(0))
    }
}

/// A colourful picture without repetition.
pub fn picture(width: u32, height: u32, seed: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let wave = |k: u32| {
            let phase = f64::from(x * (k + 3) + y * (k + 7) + seed * 17) / 23.0;
            (127.5 + 120.0 * phase.sin()) as u8
        };
        Rgb([wave(0), wave(2), ((x * y + seed) % 256) as u8])
    })
}

/// A codec of a few thousand weights: `levels` levels of 32 channels.
pub fn tiny(levels: usize) -> VqConfig {
    VqConfig {
        layout: Layout::Taming,
        in_channels: 3,
        out_channels: 3,
        ch: 32,
        ch_mult: vec![1; levels],
        num_res_blocks: 1,
        attn_resolutions: Vec::new(),
        resolution: 32,
        z_channels: 4,
        quantizer: QuantizerConfig::Euclidean { len: 64, dim: 4, beta: 0.25, legacy_beta: true },
        dropout: 0.0,
    }
}

/// Weights of `config` that depend on their name, their place and `seed` alone.
pub fn formula_tensors(config: &VqConfig, seed: u64) -> Result<BTreeMap<String, Tensor>> {
    let expected = expected_tensors(|vb| Ok(VqModel::new(config, vb)?))?;
    let tensor = |name: &str, dims: &[usize]| -> Result<Tensor> {
        let start = name.bytes().fold(seed, |state, byte| mix(state ^ u64::from(byte)));
        let n: usize = dims.iter().product();
        let uniform = (0..n as u64)
            .map(|i| (mix(start.wrapping_add(i)) >> 40) as f32 / (1_u64 << 23) as f32 - 1.0);
        let (offset, scale) = match dims {
            [_, inputs, kh, kw] => (0.0, (3.0 / (inputs * kh * kw) as f32).sqrt()),
            [_, _] => (0.0, 1.0),
            _ if name.contains("norm") && name.ends_with("weight") => (1.0, 0.1),
            _ => (0.0, 0.1),
        };
        let values: Vec<f32> = uniform.map(|u| offset + scale * u).collect();
        Ok(Tensor::from_vec(values, dims, &Device::Cpu)?)
    };
    expected.iter().map(|(name, shape)| Ok((name.clone(), tensor(name, shape.dims())?))).collect()
}

/// One step of splitmix64.
pub fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The text of a path for a command line.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

/// Checks that two folders hold the same files with the same bytes.
pub fn same_bytes(a: &Path, b: &Path, files: &[String]) -> Result<()> {
    ensure!(!files.is_empty(), "no files to compare");
    for file in files {
        let (x, y) = (std::fs::read(a.join(file))?, std::fs::read(b.join(file))?);
        ensure!(x == y, "{file} differs between {} and {}", a.display(), b.display());
    }
    Ok(())
}
