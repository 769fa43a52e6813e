//! Codes drawn one by one: a transformer of 12 layers, 768 wide, with 16384 codes.
//!
//! The first run of a case is greedy, and its codes are compared; the timed ones draw
//! with top-k. The reference's sliding window takes minutes: some of its places are
//! timed, and the time multiplied.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use codebook::CodeGrid;
use cond_transformer::{
    Conditions, Gpt, GptConfig, Llama, LlamaConfig, NextCode, PrefixConfig, Request, Sampling,
    Stream, Wavefront, WindowConditions, WindowRequest, generate, generate_wavefront,
};
use serde_json::{Value, json};

use super::Tool;
use super::bandwidth;
use super::case::{Case, Contestants, Results};
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

fn llama() -> LlamaConfig {
    LlamaConfig {
        vocab_size: 16384,
        block_size: LENGTH,
        dim: 768,
        n_layer: 12,
        n_head: 12,
        n_kv_head: None,
        multiple_of: 256,
        ffn_dim_multiplier: None,
        rope_base: 10000.0,
        norm_eps: 1e-5,
        prefix: PrefixConfig::Class { classes: CLASSES },
    }
}

fn llama_request() -> Value {
    let config = llama();
    json!({
        "vocab_size": config.vocab_size, "block_size": config.block_size, "dim": config.dim,
        "n_layer": config.n_layer, "n_head": config.n_head, "hidden": config.hidden_dim(),
        "rope_base": config.rope_base, "norm_eps": config.norm_eps, "classes": CLASSES,
    })
}

/// Numbers that the linear layers multiply with for every code.
fn weights(config: &GptConfig) -> usize {
    12 * config.n_layer * config.n_embd.pow(2) + config.vocab_size * config.n_embd
}

/// What no program could beat, and the memory of keys and values.
pub fn limits(threads: usize) -> Result<String> {
    let config = gpt(LENGTH);
    let bandwidth = bandwidth::gigabytes(threads);
    let bytes = weights(&config) as f64 * 4.0;
    let least = bytes / (bandwidth * 1e9);
    Ok(format!(
        "memory {bandwidth:.1} GB/s; the f32 weights of GPT-B that a code needs are {:.0} MB: at \
         best {:.1} ms a code, {:.0} ms for {LENGTH}",
        bytes / 1e6,
        1e3 * least,
        1e3 * least * LENGTH as f64
    ))
}

/// A model that several cases share, made when the first needs it.
type Shared = Rc<OnceCell<Box<dyn NextCode>>>;

fn shared<'a>(
    cell: &'a Shared,
    make: impl FnOnce() -> Result<Box<dyn NextCode>>,
) -> Result<&'a dyn NextCode> {
    if cell.get().is_none() {
        // Nobody else can have set it: there is one thread here.
        let _ = cell.set(make()?);
    }
    Ok(cell.get().context("the model is gone")?.as_ref())
}

/// Both models at batch 1 and 8, and the sliding window.
pub fn cases() -> Result<Vec<Case>> {
    let of_gpt = || {
        let config = gpt(LENGTH);
        Ok(Box::new(Gpt::new(&config, pattern::builder_of(DType::F32, MATRICES))?) as _)
    };
    let of_llama =
        || Ok(Box::new(Llama::new(&llama(), pattern::builder_of(DType::F32, MATRICES))?) as _);
    type Make = fn() -> Result<Box<dyn NextCode>>;
    let models: [(&str, Tool, Make); 2] =
        [("GPT-B", Tool::MinGpt, of_gpt), ("LlamaGen-B", Tool::LlamaGen, of_llama)];
    let models = models.map(|(name, tool, make)| (name, tool, make, Shared::default()));
    let mut cases = Vec::new();
    for batch in [1, 8] {
        for (name, tool, make, cell) in &models {
            cases.push(drawn(name, *tool, *make, Rc::clone(cell), batch));
        }
    }
    cases.push(sliding());
    Ok(cases)
}

fn drawn(
    model: &str,
    tool: Tool,
    make: fn() -> Result<Box<dyn NextCode>>,
    cell: Shared,
    batch: usize,
) -> Case {
    let classes: Vec<u32> = (0..batch as u32).map(|i| 7 + 101 * i).collect();
    let request = json!({
        "minGPT": gpt(LENGTH), "LlamaGen": llama_request(), "conditions": &classes,
        "length": LENGTH, "top_k": TOP_K,
    });
    let make = move || {
        let cache = shared(&cell, make)?.cache(batch, LENGTH)?;
        // Keys and values of every layer, position and sample, in f32.
        let on_paper = 2 * 12 * LENGTH * batch * 768 * 4;
        ensure!(cache.bytes() == on_paper, "a cache of {} bytes, not {on_paper}", cache.bytes());
        drop(cache);
        let conditions = Conditions::classes(&classes, &Device::Cpu)?;
        let mut request = Request::new(conditions, Stream::range(0, 0, batch));
        request.sampling = Sampling::greedy();
        let ours = move || {
            let model = cell.get().context("the model is gone")?.as_ref();
            let codes = generate(model, &request, LENGTH, &mut |_| ())?;
            request.sampling = Sampling { top_k: Some(TOP_K), ..Sampling::default() };
            Ok(vec![Tensor::new(codes, &Device::Cpu)?])
        };
        Ok(Contestants { ours: Box::new(ours), candle: None })
    };
    let cache = (2 * 12 * LENGTH * batch * 768 * 4) as f64 / (1 << 20) as f64;
    Case {
        name: format!("{model}, {LENGTH} codes, batch {batch} (cache {cache:.0} MiB)"),
        flops: Some((2 * batch * LENGTH * weights(&gpt(LENGTH))) as f64),
        request,
        results: Results::CodesOf(tool),
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
        let request =
            WindowRequest::new(WindowConditions::Grid(condition), Stream::range(0, 0, 1), GRID);
        let request = RefCell::new(request);
        let ours = move || {
            let mut request = request.borrow_mut();
            request.sampling = Sampling { top_k: Some(TOP_K), ..Sampling::default() };
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
