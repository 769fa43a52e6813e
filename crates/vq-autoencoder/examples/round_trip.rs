//! A picture to codes and back, whole or in tiles, with time and memory.
//!
//! ```text
//! cargo run --release -p vq-autoencoder --example round_trip -- \
//!     [PRESET [WIDTH [HEIGHT [TILE [OVERLAP [CHECKPOINT]]]]]]
//! ```
//!
//! TILE 0 means whole. Without a CHECKPOINT of the preset (safetensors or
//! torch zip) the weights are random, from a fixed seed: times and memory are
//! the same, the picture is not.

use std::time::Instant;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use checkpoints::TensorFile;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vq_autoencoder::{TileConfig, VqConfig, VqModel, decode_any_size, encode_any_size};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default: usize| match args.get(i) {
        Some(arg) => arg.parse().with_context(|| format!("{arg:?} is no number")),
        None => Ok(default),
    };
    let preset = args.first().map_or("imagenet-f16-1024", String::as_str);
    let config = VqConfig::preset(preset).with_context(|| {
        let names: Vec<_> = VqConfig::preset_names().collect();
        format!("no preset {preset:?}; there are {}", names.join(", "))
    })?;
    let (width, height) = (number(1, 500)?, number(2, 300)?);
    let tiles = match (number(3, 256)?, number(4, 64)?) {
        (0, _) => TileConfig::WHOLE,
        (tile, overlap) => TileConfig { max_pixels: tile * tile, tile, overlap },
    };

    let weights: Box<dyn SimpleBackend> = match args.get(5) {
        Some(path) => Box::new(Checkpoint(TensorFile::open(path)?)),
        None => Box::new(Random),
    };
    let vb = VarBuilder::from_backend(weights, DType::F32, Device::Cpu);
    let model = VqModel::new(&config, vb)?;
    let picture = picture(config.in_channels, height, width)?;

    let before = peak_memory();
    let start = Instant::now();
    let codes = encode_any_size(&model, &picture, &tiles)?;
    let encoded = start.elapsed();
    let back = decode_any_size(&model, &codes, (height, width), &tiles)?;
    let decoded = start.elapsed() - encoded;

    let error = (&back - &picture)?.abs()?.mean_all()?.to_scalar::<f32>()?;
    println!("{preset}, {width}x{height}, {tiles:?}");
    println!("codes {:?} (batch, rows, columns), mean absolute error {error:.4}", codes.dims());
    println!("encode {:.2} s, decode {:.2} s", encoded.as_secs_f64(), decoded.as_secs_f64());
    if let (Some(before), Some(after)) = (before, peak_memory()) {
        let tile = tiles.max_pixels.min(width * height) as u64;
        let estimate = config.peak_bytes(tile) >> 20;
        println!("peak memory {} MiB above the weights, estimate {estimate}", after - before);
    }
    Ok(())
}

/// Smooth waves, `[1, channels, height, width]` in `[-1, 1]`.
fn picture(channels: usize, height: usize, width: usize) -> Result<Tensor> {
    let mut values = Vec::with_capacity(channels * height * width);
    for c in 0..channels {
        for y in 0..height {
            for x in 0..width {
                let phase = x as f32 / 37.0 + (y as f32 / 23.0) * (c as f32 + 1.0);
                values.push(phase.sin() * (y as f32 / 90.0).cos());
            }
        }
    }
    Ok(Tensor::from_vec(values, (1, channels, height, width), &Device::Cpu)?)
}

/// The largest memory this process has had, in MiB, where the system tells.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? >> 10)
}

/// Weights as a network starts its training with, from the tensor's name.
struct Random;

impl SimpleBackend for Random {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let seed = name
            .bytes()
            .fold(0_u64, |hash, byte| hash.wrapping_mul(0x100_0000_01b3) ^ u64::from(byte));
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (lo, up) = match init {
            Init::Const(value) => (value, value),
            Init::Uniform { lo, up } => (lo, up),
            _ => (-0.05, 0.05),
        };
        let values: Vec<f32> = (0..shape.elem_count())
            .map(|_| (lo + (up - lo) * rng.random::<f64>()) as f32)
            .collect();
        Tensor::from_vec(values, shape, device)?.to_dtype(dtype)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("{name} has no shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

/// Weights of a file, read one by one.
struct Checkpoint(TensorFile);

impl SimpleBackend for Checkpoint {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let tensor = self.get_unchecked(name, dtype, device)?;
        if *tensor.shape() != shape {
            candle_core::bail!("{name}: shape {:?} in the file, not {shape:?}", tensor.shape())
        }
        Ok(tensor)
    }

    fn get_unchecked(
        &self,
        name: &str,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        self.0.tensor(name, device).map_err(candle_core::Error::wrap)?.to_dtype(dtype)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.names().any(|known| known == name)
    }
}
