//! The minGPT-style model against the reference's numbers.

mod common;

use anyhow::{Context, Result, ensure};
use candle_core::{D, DType, Device, IndexOp, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, VarBuilder, loss::cross_entropy};
use common::{read, u32s, vars};
use cond_transformer::{Chooser, Conditions, Gpt, GptConfig, NextCode, Sampling, Stream};
use golden::Group;

fn config(group: &Group) -> Result<GptConfig> {
    Ok(serde_json::from_value(group.manifest()["config"].clone())?)
}

fn model(group: &Group) -> Result<Gpt> {
    Ok(Gpt::new(&config(group)?, read(group, "model.safetensors")?)?)
}

fn each(test: impl Fn(&Group) -> Result<()>) -> Result<()> {
    for name in ["mingpt", "mingpt_unmasked"] {
        if let Some(group) = golden::group(name)? {
            test(&group).with_context(|| name.to_owned())?;
        }
    }
    Ok(())
}

#[test]
fn logits_blocks_and_loss() -> Result<()> {
    each(|group| {
        let (model, inputs) = (model(group)?, group.inputs()?);
        let expected = group.expected("outputs.safetensors")?;
        let idx = u32s(&inputs["idx"])?;
        let mut blocks = Vec::new();
        let logits = model.forward_with(&idx, None, |x| blocks.push(x.clone()))?;
        for (i, block) in blocks.iter().enumerate() {
            expected.check(&format!("act/block{i}"), block)?;
        }
        expected.check("logits", &logits)?;
        let targets = u32s(&inputs["tgt"])?.flatten_all()?;
        let loss = cross_entropy(&logits.flatten(0, 1)?, &targets)?;
        group.check_scalar("loss", f64::from(loss.to_scalar::<f32>()?))?;
        let emb = &inputs["emb"];
        let tail = idx.narrow(1, 0, idx.dim(1)? - emb.dim(1)?)?;
        expected.check("emb/logits", &model.forward(&tail, Some(emb))?)
    })
}

#[test]
fn greedy_sequences() -> Result<()> {
    each(|group| {
        let (model, inputs) = (model(group)?, group.inputs()?);
        let expected = group.expected("outputs.safetensors")?;
        let start = u32s(&inputs["start"])?;
        let steps = expected.get("greedy/tokens")?.dim(1)? - start.dim(1)?;
        let greedy = Chooser::new(&Sampling::greedy(), [])?;
        let streams = Stream::range(0, 0, start.dim(0)?);
        let tokens = model.continue_tokens(&start, steps, &greedy, &streams)?;
        expected.check("greedy/tokens", &tokens.to_dtype(DType::I64)?)
    })
}

#[test]
fn cached_decoding() -> Result<()> {
    let Some(group) = golden::group("mingpt")? else { return Ok(()) };
    let (model, inputs) = (model(&group)?, group.inputs()?);
    let expected = group.expected("outputs.safetensors")?;
    let start = u32s(&inputs["start"])?;
    let first = expected.get("past/first_logits")?;
    expected.check("past/first_logits", &model.forward(&start, None)?)?;
    let (batch, len) = start.dims2()?;
    let mut cache = model.cache(batch, model.context())?;
    let mut logits = model.prefill(&Conditions::Tokens(start.clone()), None, &mut cache)?;
    let atol = expected.atol("past/first_logits").context("atol")?;
    golden::close("prefill", &logits, &first.i((.., len - 1))?, atol)?;
    ensure!(cache.len() == len);
    let tokens = expected.get("past/tokens")?;
    let total = tokens.dim(1)?;
    let mut drawn = Tensor::zeros((batch, 0), DType::U32, &Device::Cpu)?;
    for step in 0..total {
        let codes = logits.argmax(D::Minus1)?;
        drawn = Tensor::cat(&[&drawn, &codes.unsqueeze(1)?], 1)?;
        if step + 1 < total {
            logits = model.step(&codes.unsqueeze(1)?, &mut cache)?;
        }
        if step == 0 {
            expected.check("past/second_logits", &logits)?;
        }
    }
    expected.check("past/tokens", &drawn.to_dtype(DType::I64)?)
}

#[test]
fn gradients_and_optimiser_steps() -> Result<()> {
    each(|group| {
        let inputs = group.inputs()?;
        let expected = group.expected("train.safetensors")?;
        let vars = vars(group, "model.safetensors")?;
        let tensors = vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone()));
        let vb = VarBuilder::from_tensors(tensors.collect(), DType::F32, &Device::Cpu);
        let model = Gpt::new(&config(group)?, vb)?;
        let decays =
            group.manifest()["extra"]["decay_groups"]["0.01"].as_array().context("decay")?;
        for name in vars.keys().filter(|name| !name.ends_with("attn.mask")) {
            ensure!(Gpt::decays(name) == decays.iter().any(|decayed| decayed == name), "{name}");
        }
        let chosen = |decay: bool| -> Vec<Var> {
            let pick = |(name, _): &(&String, &Var)| Gpt::decays(name) == decay;
            vars.iter()
                .filter(|(name, _)| !name.ends_with("attn.mask"))
                .filter(pick)
                .map(|(_, var)| var.clone())
                .collect()
        };
        let lr = group.manifest()["extra"]["lr"].as_f64().context("lr")?;
        let options =
            |weight_decay| ParamsAdamW { lr, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay };
        let mut decayed = AdamW::new(chosen(true), options(0.01))?;
        let mut plain = AdamW::new(chosen(false), options(0.0))?;
        let (idx, targets) = (u32s(&inputs["idx"])?, u32s(&inputs["tgt"])?.flatten_all()?);
        for step in 0..3 {
            let loss = cross_entropy(&model.forward(&idx, None)?.flatten(0, 1)?, &targets)?;
            group.check_scalar(&format!("step{step}/loss"), f64::from(loss.to_scalar::<f32>()?))?;
            let grads = loss.backward()?;
            for name in expected.names() {
                if let Some(parameter) = name.strip_prefix(&format!("step{step}/grad/")) {
                    expected.check(name, grads.get(&vars[parameter]).context("no gradient")?)?;
                }
            }
            decayed.step(&grads)?;
            plain.step(&grads)?;
        }
        for name in expected.names() {
            if let Some(parameter) = name.strip_prefix("after/") {
                expected.check(name, vars[parameter].as_tensor())?;
            }
        }
        Ok(())
    })
}
