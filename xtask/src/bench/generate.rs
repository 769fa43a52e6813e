//! Codes drawn one by one: a transformer of 12 layers, 768 wide, with 16384 codes.
//!
//! The first run of a case is greedy, and its codes are compared; the timed ones draw
//! with top-k. The reference's sliding window takes minutes: some of its places are
//! timed, and the time multiplied.

use std::cell::OnceCell;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use codebook::CodeGrid;
use cond_transformer::{
    Conditions, Gpt, GptConfig, Llama, LlamaConfig, NextCode, PrefixConfig, Request, Sampling,
    Stream, Wavefront, WeightFormat, WindowConditions, WindowRequest, generate, generate_wavefront,
};
use serde_json::{Value, json};

use super::Tool;
use super::bandwidth;
use super::case::{Case, Contestants, Results};
use super::device::device;
use super::pattern;

/// Weights of the size that training starts from: 0.02, uniform.
const MATRICES: f64 = 0.035;
const LENGTH: usize = 256;
const CLASSES: usize = 1000;
const TOP_K: usize = 250;
/// Rows and columns of what the window slides over, and of the window.
const GRID: (usize, usize) = (32, 32);
const WINDOW: usize = 256;
/// Places of the reference's loop that are timed.
const TIMED: usize = 2;

fn gpt(block_size: usize) -> GptConfig {
    let (n_layer, n_head, n_embd) = (12, 12, 768);
    GptConfig { vocab_size: 16384, block_size, n_layer, n_head, n_embd, n_unmasked: 0 }
}

/// A size of LlamaGen's.
#[derive(Clone, Copy)]
struct Size {
    name: &'static str,
    layers: usize,
    heads: usize,
    dim: usize,
}

const BASE: Size = Size { name: "B", layers: 12, heads: 12, dim: 768 };
/// Those that are for GPUs.
const LARGE: [Size; 2] = [
    Size { name: "L", layers: 24, heads: 16, dim: 1024 },
    Size { name: "XL", layers: 36, heads: 20, dim: 1280 },
];

fn llama(size: Size) -> LlamaConfig {
    LlamaConfig {
        vocab_size: 16384,
        block_size: LENGTH,
        dim: size.dim,
        n_layer: size.layers,
        n_head: size.heads,
        n_kv_head: None,
        multiple_of: 256,
        ffn_dim_multiplier: None,
        rope_base: 10000.0,
        norm_eps: 1e-5,
        prefix: PrefixConfig::Class { classes: CLASSES },
    }
}

fn llama_request(size: Size, format: WeightFormat) -> Value {
    let config = llama(size);
    json!({
        "vocab_size": config.vocab_size, "block_size": config.block_size, "dim": config.dim,
        "n_layer": config.n_layer, "n_head": config.n_head, "hidden": config.hidden_dim(),
        "rope_base": config.rope_base, "norm_eps": config.norm_eps, "classes": CLASSES,
        // It runs in f32 or bf16.
        "dtype": if format == WeightFormat::Bf16 { "bf16" } else { "f32" },
    })
}

/// Numbers that the linear layers multiply with for every code.
fn weights(config: &GptConfig) -> usize {
    12 * config.n_layer * config.n_embd.pow(2) + config.vocab_size * config.n_embd
}

/// What no program could beat.
pub fn limits(threads: usize) -> String {
    let config = gpt(LENGTH);
    let bandwidth = bandwidth::gigabytes(threads);
    let least = |bits: f64| {
        let milliseconds = weights(&config) as f64 * bits / 8.0 / bandwidth / 1e6;
        format!("{milliseconds:.1} ms a code, {:.0} ms for {LENGTH}", milliseconds * LENGTH as f64)
    };
    format!(
        "memory {bandwidth:.1} GB/s: to read the weights of GPT-B that a code needs takes {} in \
         f32, {} in 8 bits and a scale for every 32",
        least(32.0),
        least(8.5)
    )
}

/// A model that several cases share, made when the first needs it.
type Shared = Rc<OnceCell<Box<dyn NextCode>>>;

/// Which of the two models.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Gpt,
    Llama,
}

/// A row's model.
#[derive(Clone, Copy)]
struct Entry {
    kind: Kind,
    size: Size,
    format: WeightFormat,
}

impl Entry {
    fn name(&self) -> String {
        let kind = if self.kind == Kind::Gpt { "GPT" } else { "LlamaGen" };
        format!("{kind}-{} {}", self.size.name, self.format)
    }

    /// Who draws the same codes from the same numbers.
    fn results(&self) -> Results {
        match (self.format, self.kind) {
            (WeightFormat::F32, Kind::Gpt) => Results::CodesOf(Tool::MinGpt),
            (WeightFormat::F32, Kind::Llama) => Results::CodesOf(Tool::LlamaGen),
            _ => Results::Unlike,
        }
    }

    /// For Python: who it is compared with, in f32 or bf16. On a GPU, where LlamaGen's is
    /// compiled for each request, GPT's rows leave that to its own.
    fn request(&self, batch: usize) -> Value {
        let mut request = json!({
            "conditions": classes(batch), "length": LENGTH, "top_k": TOP_K,
        });
        if self.kind == Kind::Gpt {
            request["minGPT"] = json!(gpt(LENGTH));
            if !device().is_cuda() {
                request["LlamaGen"] = llama_request(BASE, WeightFormat::F32);
            }
        } else {
            request["LlamaGen"] = llama_request(self.size, self.format);
        }
        request
    }

    fn make(&self) -> Result<Box<dyn NextCode>> {
        let weights = pattern::builder_of(DType::F32, MATRICES);
        Ok(match self.kind {
            Kind::Gpt => Box::new(Gpt::with_format(&gpt(LENGTH), self.format, weights)?),
            Kind::Llama => Box::new(Llama::with_format(&llama(self.size), self.format, weights)?),
        })
    }

    /// Bytes of keys and values of every layer, position and sample.
    fn cache(&self, batch: usize) -> usize {
        let Size { layers, dim, .. } = self.size;
        2 * layers * LENGTH * batch * dim * self.format.dtype().size_in_bytes()
    }

    /// Numbers that the linear layers multiply with for every code.
    fn weights(&self) -> usize {
        let Size { layers, dim, .. } = self.size;
        12 * layers * dim.pow(2) + 16384 * dim
    }
}

fn classes(batch: usize) -> Vec<u32> {
    (0..batch as u32).map(|i| (7 + 101 * i) % CLASSES as u32).collect()
}

/// Both models in all sizes and formats that the device is for, several batches, and the
/// sliding window.
pub fn cases() -> Vec<Case> {
    let gpu = device().is_cuda();
    let formats = WeightFormat::ALL.into_iter().filter(|format| format.validate(device()).is_ok());
    let entry = |kind, size, format| Entry { kind, size, format };
    let mut entries: Vec<_> = formats.map(|format| entry(Kind::Gpt, BASE, format)).collect();
    entries.push(entry(Kind::Llama, BASE, WeightFormat::F32));
    let mut batches = vec![1, 8];
    if gpu {
        entries.push(entry(Kind::Llama, BASE, WeightFormat::Bf16));
        entries.extend(LARGE.map(|size| entry(Kind::Llama, size, WeightFormat::Bf16)));
        batches.push(64);
    }
    let entries: Vec<_> = entries.into_iter().map(|entry| (entry, Shared::default())).collect();
    let mut cases = Vec::new();
    for batch in batches {
        for (entry, model) in &entries {
            cases.push(drawn(*entry, Rc::clone(model), batch));
        }
    }
    cases.push(sliding());
    cases
}

fn drawn(entry: Entry, model: Shared, batch: usize) -> Case {
    let on_paper = entry.cache(batch);
    let make = move || {
        if model.get().is_none() {
            // Nobody else can have set it: there is one thread here.
            let _ = model.set(entry.make()?);
        }
        let bytes = model.get().context("the model is gone")?.cache(batch, LENGTH)?.bytes();
        ensure!(bytes == on_paper, "a cache of {bytes} bytes, on paper {on_paper}");
        let conditions = Conditions::classes(&classes(batch), device())?;
        let mut request = Request::new(conditions, Stream::range(0, 0, batch));
        request.sampling = Sampling::greedy();
        let ours = move || {
            let model = model.get().context("the model is gone")?.as_ref();
            let codes = generate(model, &request, LENGTH, &mut |_| ())?;
            request.sampling = Sampling { top_k: Some(TOP_K), ..Sampling::default() };
            Ok(vec![Tensor::new(codes, &Device::Cpu)?])
        };
        Ok(Contestants { ours: Box::new(ours), candle: None })
    };
    Case {
        name: format!(
            "{}, {LENGTH} codes, batch {batch} (cache {:.0} MiB)",
            entry.name(),
            on_paper as f64 / (1 << 20) as f64
        ),
        flops: Some((2 * batch * LENGTH * entry.weights()) as f64),
        request: entry.request(batch),
        results: entry.results(),
        make: Box::new(make),
    }
}

fn sliding() -> Case {
    let config = gpt(2 * WINDOW);
    let condition: Vec<u32> = (0..(GRID.0 * GRID.1) as u32).map(|i| i * 37 % 16384).collect();
    let request = json!({
        "minGPT": &config, "conditions": &condition, "grid": [GRID.0, GRID.1],
        "timed": TIMED, "top_k": TOP_K,
    });
    let make = move || {
        let model = Gpt::new(&config, pattern::builder_of(DType::F32, MATRICES))?;
        let condition = CodeGrid::from_vec(condition, (1, GRID.0, GRID.1), &Device::Cpu)?;
        let mut request =
            WindowRequest::new(WindowConditions::Grid(condition), Stream::range(0, 0, 1), GRID);
        request.sampling = Sampling { top_k: Some(TOP_K), ..Sampling::default() };
        let ours = move || {
            let grid = generate_wavefront(&model, &request, Wavefront::default(), &mut |_| ())?;
            Ok(vec![grid.codes().clone()])
        };
        Ok(Contestants { ours: Box::new(ours), candle: None })
    };
    Case {
        name: format!(
            "GPT-B, sliding window on {}x{}, 256-code condition (theirs: {TIMED} places x {})",
            GRID.0,
            GRID.1,
            GRID.0 * GRID.1 / TIMED
        ),
        flops: None,
        request,
        results: Results::Unlike,
        make: Box::new(make),
    }
}
