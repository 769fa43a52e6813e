//! The reference's own codes, activations, pictures and gradients.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, IndexOp, Tensor, Var};
use candle_nn::VarBuilder;
use codebook::{AnyQuantizer, GumbelQuantizer, Quantized, QuantizerConfig};
use golden::{Expected, Group};
use serde_json::Value;
use vq_autoencoder::{ImageCodec, Layout, VqConfig, VqModel};

const CPU: Device = Device::Cpu;

type Weights = HashMap<String, Tensor>;

fn model(config: &VqConfig, weights: &Weights) -> Result<VqModel> {
    let dtype = weights.values().next().map_or(DType::F32, Tensor::dtype);
    let vb = VarBuilder::from_tensors(weights.clone(), dtype, &CPU);
    Ok(VqModel::new(config, vb)?)
}

/// The model, and its weights as variables to take gradients of.
fn trainable(config: &VqConfig, weights: Weights, dtype: DType) -> Result<(VqModel, Weights)> {
    let weights = weights
        .into_iter()
        .filter(|(_, tensor)| tensor.dtype().is_float())
        .map(|(name, tensor)| Ok((name, Var::from_tensor(&tensor.to_dtype(dtype)?)?.into_inner())))
        .collect::<Result<Weights>>()?;
    Ok((model(config, &weights)?, weights))
}

/// The weights below `prefix`, named without it.
fn below(prefix: &str, weights: &Weights) -> Weights {
    let own = |(name, tensor): (&String, &Tensor)| {
        Some((name.strip_prefix(prefix)?.to_owned(), tensor.clone()))
    };
    weights.iter().filter_map(own).collect()
}

/// The `model` entry of the group's project file.
fn project(group: &Group, file: &str) -> Result<Value> {
    let yaml = std::fs::read_to_string(group.path(file))?;
    let project: Value = serde_saphyr::from_str(&yaml)?;
    Ok(project["model"].clone())
}

/// The autoencoder that a `target` and its `params` describe.
fn reference_config(model: &Value) -> Result<VqConfig> {
    let target = model["target"].as_str().context("target")?;
    Ok(VqConfig::from_reference(target, &model["params"])?)
}

/// Compares with every part of a forward pass of `x` that `expected` holds
/// under `prefix`, and returns how many there were.
fn check_parts(
    model: &VqModel,
    x: &Tensor,
    group: &Group,
    expected: &Expected,
    prefix: &str,
) -> Result<usize> {
    let mut activations = HashMap::new();
    let (rec, quantized) = model.observe(x, &mut |name, output| {
        activations.insert(name.to_owned(), output.clone());
    })?;
    let codes = model.encode(x)?;
    ensure!(codes.to_vec()? == quantized.codes.to_vec()?, "codes() is not quantize().codes");
    if group.manifest()["scalars"].get(format!("{prefix}emb_loss")).is_some() {
        let loss = quantized.losses.total.to_scalar::<f32>()?;
        group.check_scalar(&format!("{prefix}emb_loss"), f64::from(loss))?;
    }
    let embed = || codebook::Quantizer::embed(model.quantizer(), &codes);
    let mut checked = 0;
    for name in expected.names() {
        let Some(part) = name.strip_prefix(prefix) else { continue };
        let actual = match part {
            "enc_h" => model.features(x)?,
            "pre_quant" => model.pre_quant(x)?,
            "indices" => codes.codes().clone(),
            "z_q" => quantized.embeddings.clone(),
            "codebook_entry" => embed()?,
            "post_quant" => model.post_quant(&quantized.embeddings)?,
            "rec" => rec.clone(),
            "rec_from_codes" | "decode_code" => model.decode(&codes)?,
            _ => match part.strip_prefix("act/") {
                Some(module) => {
                    activations.get(module).with_context(|| format!("no {module}"))?.i(0..1)?
                }
                None => continue,
            },
        };
        expected.check(name, &actual)?;
        checked += 1;
    }
    Ok(checked)
}

/// Every input picture whose outputs are in the group: `x` and those named as
/// a prefix of outputs.
fn check_group(group: &Group, model: &VqModel) -> Result<()> {
    let expected = group.expected("outputs.safetensors")?;
    for (name, input) in group.inputs()? {
        let prefix = if name == "x" { String::new() } else { format!("{name}/") };
        if expected.names().contains(&format!("{prefix}indices").as_str()) {
            let checked = check_parts(model, &input, group, &expected, &prefix)?;
            ensure!(checked >= 3, "only {checked} outputs of {name}");
        }
    }
    Ok(())
}

#[test]
fn vqgan_forward() -> Result<()> {
    for name in ["vqgan_a", "vqgan_b"] {
        let Some(group) = golden::group(name)? else { return Ok(()) };
        let config = reference_config(&project(&group, "config.yaml")?)?;
        let model = model(&config, &group.tensors("model.safetensors")?)?;
        check_group(&group, &model).context(name)?;
    }
    Ok(())
}

#[test]
fn checkpoint_of_the_real_trainer() -> Result<()> {
    let Some(group) = golden::group("ckpt_real_main")? else { return Ok(()) };
    let config = reference_config(&project(&group, "project.yaml")?)?;
    let file = checkpoints::TensorFile::open(group.path("last.ckpt"))?;
    let weights = checkpoints::expected_tensors(|vb| Ok(VqModel::new(&config, vb)?))?
        .into_keys()
        .map(|name| {
            let tensor = file.tensor(&name, &CPU)?;
            Ok((name, tensor))
        })
        .collect::<Result<Weights>>()?;
    check_group(&group, &model(&config, &weights)?)
}

#[test]
fn llamagen_forward() -> Result<()> {
    let Some(group) = golden::group("llamagen_vq")? else { return Ok(()) };
    let facts = &group.manifest()["config"];
    let size = |value: &Value| value.as_u64().map(|n| n as usize).context("size");
    let channels = size(&facts["x"][1])?;
    let config = VqConfig {
        layout: Layout::LlamaGen,
        in_channels: channels,
        out_channels: channels,
        ch: size(&facts["ch"])?,
        ch_mult: facts["mult"]
            .as_array()
            .context("mult")?
            .iter()
            .map(size)
            .collect::<Result<_>>()?,
        num_res_blocks: size(&facts["nres"])?,
        attn_resolutions: vec![],
        resolution: 256,
        z_channels: size(&facts["z"])?,
        quantizer: QuantizerConfig::Normalized {
            len: size(&facts["K"])?,
            dim: size(&facts["e"])?,
            beta: facts["beta"].as_f64().context("beta")?,
            entropy_ratio: facts["ent"].as_f64().context("ent")?,
        },
        dropout: 0.0,
    };
    check_group(&group, &model(&config, &group.tensors("model.safetensors")?)?)
}

fn gumbel(quantizer: &AnyQuantizer) -> &GumbelQuantizer {
    match quantizer {
        AnyQuantizer::Gumbel(quantizer) => quantizer,
        _ => panic!("not a Gumbel quantizer"),
    }
}

#[test]
fn gumbel_forward_and_gradients() -> Result<()> {
    let Some(group) = golden::group("gumbel")? else { return Ok(()) };
    for dtype in [DType::F32, DType::F64] {
        check_gumbel(&group, dtype).with_context(|| format!("{dtype:?}"))?;
    }
    Ok(())
}

fn check_gumbel(group: &Group, dtype: DType) -> Result<()> {
    let config = reference_config(&project(group, "config.yaml")?)?;
    let (model, weights) = trainable(&config, group.tensors("model.safetensors")?, dtype)?;
    let inputs = group.inputs()?;
    let [x, noise, w] = ["x", "gumbel", "w"].map(|name| inputs[name].to_dtype(dtype));
    let (x, noise, w) = (x?, noise?, w?);
    let expected = group.expected("outputs.safetensors")?;
    let tau = group.manifest()["config"]["tau"].as_f64().context("tau")?;
    let scalar = |name: &str, value: &Tensor| -> Result<()> {
        let value = value.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        group.check_scalar(name, value)
    };
    let forward = |hard: bool| -> Result<(Tensor, Quantized)> {
        let sample = |q: &AnyQuantizer, z: &Tensor| gumbel(q).sample(z, tau, hard, &noise);
        Ok(model.forward_train_with(&x, sample)?)
    };

    let z = model.pre_quant(&x)?;
    expected.check("eval/pre_quant", &z)?;
    let bias = weights["quantize.proj.bias"].reshape((1, (), 1, 1))?;
    let logits = z.conv2d(&weights["quantize.proj.weight"], 0, 1, 1, 1)?.broadcast_add(&bias)?;
    expected.check("eval/logits", &logits)?;
    let (rec, quantized) = forward(true)?;
    expected.check("eval/indices", quantized.codes.codes())?;
    expected.check("eval/z_q", &quantized.embeddings)?;
    expected.check("eval/rec", &rec)?;
    scalar("eval/kl", &quantized.losses.total)?;

    // What `encode` and `decode` do: no noise.
    let codes = model.encode(&x)?;
    expected.check("eval_det/indices", codes.codes())?;
    expected.check("eval_det/z_q", &codebook::Quantizer::embed(model.quantizer(), &codes)?)?;
    expected.check("eval_det/rec", &model.decode(&codes)?)?;

    for (mode, hard) in [("train_hard", true), ("train_soft", false)] {
        let (rec, quantized) = forward(hard)?;
        expected.check(&format!("{mode}/rec"), &rec)?;
        scalar(&format!("{mode}/kl"), &quantized.losses.total)?;
        let loss = ((rec * &w)?.mean_all()? + quantized.losses.total)?;
        // In f32 this mean of products of either sign, each well within the
        // tolerance of `rec`, can miss the loss's own (1.1 times it has been
        // seen): the reference's rounding errors happened to cancel.
        if dtype == DType::F64 {
            scalar(&format!("{mode}/loss"), &loss)?;
        }
        check_gradients(&loss, &weights, &expected, &format!("{mode}/grad/"))?;
    }
    Ok(())
}

fn check_gradients(
    loss: &Tensor,
    weights: &Weights,
    expected: &Expected,
    prefix: &str,
) -> Result<()> {
    let gradients = loss.backward()?;
    for name in expected.names() {
        if let Some(key) = name.strip_prefix(prefix) {
            let weight = weights.get(key).with_context(|| format!("no weight {key}"))?;
            let gradient = gradients.get(weight).with_context(|| format!("no gradient {key}"))?;
            expected.check(name, gradient)?;
        }
    }
    Ok(())
}

/// Label maps `[B, H, W]` as `[B, labels, H, W]`.
fn one_hot(labels: &Tensor, count: usize) -> Result<Tensor> {
    let classes = Tensor::arange(0_i64, count as i64, &CPU)?.reshape((1, count, 1, 1))?;
    let labels = labels.to_dtype(DType::I64)?.unsqueeze(1)?;
    Ok(labels.broadcast_eq(&classes)?.to_dtype(DType::F32)?)
}

/// Two autoencoders beside a transformer; the condition is a segmentation.
#[test]
fn segmentation_condition() -> Result<()> {
    let Some(group) = golden::group("net2net_seg")? else { return Ok(()) };
    let params = project(&group, "config.yaml")?["params"].clone();
    let weights = group.tensors("model.safetensors")?;
    let first_config = reference_config(&params["first_stage_config"])?;
    let first = model(&first_config, &below("first_stage_model.", &weights))?;
    let cond_config = reference_config(&params["cond_stage_config"])?;
    let (cond, cond_weights) =
        trainable(&cond_config, below("cond_stage_model.", &weights), DType::F32)?;
    let inputs = group.inputs()?;
    let expected = group.expected("outputs.safetensors")?;
    let classes = |name: &str| one_hot(&inputs[name], cond_config.in_channels);

    let labels = classes("labels")?;
    expected.check("z_indices", first.encode(&inputs["x"])?.codes())?;
    expected.check("big/z_indices", first.encode(&inputs["x_big"])?.codes())?;
    let codes = cond.encode(&labels)?;
    expected.check("c_indices", codes.codes())?;
    expected.check("cond_rec", &cond.decode(&codes)?)?;
    expected.check("big/c_indices", cond.encode(&classes("labels_big")?)?.codes())?;

    let (logits, quantized) = cond.forward_train(&labels)?;
    // max(x, 0) - x y + log(1 + exp(-|x|)), away from overflow.
    let bce = ((logits.relu()? - (&logits * &labels)?)?
        + (logits.abs()?.neg()?.exp()? + 1.0)?.log()?)?
    .mean_all()?;
    let loss = (&bce + &quantized.losses.total)?;
    for (name, value) in
        [("bce_loss", &bce), ("quant_loss", &quantized.losses.total), ("total_loss", &loss)]
    {
        group.check_scalar(&format!("segmode/{name}"), f64::from(value.to_scalar::<f32>()?))?;
    }
    check_gradients(&loss, &cond_weights, &expected, "segmode/grad/")
}

/// A condition of one channel.
#[test]
fn depth_condition() -> Result<()> {
    let Some(group) = golden::group("net2net_depth")? else { return Ok(()) };
    let params = project(&group, "config.yaml")?["params"].clone();
    let weights = group.tensors("model.safetensors")?;
    let inputs = group.inputs()?;
    let expected = group.expected("outputs.safetensors")?;
    let stage = |name: &str| -> Result<VqModel> {
        let config = reference_config(&params[format!("{name}_config")])?;
        model(&config, &below(&format!("{name}_model."), &weights))
    };
    let embeddings = |model: &VqModel, x: &Tensor| -> Result<Tensor> {
        Ok(model.observe(x, &mut |_, _| ())?.1.embeddings)
    };
    expected.check("quant_z", &embeddings(&stage("first_stage")?, &inputs["x"])?)?;
    // F.interpolate, nearest, to `downsample_cond_size`.
    let side = params["downsample_cond_size"].as_u64().context("downsample_cond_size")? as usize;
    let depth = inputs["d"].upsample_nearest2d(side, side)?;
    expected.check("quant_c", &embeddings(&stage("cond_stage")?, &depth)?)
}
