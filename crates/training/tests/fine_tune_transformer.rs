//! Transformers that go on from models of others, and of our own.

#[path = "support/second_stage.rs"]
mod second_stage;
mod support;

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use image::{Rgb, RgbImage};
use pipeline::{
    ConvertOptions, DrawRequest, Generator, GeneratorSpec, LoadOptions, Sampling, Stream,
    Wavefront, convert_transformer,
};
use training::{Checkpoints, Limits, Loaded, RunConfig, TransformerTrainConfig, train_transformer};

use second_stage::{config, first_stage, setting, train};
use support::Warnings;

/// `config` for one step that changes nothing that can be seen, from the model at `from`.
fn still(mut config: TransformerTrainConfig, from: &Path) -> TransformerTrainConfig {
    (config.steps, config.optimizer.ema) = (1, 0.0);
    config.optimizer.schedule.lr = 1e-30;
    config.optimizer.clip = 0.0;
    config.model = TransformerTrainConfig::default().model;
    config.init.model = from.to_path_buf();
    config
}

/// The state of the run, and what it warned of.
fn state(config: &TransformerTrainConfig) -> Result<(Loaded, Vec<String>)> {
    let mut warnings = Warnings::default();
    train_transformer(config, &Device::Cpu, Limits::default(), &mut warnings)?;
    let checkpoints = Checkpoints::new(config.run.join("checkpoints"), 2);
    Ok((checkpoints.newest(&Device::Cpu)?.0.context("no checkpoint")?, warnings.0))
}

fn refusal(config: &TransformerTrainConfig) -> String {
    state(config).err().map(|e| format!("{e:#}")).unwrap_or_default()
}

/// Adam moves what is 0 by the learning rate, 1e-30.
fn same(name: &str, actual: &HashMap<String, Tensor>, expected: &Tensor) -> Result<()> {
    golden::close(name, actual.get(name).context("not there")?, expected, 1e-20)
}

fn row(weights: &HashMap<String, Tensor>, name: &str, row: usize) -> Result<Vec<f32>> {
    Ok(weights[name].get(row)?.to_vec1()?)
}

const TEXT: &str =
    "condition.kind=text condition.vocabulary=280 condition.tokens=6 condition.drop=0.2";

#[test]
fn the_same_condition_gives_the_same_model_and_moments_when_asked() -> Result<()> {
    let dir = setting()?;
    let mut first = config(dir.path(), "first", TEXT)?;
    first.optimizer.ema = 0.0;
    first.hand_out = training::HandOut::Last;
    train(&first, None)?;
    let (begun, _) = state(&first)?;

    let mut second = still(config(dir.path(), "second", TEXT)?, &first.run);
    let (plain, warnings) = state(&second)?;
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(plain.progress.updates, 1);
    let before = begun.section("model.");
    assert_eq!(before.len(), plain.section("model.").len());
    for (name, tensor) in &before {
        same(name, &plain.section("model."), tensor)?;
    }
    let tokenizer = |run: &Path| std::fs::read(run.join("tokenizer.json"));
    assert_eq!(tokenizer(&first.run)?, tokenizer(&second.run)?);
    // The architecture is the first's, though [model] was left out, and stays it without it.
    assert_eq!(
        TransformerTrainConfig::read(&second.run.join("config.toml"), &[])?.model,
        first.model
    );
    second.steps = 2;
    let (later, _) = state(&second)?;
    assert_eq!(later.progress.step, 2);

    second.run = dir.path().join("with moments");
    (second.steps, second.init.optimizer) = (1, true);
    let (moments, _) = state(&second)?;
    assert_eq!((moments.progress.step, moments.progress.updates), (1, 7));
    // The same batch gives the same gradient g: m is b1 m0 + (1 - b1) g here, (1 - b1) g there.
    let name = "optimizer.blocks.1.mlp.0.weight.exp_avg";
    let carried = (begun.tensors[name].clone() * first.optimizer.adam.beta1)?;
    golden::close(name, &moments.tensors[name], &(&plain.tensors[name] + carried)?, 1e-6)?;

    // A model folder has none, and weights in blocks are what these stand for.
    second.run = dir.path().join("without");
    second.init.model = first.run.join("model");
    assert!(refusal(&second).contains("init.optimizer = true needs a run folder"));
    Ok(())
}

#[test]
fn classes_keep_their_rows_by_name_and_new_ones_start_from_noise() -> Result<()> {
    let dir = setting()?;
    let by_class = "condition.kind=class condition.drop=0.1";
    let llama = "model.kind=llama model.n_layer=1 model.n_head=2 model.dim=16 model.multiple_of=8";
    let others = dir.path().join("others");
    for (class, shade) in [("amber", 90), ("light", 200)] {
        std::fs::create_dir_all(others.join(class))?;
        for i in 0..4u8 {
            let picture =
                RgbImage::from_fn(20, 20, |x, y| Rgb([9 * x as u8, 9 * y as u8, shade + i]));
            picture.save(others.join(class).join(format!("{i}.png")))?;
        }
    }
    // Codes and the token of no class are kept too.
    for (kind, settings, table, offset) in [
        ("gpt", by_class.to_owned(), "tok_emb.weight", 24),
        ("llama", format!("{by_class} {llama}"), "cls_embedding.embedding_table.weight", 0),
    ] {
        let mut first = config(dir.path(), kind, &settings)?;
        (first.optimizer.ema, first.hand_out) = (0.0, training::HandOut::Last);
        train(&first, None)?;
        let before = state(&first)?.0.section("model.");
        let run = format!("{kind}-others");
        let mut second = still(config(dir.path(), &run, &settings)?, &first.run.join("model"));
        second.data = others.clone();
        let (loaded, warnings) = state(&second)?;
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].starts_with("1 tokens of the condition are new"), "{warnings:?}");
        let after = loaded.section("model.");
        let [amber, light, none] = [offset, offset + 1, offset + 2];
        // There: dark, light, none. Here: amber, light, none.
        assert_eq!(row(&after, table, light)?, row(&before, table, light)?, "{kind}");
        assert_eq!(row(&after, table, none)?, row(&before, table, none)?, "{kind}");
        assert_ne!(row(&after, table, amber)?, row(&before, table, amber)?, "{kind}");
        for (name, tensor) in before.iter().filter(|(name, _)| name.contains("layers.0.att")) {
            same(name, &after, tensor)?;
        }
    }
    Ok(())
}

#[test]
fn another_condition_codebook_or_size_is_new_warned_of_or_refused() -> Result<()> {
    let dir = setting()?;
    let first = config(dir.path(), "first", TEXT)?;
    train(&first, None)?;
    let model = first.run.join("model");
    let before = candle_core::safetensors::load(model.join("model.safetensors"), &Device::Cpu)?;

    // No condition instead of 6 positions of text: positions of codes move to the front.
    let mut other = still(config(dir.path(), "free", "condition.kind=none")?, &model);
    let (loaded, warnings) = state(&other)?;
    assert!(warnings[0].contains("1 tokens of the condition are new"), "{warnings:?}");
    let after = loaded.section("model.");
    let positions = after["pos_emb"].dim(1)? - 1;
    let expected = before["pos_emb"].narrow(1, 6, positions)?;
    golden::close("pos_emb", &after["pos_emb"].narrow(1, 1, positions)?, &expected, 1e-20)?;
    let codes = |weights: &HashMap<String, Tensor>| weights["head.weight"].narrow(0, 0, 24);
    golden::close("head", &codes(&after)?, &codes(&before)?, 1e-20)?;

    // The same sizes from other weights.
    other.run = dir.path().join("other codec");
    other.first_stage = dir.path().join("vqgan 4");
    first_stage(&other.first_stage, 24, 4)?;
    let (_, warnings) = state(&other)?;
    assert!(warnings[0].contains("codes of another first stage"), "{warnings:?}");

    other.run = dir.path().join("more codes");
    other.first_stage = dir.path().join("vqgan 25");
    first_stage(&other.first_stage, 25, 3)?;
    let error = refusal(&other);
    assert!(error.contains("it draws 24 kinds of codes") && error.contains("has 25"), "{error}");

    let mut larger = still(config(dir.path(), "larger", TEXT)?, &model);
    (larger.pictures.side, larger.pictures.largest) = (32, 32);
    let error = refusal(&larger);
    assert!(error.contains("4x4 codes") && error.contains("0.5 times"), "{error}");

    let mut turned = still(config(dir.path(), "turned", TEXT)?, &model);
    turned.order = cond_transformer::Order::SpiralIn;
    assert!(refusal(&turned).contains("in the order Identity"), "{}", refusal(&turned));

    let mut wider = still(config(dir.path(), "wider", TEXT)?, &model);
    wider.model = training::ModelSetting::Gpt { n_layer: 2, n_head: 2, n_embd: 32 };
    assert!(refusal(&wider).contains("leave [model] out"));
    wider.model = TransformerTrainConfig::default().model;
    wider.init.model = dir.path().join("nowhere");
    assert!(refusal(&wider).contains("init.model"));
    Ok(())
}

/// What the reference trained draws the same codes after a step of ours that changes
/// nothing, though its classes shared rows with its codes and have rows of their own here.
#[test]
fn a_reference_transformer_is_gone_on_from() -> Result<()> {
    let Some(group) = golden::group("net2net_class")? else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let reference = dir.path().join("2021_reference");
    for (part, from, to) in
        [("configs", "config.yaml", "1-project.yaml"), ("checkpoints", "last.ckpt", "last.ckpt")]
    {
        std::fs::create_dir_all(reference.join(part))?;
        std::fs::copy(group.path(from), reference.join(part).join(to))?;
    }
    let load = |folder: &Path| {
        Generator::load(&GeneratorSpec::new(folder), &LoadOptions::default()).context("load")
    };
    let before = load(&reference)?;
    let names = ["3", "7"];
    for class in names {
        let folder = dir.path().join("pictures").join(class);
        std::fs::create_dir_all(&folder)?;
        for i in 0..4u8 {
            let picture = RgbImage::from_fn(18, 18, |x, y| Rgb([9 * x as u8, 9 * y as u8, 60 * i]));
            picture.save(folder.join(format!("{i}.png")))?;
        }
    }
    let by_class = "condition.kind=class condition.drop=0.1";
    let mut config = still(config(dir.path(), "run", by_class)?, &reference);
    config.first_stage = reference.clone();
    assert!(refusal(&config).contains("synth-cli convert makes one of it"));
    let ours = dir.path().join("ours");
    convert_transformer(&GeneratorSpec::new(&reference), &ours, &ConvertOptions::default())?;
    config.first_stage = ours.join("first_stage");
    let (_, warnings) = state(&config)?;
    // The token of no class.
    assert!(warnings[0].starts_with("1 tokens of the condition are new"), "{warnings:?}");
    let after = load(&config.run)?;
    for class in names {
        let draw = |generator: &Generator| -> Result<Vec<u32>> {
            let request = DrawRequest {
                fronts: vec![generator.front_of_class(class)?],
                streams: vec![Stream { seed: 1, sample: 0 }],
                grid: (8, 8),
                sampling: Sampling::greedy(),
                guidance: None,
                forced: Vec::new(),
                wavefront: Wavefront::default(),
            };
            let codes = generator.draw(&request, &mut |_| ())?;
            Ok(codes.to_vec()?)
        };
        assert_eq!(draw(&before)?, draw(&after)?, "class {class}");
    }
    Ok(())
}
