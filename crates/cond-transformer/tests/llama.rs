//! The LlamaGen-style model against the reference's numbers.

mod common;

use anyhow::{Context, Result, ensure};
use candle_core::{D, DType, Device, IndexOp, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, VarBuilder, loss::cross_entropy};
use common::{read, u32s, vars};
use cond_transformer::{
    Conditions, Guidance, Llama, LlamaConfig, NextCode, Request, Sampling, Stream, generate,
};
use golden::Group;

const GROUPS: [&str; 2] = ["llamagen_gpt", "llamagen_gpt_t2i"];

fn config(group: &Group) -> Result<LlamaConfig> {
    let given = &group.manifest()["config"];
    let prefix = if given["model_type"] == "t2i" {
        serde_json::json!({"kind": "caption", "dim": given["caption_dim"],
            "positions": given["cls_token_num"]})
    } else {
        serde_json::json!({"kind": "class", "classes": given["num_classes"]})
    };
    let mut config = serde_json::json!({"prefix": prefix});
    for key in ["vocab_size", "block_size", "dim", "n_layer", "n_head", "multiple_of"] {
        config[key] = given[key].clone();
    }
    for key in ["n_kv_head", "ffn_dim_multiplier", "rope_base", "norm_eps"] {
        if !given[key].is_null() {
            config[key] = given[key].clone();
        }
    }
    Ok(serde_json::from_value(config)?)
}

fn conditions(group: &Group) -> Result<Conditions> {
    let inputs = group.inputs()?;
    let cond = &inputs["cond"];
    Ok(match inputs.get("emb_masks") {
        Some(masks) => Conditions::Captions {
            embeddings: cond.clone(),
            present: masks
                .to_vec2::<f32>()?
                .iter()
                .map(|row| row.iter().map(|&flag| flag != 0.0).collect())
                .collect(),
        },
        None => Conditions::Classes(u32s(cond)?),
    })
}

#[test]
fn prefill_decode_and_rotary_table() -> Result<()> {
    for name in GROUPS {
        let Some(group) = golden::group(name)? else { continue };
        let model = Llama::new(&config(&group)?, read(&group, "model.safetensors")?)?;
        let expected = group.expected("outputs.safetensors")?;
        expected.check("freqs_cis", &model.rotary_table()?)?;
        let conditions = conditions(&group)?;
        let mut cache = model.cache(conditions.batch()?, model.context())?;
        let logits = model.prefill(&conditions, None, &mut cache)?;
        expected.check("prefill_logits", &logits)?;
        let greedy = u32s(&logits.argmax(D::Minus1)?)?;
        let idx = u32s(&group.inputs()?["idx"])?.i((.., 0))?;
        // The second step reads either the greedy code or the first of idx.
        let mut checked = Err(anyhow::anyhow!("not checked"));
        for codes in [greedy, idx] {
            model.prefill(&conditions, None, &mut cache)?;
            let second = model.step(&codes.unsqueeze(1)?, &mut cache)?;
            checked = checked.or_else(|_| expected.check("decode1_logits", &second));
        }
        checked.context(name)?;
    }
    Ok(())
}

#[test]
fn greedy_sequences_with_guidance() -> Result<()> {
    for name in GROUPS {
        let Some(group) = golden::group(name)? else { continue };
        let model = Llama::new(&config(&group)?, read(&group, "model.safetensors")?)?;
        let expected = group.expected("outputs.safetensors")?;
        let conditions = conditions(&group)?;
        let streams = Stream::range(0, 0, conditions.batch()?);
        let mut seen = 0;
        for name in expected.names() {
            let Some(options) = name.strip_prefix("gen/cfg") else { continue };
            let (scale, interval) = options.split_once("_int").context("name")?;
            let absent = model.absent_conditions(&conditions)?;
            let mut request = Request::new(conditions.clone(), streams.clone());
            request.sampling = Sampling::greedy();
            let interval = interval.parse::<i64>()?;
            request.guidance = Some(Guidance {
                scale: scale.parse()?,
                interval: usize::try_from(interval).ok(),
                absent,
            });
            if scale.parse::<f64>()? == 1.0 {
                request.guidance = None;
            }
            let length = expected.get(name)?.dim(1)?;
            let codes = generate(&model, &request, length, &mut |_| ())?;
            let codes = Tensor::new(codes, &Device::Cpu)?;
            expected.check(name, &codes.to_dtype(DType::I64)?)?;
            seen += 1;
        }
        ensure!(seen > 0);
    }
    Ok(())
}

#[test]
fn all_logits_are_those_step_by_step() -> Result<()> {
    for name in GROUPS {
        let Some(group) = golden::group(name)? else { continue };
        let model = Llama::new(&config(&group)?, read(&group, "model.safetensors")?)?;
        let expected = group.expected("outputs.safetensors")?;
        let conditions = conditions(&group)?;
        let idx = u32s(&group.inputs()?["idx"])?;
        let codes = idx.narrow(1, 0, idx.dim(1)? - 1)?;
        let all = model.forward(&conditions, &codes)?;
        if expected.get("logits_all").is_ok() {
            expected.check("logits_all", &all)?;
        }
        let mut cache = model.cache(idx.dim(0)?, model.context())?;
        let mut logits = model.prefill(&conditions, None, &mut cache)?;
        for position in 0..all.dim(1)? {
            golden::close("step", &logits, &all.i((.., position))?, 2e-5)?;
            if position < codes.dim(1)? {
                logits = model.step(&codes.narrow(1, position, 1)?, &mut cache)?;
            }
        }
        // The same from a prefix of several codes, and without a cache.
        let known = 7;
        let prefix = codes.narrow(1, 0, known)?;
        let at = all.i((.., known))?;
        golden::close(
            "prefix",
            &model.prefill(&conditions, Some(&prefix), &mut cache)?,
            &at,
            2e-5,
        )?;
        let lengths = vec![known; idx.dim(0)?];
        // Several at once behind a cache are those one by one.
        let front = codes.narrow(1, 0, 2)?;
        model.prefill(&conditions, Some(&front), &mut cache)?;
        let several = model.step(&codes.narrow(1, 2, known - 2)?, &mut cache)?;
        golden::close("several", &several, &at, 2e-5)?;
        golden::close("after", &model.logits_after(&conditions, &codes, &lengths)?, &at, 2e-5)?;
    }
    Ok(())
}

#[test]
fn training_steps() -> Result<()> {
    let Some(group) = golden::group("llamagen_gpt")? else { return Ok(()) };
    let expected = group.expected("train.safetensors")?;
    let inputs = group.inputs()?;
    let vars = vars(&group, "model.safetensors")?;
    let tensors = vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone()));
    let vb = VarBuilder::from_tensors(tensors.collect(), DType::F32, &Device::Cpu);
    let model = Llama::new(&config(&group)?, vb)?;
    let decayed = |decay: bool| -> Vec<Var> {
        vars.values().filter(|var| (var.rank() >= 2) == decay).cloned().collect()
    };
    let extra = &group.manifest()["extra"];
    let number = |key: &str, default: f64| extra[key].as_f64().unwrap_or(default);
    let (lr, clip) = (number("lr", 1e-3), number("clip", 1.0));
    let options =
        |weight_decay| ParamsAdamW { lr, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay };
    let mut decaying = AdamW::new(decayed(true), options(number("weight_decay", 0.05)))?;
    let mut plain = AdamW::new(decayed(false), options(0.0))?;
    let idx = u32s(&inputs["idx"])?;
    let drop = group.manifest()["config"]["class_dropout_prob"].as_f64().context("drop")? as f32;
    for step in 0..3 {
        let draws = inputs[&format!("drop_u{step}")].to_vec1::<f32>()?;
        let dropped: Vec<_> = draws.iter().map(|&u| u < drop).collect();
        let conditions = model.drop_conditions(&conditions(&group)?, &dropped)?;
        let logits = model.forward(&conditions, &idx.narrow(1, 0, idx.dim(1)? - 1)?)?;
        if step == 0 {
            expected.check("step0/logits", &logits)?;
        }
        let loss = cross_entropy(&logits.flatten(0, 1)?, &idx.flatten_all()?)?;
        group.check_scalar(&format!("step{step}/loss"), f64::from(loss.to_scalar::<f32>()?))?;
        let mut grads = loss.backward()?;
        let mut square = 0.0;
        for var in vars.values() {
            let grad = grads.get(var).context("no gradient")?;
            square += f64::from(grad.sqr()?.sum_all()?.to_scalar::<f32>()?);
        }
        let factor = (clip / (square.sqrt() + 1e-6)).min(1.0);
        for var in vars.values() {
            let grad = (grads.get(var).context("no gradient")? * factor)?;
            grads.insert(var, grad);
        }
        for name in expected.names() {
            if let Some(parameter) = name.strip_prefix(&format!("step{step}/clipped_grad/")) {
                expected.check(name, grads.get(&vars[parameter]).context("no gradient")?)?;
            }
        }
        decaying.step(&grads)?;
        plain.step(&grads)?;
    }
    for name in expected.names() {
        if let Some(parameter) = name.strip_prefix("after/") {
            expected.check(name, vars[parameter].as_tensor())?;
        }
    }
    Ok(())
}
