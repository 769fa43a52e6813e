//! A run that was stopped equals one that was not, bit for bit.

#[path = "support/compare.rs"]
mod compare;
mod support;

use std::path::Path;

use anyhow::Result;
use candle_core::Device;
use image::{Rgb, RgbImage};
use training::{Limits, RevivalConfig, RunConfig, Summary, TrainConfig, train_vqgan};

use compare::{bits, lines};
use support::Warnings;

/// Pictures of gradients and squares.
fn pictures(folder: &Path) -> Result<()> {
    for i in 0..11u32 {
        let picture = RgbImage::from_fn(36 + i, 40, |x, y| {
            let inside = x / 9 % 2 == i % 2 && y / 9 % 2 == 0;
            Rgb([(6 * x) as u8, (6 * y) as u8, if inside { 220 } else { 20 * i as u8 }])
        });
        picture.save(folder.join(format!("{i:02}.png")))?;
    }
    Ok(())
}

fn config(data: &Path, run: &Path) -> Result<TrainConfig> {
    let text = r#"
        steps = 6
        batch = 2
        accumulate = 2
        [pictures]
        side = 16
        largest = 24
        [optimizer]
        ema = 0.9
        clip = 1.0
        [optimizer.schedule]
        lr = 1e-3
        warmup = 2
        decay = "cosine"
        floor = 0.1
        [revival]
        every = 2
        until = 1.0
        [adversarial]
        weight = 0.5
        start = 2
        ramp = 2
        lecam = 0.01
        r1 = 1.0
        r1_every = 2
        [adversarial.patchgan]
        ndf = 8
        n_layers = 1
        [validation]
        every = 3
        fraction = 0.3
        [log]
        every = 1
        preview_every = 0
        [model]
        layout = "taming"
        in_channels = 3
        out_channels = 3
        ch = 32
        ch_mult = [1, 1]
        num_res_blocks = 1
        resolution = 16
        z_channels = 8
        [model.quantizer]
        kind = "normalized"
        len = 32
        dim = 4
    "#;
    let mut config = TrainConfig::parse(text, &[])?;
    config.data = data.to_path_buf();
    config.run = run.to_path_buf();
    Ok(config)
}

fn train(config: &TrainConfig, stop_at: Option<u64>) -> Result<Summary> {
    let (summary, warnings) = train_warned(config, stop_at)?;
    assert_eq!(warnings, Vec::<String>::new());
    Ok(summary)
}

fn train_warned(config: &TrainConfig, stop_at: Option<u64>) -> Result<(Summary, Vec<String>)> {
    let mut warnings = Warnings::default();
    let summary =
        train_vqgan(config, &Device::Cpu, Limits { stop_at, ..Limits::default() }, &mut warnings)?;
    Ok((summary, warnings.0))
}

#[test]
fn a_resumed_run_is_the_uninterrupted_one() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("pictures");
    std::fs::create_dir(&data)?;
    pictures(&data)?;
    let whole = config(&data, &dir.path().join("whole"))?;
    let parts = config(&data, &dir.path().join("parts"))?;

    let summary = train(&whole, None)?;
    assert!(summary.finished && summary.step == 6);
    let first = train(&parts, Some(3))?;
    assert!(!first.finished && first.step == 3);
    // A process that died later than its last checkpoint leaves log lines.
    let log = parts.run.join("metrics.jsonl");
    let mut text = std::fs::read_to_string(&log)?;
    text.push_str("{\"step\":4,\"kind\":\"train\",\"total_loss\":9}\n{\"step\":5,\"ki");
    std::fs::write(&log, text)?;
    train(&parts, None)?;

    let (a, b) = (bits(&whole)?, bits(&parts)?);
    assert!(a.len() > 100, "{}", a.len());
    for (name, values) in &a {
        assert!(b.get(name) == Some(values), "{name} differs");
    }
    assert_eq!(a.len(), b.len());
    let (a, b) = (lines(&whole)?, lines(&parts)?);
    assert_eq!(a, b);
    assert!(a.len() > 8 && a.iter().any(|line| line.contains_key("val_psnr")));

    let model = pipeline::Codec::load(
        &pipeline::ModelSpec::new(summary.model.clone()),
        &pipeline::LoadOptions::default(),
    )?;
    let picture = RgbImage::new(21, 18);
    let made = model.reconstruct(&[picture])?;
    assert_eq!(made[0].dimensions(), (21, 18));
    Ok(())
}

#[test]
fn a_damaged_checkpoint_is_passed_over_with_a_warning() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("pictures");
    std::fs::create_dir(&data)?;
    pictures(&data)?;
    let whole = config(&data, &dir.path().join("whole"))?;
    let hurt = config(&data, &dir.path().join("hurt"))?;
    train(&whole, None)?;
    train(&hurt, Some(2))?;
    train(&hurt, Some(4))?;
    let newest = hurt.run.join("checkpoints/step-00000004.safetensors");
    let bytes = std::fs::read(&newest)?;
    std::fs::write(&newest, &bytes[..bytes.len() / 2])?;
    let (summary, warnings) = train_warned(&hurt, None)?;
    assert!(summary.finished);
    assert!(warnings.len() == 1 && warnings[0].contains("step 4 is damaged"), "{warnings:?}");
    assert_eq!(bits(&whole)?, bits(&hurt)?);
    assert_eq!(lines(&whole)?, lines(&hurt)?);
    Ok(())
}

#[test]
fn a_seed_that_differs_is_refused() -> Result<()> {
    let dir = tempfile::tempdir()?;
    pictures(dir.path())?;
    let mut config = config(dir.path(), &dir.path().join("run"))?;
    config.steps = 1;
    config.revival = RevivalConfig::default();
    train(&config, None)?;
    config.seed += 1;
    let error = train(&config, None).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("seed"), "{error}");
    Ok(())
}
