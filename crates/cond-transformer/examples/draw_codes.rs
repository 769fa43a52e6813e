//! Teaches a small transformer what stripes look like, then draws some: at the size
//! it learned, the lower half of a given picture, and a wider one by the sliding
//! window.
//!
//! `cargo run --release -p cond-transformer --example draw_codes`

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, VarBuilder, loss::cross_entropy};
use codebook::CodeGrid;
use cond_transformer::{
    Conditions, Gpt, GptConfig, Order, Permuter, Request, Result, Sampling, Stream, Wavefront,
    Window, WindowConditions, WindowRequest, generate_grid, generate_wavefront, keep_rows,
};

const SEED: u64 = 1;
const SIDE: usize = 6;
/// Codes 0 and 1 are colours; 2 and 3 are the classes upright and lying.
const UPRIGHT: u32 = 2;
const LYING: u32 = 3;

fn main() -> Result<()> {
    let config = GptConfig {
        vocab_size: 4,
        block_size: SIDE * SIDE,
        n_layer: 2,
        n_head: 2,
        n_embd: 32,
        n_unmasked: 0,
    };
    let vars = start(&config)?;
    let tensors = vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone()));
    let vb = VarBuilder::from_tensors(tensors.collect(), DType::F32, &Device::Cpu);
    let model = Gpt::new(&config, vb)?;
    train(&model, &vars)?;

    let sampling = Sampling { top_p: 0.9, ..Sampling::default() };
    let mut request = Request::new(classes(&[UPRIGHT, LYING])?, Stream::range(SEED, 0, 2));
    request.sampling = sampling.clone();
    request.forbidden = vec![UPRIGHT, LYING];
    let order = Permuter::new(Order::Identity, SIDE, SIDE)?;
    let grids = generate_grid(&model, &request, (SIDE, SIDE), &order, &mut |_| ())?;
    println!("upright and lying stripes, drawn:");
    show(&grids)?;

    request.forced = keep_rows(&grids, SIDE / 2)?;
    request.streams = Stream::range(SEED, 2, 2);
    println!("their upper halves, completed anew:");
    show(&generate_grid(&model, &request, (SIDE, SIDE), &order, &mut |_| ())?)?;

    let conditions = WindowConditions::Fixed(classes(&[UPRIGHT, LYING])?);
    let mut wide = WindowRequest::new(conditions, Stream::range(SEED, 0, 2), (8, 20));
    wide.window = Window { height: SIDE, width: SIDE, ..Window::default() };
    wide.sampling = sampling;
    wide.forbidden = vec![UPRIGHT, LYING];
    println!("8x20 codes by the sliding window:");
    show(&generate_wavefront(&model, &wide, Wavefront::default(), &mut |_| ())?)
}

fn classes(classes: &[u32]) -> Result<Conditions> {
    Conditions::classes(classes, &Device::Cpu)
}

/// Starting values, from a seed.
fn start(config: &GptConfig) -> Result<BTreeMap<String, Var>> {
    let map = candle_nn::VarMap::new();
    Gpt::new(config, VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu))?;
    let data = map.data().lock().map_err(|_| candle_core::Error::msg("another thread failed"))?;
    let vars: BTreeMap<_, _> = data.iter().map(|(name, var)| (name.clone(), var.clone())).collect();
    for (stream, (name, var)) in vars.iter().enumerate() {
        let norm = name.contains("ln") && name.ends_with("weight");
        let numbers = Stream { seed: SEED, sample: stream as u64 };
        let draw = |i| if norm { 1.0 } else { 0.2 * (numbers.uniform(i) as f32 - 0.5) };
        let values: Vec<f32> = (0..var.elem_count()).map(draw).collect();
        var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu)?)?;
    }
    Ok(vars)
}

/// Every stripe picture of period 2 and 4, at every phase, in both directions.
fn train(model: &Gpt, vars: &BTreeMap<String, Var>) -> Result<()> {
    let mut tokens = Vec::new();
    for (class, period, phase) in [UPRIGHT, LYING].into_iter().flat_map(|class| {
        [1, 2].into_iter().flat_map(move |p| (0..2 * p).map(move |s| (class, p, s)))
    }) {
        let colour = |x: usize| ((x + phase) / period % 2) as u32;
        let codes =
            (0..SIDE * SIDE).map(|i| colour(if class == UPRIGHT { i % SIDE } else { i / SIDE }));
        tokens.push([vec![class], codes.collect()].concat());
    }
    let (count, len) = (tokens.len(), SIDE * SIDE);
    let all = Tensor::from_vec(tokens.concat(), (count, len + 1), &Device::Cpu)?;
    let (inputs, targets) = (all.narrow(1, 0, len)?, all.narrow(1, 1, len)?.flatten_all()?);
    let mut optimiser = AdamW::new(
        vars.values().cloned().collect(),
        ParamsAdamW { lr: 3e-3, weight_decay: 0.0, ..ParamsAdamW::default() },
    )?;
    for step in 0..=150 {
        let loss = cross_entropy(&model.forward(&inputs, None)?.flatten(0, 1)?, &targets)?;
        optimiser.backward_step(&loss)?;
        if step % 50 == 0 {
            println!("step {step}: {:.3} nats a code", loss.to_scalar::<f32>()?);
        }
    }
    Ok(())
}

fn show(grids: &CodeGrid) -> Result<()> {
    let (batch, height, width) = grids.dims();
    let codes = grids.to_vec()?;
    for row in 0..height {
        let line: Vec<String> = (0..batch)
            .map(|b| {
                let start = (b * height + row) * width;
                codes[start..start + width]
                    .iter()
                    .map(|&c| if c == 0 { '.' } else { '#' })
                    .collect()
            })
            .collect();
        println!("  {}", line.join("   "));
    }
    Ok(())
}
