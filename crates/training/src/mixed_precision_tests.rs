//! Training in half precision: in f16, which CPUs multiply, by the paths that every dtype
//! without kernels takes. bf16 goes the same way on a GPU. And in f32 with products that are
//! rounded, where the CPU has tiles.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use candle_nn::Init;
use cond_transformer::{GptConfig, LlamaConfig, PrefixConfig};
use image::{Rgb, RgbImage};
use pipeline::{Architecture, CodecInput};
use serde_json::{Map, Value};
use vq_autoencoder::VqModel;

use crate::adam::{Adam, AdamConfig};
use crate::build::{adversary, reconstruction_loss};
use crate::checkpoint::Checkpoints;
use crate::config::{Precision, RunConfig, TrainConfig};
use crate::export::write_model;
use crate::meter::MEASURED;
use crate::run::Limits;
use crate::step::VqTrainer;
use crate::store::ParameterStore;
use crate::transformer::{
    CodeModel, Lesson, TransformerOutcome, TransformerTrainConfig, TransformerTrainer,
    train_transformer_in,
};
use crate::vqgan::train_vqgan_in;

const HALF: DType = DType::F16;

/// How far a gradient in f16 may be from that in f32, as a share of its norm: sums in f16 are
/// off by 2^-11 at every step, and what reaches the first layers has gone through some twenty
/// layers. Seen were 0.04.
const GRADIENTS: f64 = 0.06;
/// The same of losses. Seen were 6e-4.
const LOSSES: f64 = 2e-3;
/// How much coarser bf16 is than f16: it has three bits fewer.
const COARSER: f64 = 8.0;

fn vq_config() -> Result<TrainConfig> {
    let text = r#"
        steps = 3
        batch = 2
        accumulate = 2
        [pictures]
        side = 16
        largest = 20
        [optimizer]
        clip = 1.0
        [optimizer.schedule]
        lr = 1e-3
        [revival]
        every = 2
        until = 1.0
        [adversarial]
        weight = 0.5
        start = 1
        [adversarial.patchgan]
        ndf = 8
        n_layers = 1
        [validation]
        every = 2
        fraction = 0.3
        [log]
        every = 1
        preview_every = 2
        [model]
        layout = "taming"
        in_channels = 3
        out_channels = 3
        ch = 32
        ch_mult = [1, 1]
        num_res_blocks = 1
        attn_resolutions = [8]
        resolution = 16
        z_channels = 8
        [model.quantizer]
        kind = "normalized"
        len = 32
        dim = 4
    "#;
    TrainConfig::parse(text, &[])
}

fn vq_trainer(config: &TrainConfig, compute: DType) -> Result<VqTrainer> {
    let device = Device::Cpu;
    let parameters = ParameterStore::new(config.seed);
    let model = VqModel::new(&config.model, parameters.var_builder(compute, &device))?;
    let loss = reconstruction_loss(config, &device)?;
    VqTrainer::new(config, model, parameters, loss, adversary(config, &device)?)
}

fn images() -> Result<Tensor> {
    let ramp = Tensor::arange(0f32, (4 * 3 * 16 * 16) as f32, &Device::Cpu)?;
    Ok((ramp * 0.7)?.sin()?.reshape((4, 3, 16, 16))?)
}

/// Checks that `half` is near `exact`, each of its tensors by its norm. A gradient that is
/// small beside all of them together is measured by these: the bias of attention's keys has
/// one of 0 but for rounding.
fn near(half: &[(String, Tensor)], exact: &[(String, Tensor)], share: f64) -> Result<()> {
    ensure!(half.len() == exact.len() && half.len() > 4, "{} of {}", half.len(), exact.len());
    let norm = |t: &Tensor| -> Result<f64> {
        Ok(t.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?.sqrt())
    };
    let mut largest = 0f64;
    for (_, gradient) in exact {
        largest = largest.max(norm(gradient)?);
    }
    for ((name, half), (_, exact)) in half.iter().zip(exact) {
        ensure!(half.dtype() == DType::F32, "{name} is {:?}", half.dtype());
        let (distance, size) = (norm(&(half - exact)?)?, norm(exact)?);
        let allowed = share * size.max(0.01 * largest);
        ensure!(distance <= allowed, "{name}: {distance} from one of norm {size}");
    }
    Ok(())
}

fn close(name: &str, half: f64, exact: f64, share: f64) -> Result<()> {
    ensure!((half - exact).abs() <= share * exact.abs().max(1.0), "{name}: {half}, not {exact}");
    Ok(())
}

/// 1 has no neighbour in f16 nearer than 2^-11 below it, and a step here is 1e-5.
#[test]
fn updates_below_the_resolution_of_a_weight_add_up() -> Result<()> {
    const STEPS: usize = 200;
    let store = ParameterStore::new(0);
    let vb = store.var_builder(HALF, &Device::Cpu);
    let weight = vb.get_with_hints(5, "w", Init::Const(1.0))?;
    let mut adam = Adam::new(AdamConfig::default(), &store)?;
    let mut rounded = weight.copy()?;
    for _ in 0..STEPS {
        let store_of_graph = (weight.sqr()? * 0.5)?.sum_all()?.backward()?;
        let gradients = store.gradients(|parameter| store_of_graph.get(parameter))?;
        adam.update(&gradients, 1e-5, 1.0)?;
        store.refresh()?;
        // The same steps taken by a weight that is f16 itself.
        rounded = (rounded.to_dtype(DType::F32)? - 1e-5)?.to_dtype(HALF)?;
    }
    let expected = 1.0 - 1e-5 * STEPS as f32;
    let master = store.variable("w")?.to_vec1::<f32>()?;
    assert!(master.iter().all(|value| (value - expected).abs() < 2e-5), "{master:?}");
    let copy = weight.to_dtype(DType::F32)?.to_vec1::<f32>()?;
    assert!(copy.iter().all(|value| (value - expected).abs() < 2f32.powi(-11)), "{copy:?}");
    assert_eq!(rounded.to_dtype(DType::F32)?.to_vec1::<f32>()?, [1.0; 5]);
    Ok(())
}

/// Both orders of the two updates, a batch in two parts, a discriminator. Gradients are
/// compared while weights are the same: later a vector that lies between two codes may have
/// another one, and then they are those of another function.
#[test]
fn a_first_stage_learns_nearly_as_in_f32() -> Result<()> {
    compare_first_stages(HALF, Precision::F32, 1.0)
}

/// On a CPU bf16 is what the factors of products are rounded to, the discriminator's, too.
#[test]
fn a_first_stage_learns_with_rounded_products_nearly_as_in_f32() -> Result<()> {
    if !Precision::Bf16.factors().are_rounded() {
        eprintln!("skipped: this CPU does not multiply tiles of bf16");
        return Ok(());
    }
    compare_first_stages(DType::F32, Precision::Bf16, COARSER)
}

/// Updates in `compute`, products rounded as `precision` says, beside some in f32: as near as f16
/// is, but for a factor.
fn compare_first_stages(compute: DType, precision: Precision, factor: f64) -> Result<()> {
    use crate::config::UpdateOrder::{Reference, SingleForward};
    for order in [SingleForward, Reference] {
        let mut config = vq_config()?;
        config.adversarial.order = order;
        let mut exact = vq_trainer(&config, DType::F32)?;
        config.precision = precision;
        let mut half = vq_trainer(&config, compute)?;
        assert_eq!(half.model.dtype(), compute);
        assert_eq!(half.model.quantizer().codebook().dtype(), DType::F32);
        for step in 0..3 {
            let (a, b) = (half.step(&images()?, 1e-5, step)?, exact.step(&images()?, 1e-5, step)?);
            ensure!(a.broken.is_none() && b.broken.is_none());
            for name in ["pixel_loss", "codebook_loss", "commit_loss", "total_loss", "latent_rms"] {
                close(name, a.terms[name], b.terms[name], factor * LOSSES)
                    .with_context(|| format!("{order:?}, step {step}"))?;
            }
            if step == 0 {
                near(&a.gradients, &b.gradients, factor * GRADIENTS)?;
            } else {
                assert!(!a.critic_gradients.is_empty());
            }
        }
        for (name, var) in half.parameters.variables() {
            assert_eq!(var.dtype(), DType::F32, "{name}");
        }
    }
    Ok(())
}

fn lessons(conditions: u32) -> Result<Vec<Lesson>> {
    let lesson = |seed: u32| -> Result<Lesson> {
        let codes: Vec<u32> = (0..3 * 16).map(|i| (i * i + seed * i + seed) % 11).collect();
        let targets = Tensor::from_vec(codes, (3, 16), &Device::Cpu)?;
        let conditions =
            Tensor::new(&[[conditions], [conditions + 1], [conditions]], &Device::Cpu)?;
        Ok(Lesson { conditions, inputs: targets.clone(), targets })
    };
    Ok(vec![lesson(1)?, lesson(5)?])
}

/// Both architectures, with dropout, over two lessons.
#[test]
fn a_transformer_learns_nearly_as_in_f32() -> Result<()> {
    compare_transformers(HALF, Precision::F32)
}

/// On a CPU bf16 is what the factors of products are rounded to.
#[test]
fn a_transformer_learns_with_rounded_products_nearly_as_in_f32() -> Result<()> {
    if !Precision::Bf16.factors().are_rounded() {
        eprintln!("skipped: this CPU does not multiply tiles of bf16");
        return Ok(());
    }
    compare_transformers(DType::F32, Precision::Bf16)
}

/// Updates in `compute`, products rounded as `precision` says, beside some in f32.
fn compare_transformers(compute: DType, precision: Precision) -> Result<()> {
    let gpt = GptConfig {
        vocab_size: 13,
        block_size: 16,
        n_layer: 2,
        n_head: 2,
        n_embd: 32,
        n_unmasked: 0,
    };
    let llama = LlamaConfig {
        vocab_size: 11,
        block_size: 16,
        dim: 32,
        n_layer: 2,
        n_head: 4,
        n_kv_head: Some(2),
        multiple_of: 8,
        ffn_dim_multiplier: None,
        rope_base: 10_000.0,
        norm_eps: 1e-5,
        prefix: PrefixConfig::Class { classes: 2 },
    };
    let mut config = TransformerTrainConfig::default();
    config.dropout.residual = 0.1;
    config.dropout.attention = 0.1;
    config.optimizer.clip = 1.0;
    for (architecture, condition) in [(Architecture::Gpt(gpt), 11), (Architecture::Llama(llama), 0)]
    {
        let trainer = |compute, precision| -> Result<TransformerTrainer> {
            let config = TransformerTrainConfig { precision, ..config.clone() };
            let store = ParameterStore::new(7);
            let model = CodeModel::new(&architecture, store.var_builder(compute, &Device::Cpu))?;
            TransformerTrainer::new(&config, model, store, 11, None)
        };
        let (mut half, mut exact) =
            (trainer(compute, precision)?, trainer(DType::F32, Precision::F32)?);
        for step in 0..4 {
            let lessons = lessons(condition)?;
            let update = |trainer: &mut TransformerTrainer| trainer.update(&lessons, 1e-3, step);
            let (a, b): (TransformerOutcome, TransformerOutcome) =
                (update(&mut half)?, update(&mut exact)?);
            close("nll", a.terms["nll"], b.terms["nll"], LOSSES)?;
            near(&a.gradients, &b.gradients, GRADIENTS).with_context(|| format!("step {step}"))?;
        }
    }
    Ok(())
}

fn pictures(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    for i in 0..9u32 {
        let picture = RgbImage::from_fn(20 + i, 18, |x, y| {
            Rgb([(6 * x) as u8, (6 * y) as u8, if i % 2 == 0 { 20 } else { 200 }])
        });
        picture.save(folder.join(format!("{i:02}.png")))?;
    }
    Ok(())
}

/// All of the newest checkpoint, which is f32 but for counts, and the log of a run.
type Left = (BTreeMap<String, Vec<u64>>, Vec<Map<String, Value>>);

fn left(config: &impl RunConfig) -> Result<Left> {
    let run = config.frame().run;
    let loaded = Checkpoints::new(run.join("checkpoints"), 2).newest(&Device::Cpu)?.0;
    let loaded = loaded.context("no checkpoint")?;
    ensure!(loaded.progress.step == config.frame().steps);
    let mut bits = BTreeMap::new();
    for (name, tensor) in &loaded.tensors {
        ensure!(tensor.dtype() != HALF, "{name} was saved in half precision");
        let values = tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        bits.insert(name.clone(), values.into_iter().map(f64::to_bits).collect());
    }
    let text = std::fs::read_to_string(run.join("metrics.jsonl"))?;
    let lines = text.lines().map(|line| {
        let mut line: Map<String, Value> = serde_json::from_str(line)?;
        line.retain(|name, _| !MEASURED.contains(&name.as_str()));
        Ok(line)
    });
    Ok((bits, lines.collect::<Result<_>>()?))
}

/// A run that was stopped is the one that was not, and hands out f32 weights.
#[test]
fn resumed_runs_are_uninterrupted_ones() -> Result<()> {
    compare_resumed(HALF, Precision::F32)
}

#[test]
fn resumed_runs_with_rounded_products_are_uninterrupted_ones() -> Result<()> {
    if !Precision::Bf16.factors().are_rounded() {
        eprintln!("skipped: this CPU does not multiply tiles of bf16");
        return Ok(());
    }
    compare_resumed(DType::F32, Precision::Bf16)
}

fn compare_resumed(compute: DType, precision: Precision) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("pictures");
    pictures(&data)?;
    let (whole, parts) = (Limits::default(), Limits { stop_at: Some(2), ..Limits::default() });

    let mut runs = Vec::new();
    for (name, stops) in [("whole", vec![whole]), ("parts", vec![parts, whole])] {
        let mut config = TrainConfig { precision, ..vq_config()? };
        (config.pictures.side, config.pictures.largest) = (8, 10);
        (config.data, config.run) = (data.clone(), dir.path().join(format!("vq-{name}")));
        for limits in stops {
            train_vqgan_in(compute, &config, &Device::Cpu, limits, &mut ())?;
        }
        let weights = config.run.join("model/model.safetensors");
        let weights = candle_core::safetensors::load(weights, &Device::Cpu)?;
        assert!(weights.values().all(|tensor| tensor.dtype() == DType::F32));
        runs.push(left(&config)?);
    }
    assert!(runs[0] == runs[1], "first stage");
    assert!(runs[0].1.iter().any(|line| line.contains_key("val_psnr")));

    let first = vq_config()?;
    let store = ParameterStore::new(3);
    VqModel::new(&first.model, store.var_builder(DType::F32, &Device::Cpu))?;
    let folder = dir.path().join("codec");
    write_model(&folder, &first, &CodecInput::Pictures, 0, &store.tensors(), None)?;
    let mut runs = Vec::new();
    for (name, stops) in [("whole", vec![whole]), ("parts", vec![parts, whole])] {
        let mut config = TransformerTrainConfig { precision, ..Default::default() };
        (config.steps, config.batch, config.accumulate) = (4, 2, 2);
        (config.pictures.side, config.pictures.largest) = (16, 18);
        (config.validation.every, config.validation.fraction) = (2, 0.3);
        config.log.every = 1;
        (config.dropout.residual, config.optimizer.ema) = (0.1, 0.9);
        (config.data, config.first_stage) = (data.clone(), folder.clone());
        config.run = dir.path().join(format!("transformer-{name}"));
        for limits in stops {
            train_transformer_in(compute, &config, &Device::Cpu, limits, &mut ())?;
        }
        runs.push(left(&config)?);
    }
    assert!(runs[0] == runs[1], "transformer");
    assert!(runs[0].1.iter().any(|line| line.contains_key("val_nll")));
    Ok(())
}
