//! The transformers of whole VQGAN systems, given the codes of their first stages.

mod common;

use anyhow::{Context, Result};
use candle_core::{D, DType, IndexOp, Tensor};
use candle_nn::loss::cross_entropy;
use codebook::CodeGrid;
use common::{read, u32s};
use cond_transformer::{
    Conditions, Gpt, GptConfig, NextCode, Order, Permuter, Request, Sampling, Stream, Wavefront,
    WindowConditions, WindowRequest, generate, generate_grid, generate_raster, generate_wavefront,
    keep_rows,
};
use golden::{Expected, Group};

fn model(group: &Group) -> Result<Gpt> {
    let given = &group.manifest()["config"];
    let size = |key: &str| given[key].as_u64().map(|value| value as usize);
    let config = GptConfig {
        vocab_size: size("vocab").context("vocab")?,
        block_size: size("block").unwrap_or(512),
        n_layer: size("L").context("L")?,
        n_head: size("H").context("H")?,
        n_embd: size("C").context("C")?,
        n_unmasked: 0,
    };
    Ok(Gpt::new(&config, read(group, "model.safetensors")?.pp("transformer"))?)
}

/// Logits of all codes under a condition, and their loss.
fn check_training(group: &Group, expected: &Expected, model: &Gpt, prefix: &str) -> Result<Tensor> {
    let c = u32s(expected.get(&format!("{prefix}c_indices"))?)?;
    let z = u32s(expected.get("z_indices")?)?;
    let tokens = Tensor::cat(&[&c, &z.narrow(1, 0, z.dim(1)? - 1)?], 1)?;
    let logits = model.forward(&tokens, None)?;
    let front = c.dim(1)? - 1;
    let logits = logits.narrow(1, front, logits.dim(1)? - front)?;
    let loss = cross_entropy(&logits.flatten(0, 1)?, &z.flatten_all()?)?;
    group.check_scalar(&format!("{prefix}loss"), f64::from(loss.to_scalar::<f32>()?))?;
    Ok(logits)
}

/// Greedy codes from nothing and from the first half, as `[B, T]`.
fn check_greedy(expected: &Expected, model: &Gpt, prefix: &str) -> Result<()> {
    let z = u32s(expected.get("z_indices")?)?;
    let c = u32s(expected.get(&format!("{prefix}c_indices"))?)?;
    let (batch, length) = z.dims2()?;
    let mut request = Request::new(Conditions::Tokens(c), Stream::range(7, 0, batch));
    request.sampling = Sampling::greedy();
    let check = |request: &Request, name: &str| -> Result<()> {
        let codes = generate(model, request, length, &mut |_| ())?;
        let codes = Tensor::new(codes, model.device())?.to_dtype(DType::I64)?;
        expected.check(&format!("{prefix}{name}/tokens"), &codes)
    };
    check(&request, "greedy")?;
    let kept = CodeGrid::new(z.unsqueeze(1)?.reshape((batch, 2, length / 2))?)?;
    request.forced = keep_rows(&kept, 1)?;
    check(&request, "half")
}

#[test]
fn class_conditional() -> Result<()> {
    let Some(group) = golden::group("net2net_class")? else { return Ok(()) };
    let (model, expected) = (model(&group)?, group.expected("outputs.safetensors")?);
    for (prefix, logits) in [("", "logits"), ("uncond/", "uncond/logits")] {
        expected.check(logits, &check_training(&group, &expected, &model, prefix)?)?;
        check_greedy(&expected, &model, prefix)?;
    }
    // A class is looked up among the codes.
    let classes = u32s(expected.get("c_indices")?)?.flatten_all()?;
    let mut request = Request::new(Conditions::Classes(classes), Stream::range(0, 0, 2));
    request.sampling = Sampling::greedy();
    let codes = Tensor::new(generate(&model, &request, 64, &mut |_| ())?, model.device())?;
    expected.check("fast/tokens", &codes.to_dtype(DType::I64)?)
}

#[test]
fn depth_with_permuter() -> Result<()> {
    let Some(group) = golden::group("net2net_depth")? else { return Ok(()) };
    let (model, expected) = (model(&group)?, group.expected("outputs.safetensors")?);
    expected.check("logits", &check_training(&group, &expected, &model, "")?)?;
    check_greedy(&expected, &model, "")?;
    // The permuter of the checkpoint, and the grid it makes of a sequence.
    let weights = group.tensors("model.safetensors")?;
    let stored = u32s(&weights["permuter.forward_shuffle_idx"])?.to_vec1()?;
    let permuter = Permuter::from_forward(stored)?;
    let order = match group.manifest()["config"]["perm"].as_str() {
        Some("SpiralOut") => Order::SpiralOut,
        _ => Order::Subsample,
    };
    let side = group.manifest()["config"]["lat"].as_u64().context("lat")? as usize;
    anyhow::ensure!(permuter == Permuter::new(order, side, side)?);
    let c = u32s(expected.get("c_indices")?)?;
    let batch = c.dim(0)?;
    let mut request = Request::new(Conditions::Tokens(c), Stream::range(0, 0, batch));
    request.sampling = Sampling::greedy();
    let grid = generate_grid(&model, &request, (side, side), &permuter, &mut |_| ())?;
    let sequence = expected.get("greedy/tokens")?;
    let forward = Tensor::new(permuter.forward(), model.device())?;
    let permuted = grid.codes().flatten_from(1)?.index_select(&forward, 1)?;
    golden::close("grid", &permuted, sequence, 0.0)
}

#[test]
fn segmentation_with_sliding_window() -> Result<()> {
    let Some(group) = golden::group("net2net_seg")? else { return Ok(()) };
    let (model, expected) = (model(&group)?, group.expected("outputs.safetensors")?);
    let logits = check_training(&group, &expected, &model, "")?;
    expected.check("logits_first8", &logits.narrow(1, 0, 8)?)?;
    expected.check("logits_last8", &logits.narrow(1, logits.dim(1)? - 8, 8)?)?;
    let (batch, height, width) = expected.get("slide/tokens")?.dims3()?;
    let grid = |name: &str| -> Result<CodeGrid> {
        Ok(CodeGrid::new(u32s(expected.get(name)?)?.reshape((batch, height, width))?)?)
    };
    let condition = grid("big/c_indices")?;
    let mut request = WindowRequest::new(
        WindowConditions::Grid(condition.clone()),
        Stream::range(0, 0, batch),
        (height, width),
    );
    request.sampling = Sampling::greedy();
    let drawn = generate_wavefront(&model, &request, Wavefront::default(), &mut |_| ())?;
    expected.check("slide/tokens", &drawn.codes().to_dtype(DType::I64)?)?;
    let plain = generate_raster(&model, &request, &mut |_| ())?;
    expected.check("slide/tokens", &plain.codes().to_dtype(DType::I64)?)?;

    // The logits in the middle, through the model's own seam.
    let (row, column) = (height / 2, width / 2);
    let (top, left) = (request.window.top(row, height), request.window.left(column, width));
    let cut = |grid: &CodeGrid| -> Result<Tensor> {
        Ok(grid.codes().i((.., top..top + 16, left..left + 16))?.contiguous()?.flatten_from(1)?)
    };
    let known = (row - top) * 16 + column - left;
    let front = Conditions::Tokens(cut(&condition)?);
    let middle = model.logits_after(&front, &cut(&drawn)?, &vec![known; batch])?;
    expected.check("slide/logits_mid", &middle)?;
    anyhow::ensure!(middle.argmax(D::Minus1)?.dims1()? == batch);

    request.forced = keep_rows(&grid("big/z_indices")?, height / 2)?;
    let half =
        generate_wavefront(&model, &request, Wavefront { lanes: 3, cache_bytes: 0 }, &mut |_| ())?;
    expected.check("slide_half/tokens", &half.codes().to_dtype(DType::I64)?)
}
