//! Training goes on from models of others, and of our own.

mod support;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use checkpoints::TensorFile;
use image::{Rgb, RgbImage};
use training::{Checkpoints, Limits, Loaded, RunConfig, TrainConfig, train_vqgan};

use support::Warnings;

fn pictures(folder: &Path) -> Result<PathBuf> {
    let data = folder.join("pictures");
    std::fs::create_dir(&data)?;
    for i in 0..3u8 {
        let picture = RgbImage::from_fn(32, 32, |x, y| Rgb([8 * x as u8, 8 * y as u8, 80 * i]));
        picture.save(data.join(format!("{i}.png")))?;
    }
    Ok(data)
}

/// One step that changes nothing that can be seen.
const STILL: &str = r#"
    steps = 1
    batch = 2
    [pictures]
    side = 32
    largest = 32
    [optimizer.schedule]
    lr = 1e-30
    [adversarial]
    weight = 0.8
    start = 100
    [adversarial.patchgan]
    ndf = 16
    n_layers = 2
"#;

fn train(config: &TrainConfig) -> Result<(Loaded, Vec<String>)> {
    let mut warnings = Warnings::default();
    train_vqgan(config, &Device::Cpu, Limits::default(), &mut warnings)?;
    let checkpoints = Checkpoints::new(config.run.join("checkpoints"), 2);
    Ok((checkpoints.newest(&Device::Cpu)?.0.context("no checkpoint")?, warnings.0))
}

fn config(dir: &Path, data: &Path, settings: &[String]) -> Result<TrainConfig> {
    let mut config = TrainConfig::parse(STILL, settings)?;
    config.data = data.to_path_buf();
    config.run = dir.join("run");
    config.validation.fraction = 0.0;
    Ok(config)
}

fn same(name: &str, actual: &HashMap<String, Tensor>, expected: &Tensor) -> Result<()> {
    let actual = actual.get(name).with_context(|| format!("no {name}"))?;
    // Adam moves what is 0 by the learning rate, 1e-30.
    golden::close(name, actual, &expected.to_dtype(actual.dtype())?, 1e-20)
}

/// The checkpoint that the reference's own `main.py` wrote, discriminator and all.
#[test]
fn a_reference_checkpoint_is_gone_on_from() -> Result<()> {
    let Some(group) = golden::group("ckpt_real_main")? else { return Ok(()) };
    let (weights, project) = (group.path("last.ckpt"), group.path("project.yaml"));
    let dir = tempfile::tempdir()?;
    let data = pictures(dir.path())?;
    let settings =
        [format!("init.model={}", weights.display()), format!("init.config={}", project.display())];
    let mut config = config(dir.path(), &data, &settings)?;
    let (loaded, warnings) = train(&config)?;
    assert_eq!(warnings, Vec::<String>::new());
    let file = TensorFile::open(&weights)?;
    let (model, critic) = (loaded.section("model."), loaded.section("critic."));
    let mut discriminators = 0;
    for name in file.names() {
        let tensor = file.tensor(name, &Device::Cpu)?;
        if name.starts_with("loss.discriminator.") {
            same(name, &critic, &tensor)?;
            discriminators += 1;
        } else if !name.starts_with("loss.") {
            same(name, &model, &tensor)?;
        }
    }
    assert_eq!(critic.len(), discriminators);

    // What comes out is a model folder that makes the reference's codes.
    let spec = pipeline::ModelSpec::new(&config.run);
    let codec = pipeline::Codec::load(&spec, &pipeline::LoadOptions::default())?;
    let expected = group.expected("outputs.safetensors")?;
    let x = &group.inputs()?["x"];
    expected.check("pre_quant", &codec.model().pre_quant(x)?)?;

    // The run goes on without the model it began from.
    config.steps = 2;
    config.init.model = dir.path().join("gone.ckpt");
    let error = train(&config).err().map(|e| format!("{e:#}")).unwrap_or_default();
    assert!(error.contains("init.model"), "{error}");
    config.init.model = weights;
    train(&config)?;

    config.run = dir.path().join("other");
    config.adversarial.patchgan.ndf = 8;
    let error = train(&config).err().map(|e| format!("{e:#}")).unwrap_or_default();
    assert!(error.contains("adversarial.patchgan"), "{error}");
    config.model.ch = 64;
    let error = train(&config).err().map(|e| format!("{e:#}")).unwrap_or_default();
    assert!(error.contains("leave [model] out"), "{error}");
    Ok(())
}

#[test]
fn a_run_of_ours_gives_moments_when_asked() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = pictures(dir.path())?;
    let mut first = config(dir.path(), &data, &["model.ch_mult=[1]".into()])?;
    first.run = dir.path().join("first");
    first.adversarial.start = 0;
    let (begun, _) = train(&first)?;

    let from = format!("init.model={}", first.run.display());
    let mut second = config(dir.path(), &data, &[from])?;
    second.optimizer.schedule.lr = 1e-30;
    let (plain, _) = train(&second)?;
    assert_eq!(plain.progress.updates, 1);
    for (name, tensor) in begun.section("model.") {
        same(&name, &plain.section("model."), &tensor)?;
    }

    second.run = dir.path().join("with moments");
    second.init.optimizer = true;
    let (moments, _) = train(&second)?;
    assert_eq!((moments.progress.step, moments.progress.updates), (1, 2));
    // Betas of 0.5 and 0.9: half of a first moment is what it was.
    let name = "optimizer.decoder.conv_out.bias.exp_avg";
    let moment = |loaded: &Loaded| loaded.tensors[name].clone();
    let expected = (moment(&plain) + (moment(&begun) * 0.5)?)?;
    golden::close(name, &moment(&moments), &expected, 1e-9)?;

    // A weights file has none.
    second.run = dir.path().join("without");
    second.init.model = first.run.join("model");
    let error = train(&second).err().map(|e| format!("{e:#}")).unwrap_or_default();
    assert!(error.contains("init.optimizer = true needs a run folder"), "{error}");
    second.init.optimizer = false;
    let (_, warnings) = train(&second)?;
    assert!(warnings[0].contains("holds no discriminator"), "{warnings:?}");
    Ok(())
}

#[test]
fn another_architecture_takes_the_weights_that_fit() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = pictures(dir.path())?;
    let mut first = config(dir.path(), &data, &["model.ch_mult=[1]".into()])?;
    first.run = dir.path().join("first");
    let (begun, _) = train(&first)?;

    // Another seed, a level more: the same run from noise, and from the first.
    let settings = ["model.ch_mult=[1, 1]".to_string(), "seed=5".to_string()];
    let mut fresh = config(dir.path(), &data, &settings)?;
    fresh.optimizer.schedule.lr = 1e-30;
    fresh.run = dir.path().join("fresh");
    let mut grown = fresh.clone();
    grown.run = dir.path().join("grown");
    grown.init.model = first.run.clone();
    let error = train(&grown).err().map(|e| format!("{e:#}")).unwrap_or_default();
    assert!(error.contains("init.partial = true"), "{error}");
    grown.init.partial = true;
    let ((fresh, _), (grown_run, warnings)) = (train(&fresh)?, train(&grown)?);
    assert!(warnings[0].contains("start from noise: decoder.up.1"), "{warnings:?}");

    let (begun, fresh) = (begun.section("model."), fresh.section("model."));
    let mut carried = 0;
    for (name, tensor) in grown_run.section("model.") {
        match begun.get(&name).filter(|old| old.dims() == tensor.dims()) {
            Some(_) => {
                same(&name, &begun, &tensor)?;
                carried += 1;
            }
            None => same(&name, &fresh, &tensor)?,
        }
    }
    assert!(carried > 0 && carried < fresh.len(), "{carried} of {}", fresh.len());

    grown.init.optimizer = true;
    let error = grown.validate().err().map(|e| format!("{e:#}")).unwrap_or_default();
    assert!(error.contains("init.partial"), "{error}");
    Ok(())
}

#[test]
fn a_decoder_is_trained_and_codes_stay() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = pictures(dir.path())?;
    let mut first = config(dir.path(), &data, &["model.ch_mult=[1]".into()])?;
    first.run = dir.path().join("first");
    let (begun, _) = train(&first)?;

    let settings = [format!("init.model={}", first.run.display()), "init.keep_codes=true".into()];
    let mut second = config(dir.path(), &data, &settings)?;
    second.steps = 3;
    second.optimizer.schedule.lr = 1e-2;
    second.optimizer.ema = 0.5;
    // With a discriminator, in parts, and with moments that the first run has of all.
    (second.adversarial.start, second.accumulate, second.init.optimizer) = (0, 2, true);
    let (trained, _) = train(&second)?;
    let begun = begun.section("model.");
    let differs = |a: &Tensor, b: &Tensor| -> Result<bool> {
        Ok((a - b)?.abs()?.max_all()?.to_scalar::<f32>()? > 0.0)
    };
    for section in ["model.", "average."] {
        for (name, tensor) in trained.section(section) {
            let stays = name.starts_with("encoder.")
                || name.starts_with("quant_conv.")
                || name.starts_with("quantize.");
            assert_eq!(differs(&tensor, &begun[&name])?, !stays, "{section}{name}");
        }
    }
    let moments = trained.section("optimizer.");
    assert!(moments.keys().all(|name| !name.starts_with("enc") && !name.starts_with("quant")));
    assert!(moments.contains_key("post_quant_conv.bias.exp_avg"));

    // Stopped and gone on with, it is the same run.
    let mut stopped = second.clone();
    stopped.run = dir.path().join("stopped");
    let limits = Limits { stop_at: Some(1), ..Limits::default() };
    train_vqgan(&stopped, &Device::Cpu, limits, &mut Warnings::default())?;
    let (resumed, _) = train(&stopped)?;
    assert_eq!(resumed.tensors.len(), trained.tensors.len());
    for (name, tensor) in &trained.tensors {
        golden::close(name, &resumed.tensors[name], tensor, 0.0)?;
    }

    // The decoder's gradients are those of a run that trains everything.
    let mut all = second.clone();
    (all.run, all.init.keep_codes, all.steps) = (dir.path().join("all"), false, 1);
    let mut decoder = all.clone();
    (decoder.run, decoder.init.keep_codes) = (dir.path().join("decoder"), true);
    let ((all, _), (decoder, _)) = (train(&all)?, train(&decoder)?);
    for (name, moment) in decoder.section("optimizer.") {
        golden::close(&name, &moment, &all.section("optimizer.")[&name], 1e-6)?;
    }

    second.revival.every = 5;
    let error = second.validate().err().map(|e| format!("{e:#}")).unwrap_or_default();
    assert!(error.contains("revival.every = 0"), "{error}");
    Ok(())
}
