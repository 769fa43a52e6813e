//! The quantizers against the reference's own results.

use std::collections::HashMap;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor, Var};
use codebook::{
    CodeGrid, CodeUsage, EmaQuantizer, EmaState, EuclideanQuantizer, Quantized, Quantizer, Remap,
    TemperatureSchedule, Unknown,
};
use golden::{Expected, Group};

fn get<'a>(inputs: &'a HashMap<String, Tensor>, name: &str) -> Result<&'a Tensor> {
    inputs.get(name).with_context(|| format!("no input {name}"))
}

fn scalar(tensor: &Tensor) -> Result<f64> {
    Ok(tensor.to_dtype(DType::F64)?.to_scalar()?)
}

fn check_perplexity(group: &Group, case: &str, len: usize, codes: &CodeGrid) -> Result<()> {
    let mut usage = CodeUsage::new(len);
    usage.add(codes)?;
    group.check_scalar(&format!("{case}/perplexity"), usage.perplexity())
}

fn check_pass(group: &Group, expected: &Expected, case: &str, quantized: &Quantized) -> Result<()> {
    expected.check(&format!("{case}/z_q"), &quantized.embeddings)?;
    expected.check(&format!("{case}/indices"), quantized.codes.codes())?;
    group.check_scalar(&format!("{case}/loss"), scalar(&quantized.losses.total)?)
}

#[test]
fn euclidean() -> Result<()> {
    let Some(group) = golden::group("quantizers")? else { return Ok(()) };
    let (inputs, expected) = (group.inputs()?, group.expected("outputs.safetensors")?);
    for (case, legacy) in [("v1", true), ("v2_legacy", true), ("v2_fixed", false)] {
        let z = Var::from_tensor(get(&inputs, "z")?)?;
        let codebook = Var::from_tensor(get(&inputs, "codebook")?)?;
        let quantizer = EuclideanQuantizer::new(codebook.as_tensor().clone(), 0.25, legacy)?;
        let quantized = quantizer.quantize(z.as_tensor())?;
        check_pass(&group, &expected, case, &quantized)?;

        let output = (&quantized.embeddings * get(&inputs, "w")?)?.sum_all()?;
        let loss = (output + &quantized.losses.total)?;
        group.check_scalar(&format!("{case}/loss_total"), scalar(&loss)?)?;
        let gradients = loss.backward()?;
        let gradient = |of: &Var| gradients.get(of).context("no gradient").cloned();
        expected.check(&format!("{case}/grad_z"), &gradient(&z)?)?;
        expected.check(&format!("{case}/grad_codebook"), &gradient(&codebook)?)?;

        let codes = quantizer.codes(z.as_tensor())?;
        expected.check(&format!("{case}/indices"), codes.codes())?;
        expected.check(&format!("{case}/z_q"), &quantizer.embed(&codes)?)?;
        if case == "v1" {
            check_perplexity(&group, case, quantizer.len(), &codes)?;
        }
    }
    Ok(())
}

#[test]
fn remap() -> Result<()> {
    let Some(group) = golden::group("quantizers")? else { return Ok(()) };
    let (inputs, expected) = (group.inputs()?, group.expected("outputs.safetensors")?);
    let used = get(&inputs, "used")?.to_dtype(DType::U32)?.to_vec1()?;
    let quantizer = EuclideanQuantizer::new(get(&inputs, "codebook")?.clone(), 0.25, true)?;
    let codes = quantizer.codes(get(&inputs, "z")?)?;
    for (case, unknown) in [("extra", Unknown::Extra), ("int3", Unknown::Index(3))] {
        let remap = Remap::new(used.clone(), unknown)?;
        let small = remap.to_used(&codes)?;
        expected.check(&format!("remap/{case}_indices"), small.codes())?;
        let back = quantizer.embed(&remap.to_all(&small)?)?;
        expected.check(&format!("remap/back_{case}"), &back)?;
    }
    Ok(())
}

#[test]
fn ema() -> Result<()> {
    let Some(group) = golden::group("quantizers")? else { return Ok(()) };
    let (inputs, expected) = (group.inputs()?, group.expected("outputs.safetensors")?);
    // The averages that the inputs' codebook is made of, without smoothing.
    let (codebook, cluster_size) = (get(&inputs, "codebook")?, get(&inputs, "cluster_size")?);
    let mut state = EmaState {
        codebook: codebook.clone(),
        cluster_size: cluster_size.clone(),
        embed_avg: codebook.broadcast_mul(&cluster_size.unsqueeze(1)?)?,
    };
    for (pass, z) in ["z", "z2"].into_iter().enumerate() {
        let case = format!("ema/{pass}");
        let z = Var::from_tensor(get(&inputs, z)?)?;
        let quantizer = EmaQuantizer::new(state, 0.25, 0.99, 1e-5)?;
        let quantized = quantizer.quantize(z.as_tensor())?;
        check_pass(&group, &expected, &case, &quantized)?;
        check_perplexity(&group, &case, quantizer.len(), &quantized.codes)?;
        quantized.losses.total.backward()?.get(&z).context("no gradient to z")?;

        state = quantizer.update(z.as_tensor(), &quantized.codes)?;
    }
    // The file holds the buffers of the end of both passes under both names (the
    // reference updates them in place). Those after the first pass are what
    // the second pass was checked with.
    for (name, tensor) in ["codebook", "cluster_size", "embed_avg"].iter().zip(state.tensors()) {
        for pass in 0..2 {
            expected.check(&format!("ema/{pass}/{name}"), tensor)?;
        }
    }
    Ok(())
}

#[test]
fn temperature() -> Result<()> {
    let Some(group) = golden::group("gumbel")? else { return Ok(()) };
    let parameters = group.manifest()["config"]["sched"].clone();
    let schedule: TemperatureSchedule = serde_json::from_value(parameters)?;
    let expected = group.manifest()["extra"]["temperature_schedule"].as_object();
    for (step, expected) in expected.context("no temperature_schedule")? {
        let actual = schedule.at(step.parse()?);
        let expected = expected.as_f64().context("not a number")?;
        // Both in f64: equal but for the last places of the cosine.
        assert!((actual - expected).abs() <= 1e-15, "step {step}: {actual} is not {expected}");
    }
    Ok(())
}

/// The manifest of the Gumbel group describes a whole model; its quantizer alone
/// reads the features and gives codes, embeddings and divergence.
#[test]
fn gumbel() -> Result<()> {
    let Some(group) = golden::group("gumbel")? else { return Ok(()) };
    let (inputs, expected) = (group.inputs()?, group.expected("outputs.safetensors")?);
    let weights = group.tensors("model.safetensors")?;
    let quantizer = codebook::GumbelQuantizer::new(
        get(&weights, "quantize.embed.weight")?.clone(),
        get(&weights, "quantize.proj.weight")?.clone(),
        get(&weights, "quantize.proj.bias")?.clone(),
        5e-4,
        true,
    )?;
    let z = expected.get("eval/pre_quant")?;
    let codes = quantizer.codes(z)?;
    expected.check("eval_det/indices", codes.codes())?;
    expected.check("eval_det/z_q", &quantizer.embed(&codes)?)?;
    let quantized = quantizer.quantize(z)?;
    expected.check("eval_det/indices", quantized.codes.codes())?;
    expected.check("eval_det/z_q", &quantized.embeddings)?;

    // The reference's evaluation: noise at temperature 1, hard.
    let sample = quantizer.sample(z, 1.0, true, get(&inputs, "gumbel")?)?;
    expected.check("eval/indices", sample.codes.codes())?;
    expected.check("eval/z_q", &sample.embeddings)?;
    group.check_scalar("eval/kl", scalar(&sample.losses.total)?)?;
    assert_eq!(sample.embeddings.device().location(), Device::Cpu.location());
    Ok(())
}

/// LlamaGen's quantizer alone, between the features and the embeddings.
#[test]
fn normalized() -> Result<()> {
    let Some(group) = golden::group("llamagen_vq")? else { return Ok(()) };
    let expected = group.expected("outputs.safetensors")?;
    let weights = group.tensors("model.safetensors")?;
    let rows = get(&weights, "quantize.embedding.weight")?.clone();
    let quantizer = codebook::NormalizedQuantizer::new(rows, 0.25, 0.1)?;
    for case in ["", "odd/"] {
        let z = expected.get(&format!("{case}pre_quant"))?;
        let quantized = quantizer.quantize(z)?;
        expected.check(&format!("{case}indices"), quantized.codes.codes())?;
        expected.check(&format!("{case}z_q"), &quantized.embeddings)?;
        let codes = quantizer.codes(z)?;
        expected.check(&format!("{case}indices"), codes.codes())?;
        expected.check(&format!("{case}z_q"), &quantizer.embed(&codes)?)?;
    }
    Ok(())
}
