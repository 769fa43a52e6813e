//! Transformers whose condition is a grid of codes: label maps, depth maps, small pictures.

#[path = "support/compare.rs"]
mod compare;
mod support;

use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{DType, Device};
use codebook::QuantizerConfig;
use image::{GrayImage, Luma, Rgb, RgbImage};
use pipeline::{
    CodecInput, ConditionConfig, DrawRequest, Front, Generator, GeneratorSpec, GridInput,
    LoadOptions, PictureCondition, Sampling, Stream, Wavefront,
};
use training::{
    Limits, ParameterStore, RunConfig, Summary, TrainConfig, TransformerTrainConfig,
    train_transformer, write_model,
};
use vq_autoencoder::VqModel;

use compare::{bits, lines};
use support::Warnings;

/// Codes of every codebook here.
const CODES: usize = 24;

/// Half of each picture is bright, and its maps say which half.
fn scenes(folder: &Path) -> Result<()> {
    for part in ["images", "labels", "depth"] {
        std::fs::create_dir_all(folder.join(part))?;
    }
    for i in 0..12u32 {
        let bright = |x: u32| (x < 10) == (i % 2 == 0);
        let save = |part: &str| folder.join(part).join(format!("{i:02}.png"));
        let shade = |x, y| Rgb([if bright(x) { 200 + i as u8 } else { 20 }, (9 * y) as u8, 90]);
        RgbImage::from_fn(20, 20, shade).save(save("images"))?;
        let label = |x, _| Luma([u8::from(bright(x))]);
        GrayImage::from_fn(20, 20, label).save(save("labels"))?;
        let depth = |x: u32, y: u32| Luma([(5 * y + 100 * u32::from(bright(x))) as u8]);
        GrayImage::from_fn(20, 20, depth).save(save("depth"))?;
    }
    Ok(())
}

/// A codec of `channels` that nobody trained: its codes are as good as any.
fn codec(folder: &Path, input: CodecInput, channels: usize, seed: u64) -> Result<()> {
    let mut config = TrainConfig::default();
    (config.model.in_channels, config.model.out_channels) = (channels, channels);
    config.model.ch_mult = vec![1, 1, 1];
    config.model.z_channels = 8;
    config.model.quantizer =
        QuantizerConfig::Normalized { len: CODES, dim: 4, beta: 0.25, entropy_ratio: 0.0 };
    let store = ParameterStore::new(seed);
    VqModel::new(&config.model, store.var_builder(DType::F32, &Device::Cpu))?;
    write_model(folder, &config, &input, 0, &store.tensors(), None)
}

fn setting() -> Result<tempfile::TempDir> {
    let dir = tempfile::tempdir()?;
    scenes(&dir.path().join("scenes"))?;
    codec(&dir.path().join("vqgan"), CodecInput::Pictures, 3, 3)?;
    let names = ["dark", "bright"].map(str::to_owned).to_vec();
    codec(&dir.path().join("labels"), CodecInput::Labels(names), 2, 4)?;
    codec(&dir.path().join("depth"), CodecInput::Depth, 1, 5)?;
    Ok(dir)
}

fn config(dir: &Path, run: &str, condition: &[String]) -> Result<TransformerTrainConfig> {
    let text = r#"
        steps = 12
        batch = 4
        crops = 2
        [pictures]
        side = 16
        largest = 20
        [optimizer]
        ema = 0.5
        [optimizer.schedule]
        lr = 3e-3
        [validation]
        every = 4
        fraction = 0.3
        [log]
        every = 1
        preview_every = 6
        preview_pictures = 2
        [model]
        kind = "gpt"
        n_layer = 1
        n_head = 2
        n_embd = 16
    "#;
    let mut overrides = condition.to_vec();
    overrides.push("condition.kind=grid".to_owned());
    overrides.push("condition.drop=0.2".to_owned());
    overrides.push(format!("data={}", dir.join("scenes").display()));
    overrides.push(format!("first-stage={}", dir.join("vqgan").display()));
    overrides.push(format!("run={}", dir.join(run).display()));
    TransformerTrainConfig::parse(text, &overrides)
}

fn of_codec(dir: &Path, name: &str) -> String {
    format!("condition.codec={}", dir.join(name).display())
}

fn train(config: &TransformerTrainConfig, stop_at: Option<u64>) -> Result<Summary> {
    let mut warnings = Warnings::default();
    let limits = Limits { stop_at, ..Limits::default() };
    let summary = train_transformer(config, &Device::Cpu, limits, &mut warnings)?;
    assert_eq!(warnings.0, Vec::<String>::new());
    Ok(summary)
}

/// Draws a picture for `condition` with the model of `summary`, which brings its codecs.
fn draw(summary: &Summary, condition: &PictureCondition) -> Result<(Generator, Vec<u32>)> {
    let generator = Generator::load(&GeneratorSpec::new(&summary.model), &LoadOptions::default())?;
    let front = generator.front_of_picture(condition, (4, 4))?;
    assert!(matches!(&front, Front::Grid { tokens, .. }
        if tokens.iter().all(|&token| (CODES as u32..2 * CODES as u32).contains(&token))));
    let request = DrawRequest {
        fronts: vec![front],
        streams: Stream::range(1, 0, 1),
        grid: (4, 4),
        sampling: Sampling::default(),
        guidance: None,
        forced: Vec::new(),
        wavefront: Wavefront::default(),
    };
    let codes = generator.draw(&request, &mut |_| ())?.to_vec()?;
    assert!(codes.iter().all(|&code| (code as usize) < CODES));
    Ok((generator, codes))
}

#[test]
fn label_maps_condition_a_transformer_and_a_run_resumes() -> Result<()> {
    let dir = setting()?;
    let condition = [of_codec(dir.path(), "labels")];
    let whole = config(dir.path(), "whole", &condition)?;
    let parts = config(dir.path(), "parts", &condition)?;
    let summary = train(&whole, None)?;
    train(&parts, Some(5))?;
    train(&parts, None)?;
    assert_eq!(bits(&whole)?, bits(&parts)?);
    let log = lines(&whole)?;
    assert_eq!(log, lines(&parts)?);
    let nll: Vec<f64> = log.iter().filter_map(|line| line.get("nll")?.as_f64()).collect();
    assert!(nll.len() == 12 && nll[11] < 0.9 * nll[0], "{nll:?}");

    let map = GrayImage::from_fn(16, 16, |x, _| Luma([u8::from(x < 8)]));
    let (generator, _) = draw(&summary, &PictureCondition::Labels(map))?;
    let ConditionConfig::Grid(grid) = &generator.config().condition else {
        anyhow::bail!("no grid: {:?}", generator.config().condition)
    };
    assert_eq!((grid.input, grid.grid, grid.offset), (GridInput::Segmentation, [4, 4], 24));
    assert_eq!(grid.labels.as_deref(), Some(&["dark", "bright"].map(str::to_owned)[..]));
    assert_eq!(grid.null, Some(48));
    let unknown = PictureCondition::Labels(GrayImage::from_pixel(16, 16, Luma([2])));
    let error = generator.front_of_picture(&unknown, (4, 4)).err().context("label 2 of 2")?;
    assert!(error.to_string().contains("dark, bright"), "{error}");
    Ok(())
}

#[test]
fn depth_and_small_pictures_condition_too() -> Result<()> {
    let dir = setting()?;
    let depth = config(dir.path(), "d", &[of_codec(dir.path(), "depth")])?;
    let summary = train(&depth, None)?;
    let map = image::ImageBuffer::from_fn(16, 16, |x, y| Luma([(x * y) as f32]));
    let (generator, _) = draw(&summary, &PictureCondition::Depth(map))?;
    assert_eq!(generator.condition_input(), Some(GridInput::Depth));

    // 8 pixels are 2x2 codes of the first stage.
    let small = config(dir.path(), "s", &["condition.downsample=8".to_owned()])?;
    let summary = train(&small, None)?;
    let picture = RgbImage::from_fn(16, 16, |x, y| Rgb([(9 * x) as u8, (9 * y) as u8, 0]));
    let (generator, _) = draw(&summary, &PictureCondition::Picture(picture))?;
    let ConditionConfig::Grid(grid) = &generator.config().condition else {
        anyhow::bail!("no grid: {:?}", generator.config().condition)
    };
    assert_eq!((grid.input, grid.grid, grid.downsample), (GridInput::Image, [2, 2], Some(8)));
    assert!(grid.codec.is_none());
    Ok(())
}

#[test]
fn what_cannot_be_says_why() -> Result<()> {
    let dir = setting()?;
    let error = |condition: &[String]| -> Result<String> {
        let config = config(dir.path(), "e", condition);
        let result = config.and_then(|config| train(&config, None).map(|_| ()));
        Ok(format!("{:#}", result.err().context("no error")?))
    };
    let text = error(&[])?;
    assert!(text.contains("condition.codec") && text.contains("condition.downsample"), "{text}");
    let text = error(&["condition.codec=nowhere".to_owned()])?;
    assert!(text.contains("nowhere"), "{text}");
    let text = error(&["condition.downsample=6".to_owned()])?;
    assert!(text.contains("multiple of the codec's factor 4"), "{text}");
    std::fs::remove_dir_all(dir.path().join("scenes/labels"))?;
    let text = error(&[of_codec(dir.path(), "labels")])?;
    assert!(text.contains("has no label map"), "{text}");
    Ok(())
}
