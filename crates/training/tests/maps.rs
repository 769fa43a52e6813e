//! First stages of label and depth maps, from folders to codecs.

#[path = "support/compare.rs"]
mod compare;
mod support;

use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use image::{GrayImage, Luma, RgbImage};
use pipeline::{Codec, CodecInput, LoadOptions, ModelSpec};
use training::{InputKind, Limits, PixelLoss, RunConfig, Summary, TrainConfig, train_vqgan};

use compare::{bits, lines};
use support::Warnings;

const LABELS: usize = 4;
const COUNT: u32 = 10;

/// Maps of squares on a ground, each with a picture and a depth.
fn scenes(folder: &Path) -> Result<()> {
    for part in ["images", "labels", "depth"] {
        std::fs::create_dir_all(folder.join(part))?;
    }
    for i in 0..COUNT {
        let label = |x: u32, y: u32| match (x / 8 + i).is_multiple_of(3) && y / 8 == i % 3 {
            true => 1 + (i % 3) as u8,
            false => 0,
        };
        let save = |part: &str| folder.join(part).join(format!("{i:02}.png"));
        RgbImage::from_pixel(24, 24, image::Rgb([9 * i as u8; 3])).save(save("images"))?;
        GrayImage::from_fn(24, 24, |x, y| Luma([label(x, y)])).save(save("labels"))?;
        let depth = |x, y| Luma([(200 - 3 * y - 20 * u32::from(label(x, y))) as u8]);
        GrayImage::from_fn(24, 24, depth).save(save("depth"))?;
    }
    let classes = r##"[{"id": 0, "name": "ground", "color": "#FFFFFF"}, {"id": 1, "name": "one"},
        {"id": 2, "name": "two"}, {"id": 3, "name": "three", "color": "#0000FF"}]"##;
    std::fs::write(folder.join("classes.json"), classes)?;
    Ok(())
}

fn config(data: &Path, run: &Path, input: InputKind) -> Result<TrainConfig> {
    let text = r#"
        steps = 16
        batch = 4
        [pictures]
        side = 16
        largest = 24
        [optimizer]
        ema = 0.5
        [optimizer.schedule]
        lr = 3e-3
        [revival]
        every = 4
        [validation]
        every = 8
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
    config.input = input;
    let channels = if input == InputKind::Labels { LABELS } else { 1 };
    (config.model.in_channels, config.model.out_channels) = (channels, channels);
    if input == InputKind::Labels {
        config.loss.pixel = PixelLoss::Bce;
    }
    config.validate()?;
    Ok(config)
}

fn train(config: &TrainConfig, stop_at: Option<u64>) -> Result<Summary> {
    let mut warnings = Warnings::default();
    let limits = Limits { stop_at, ..Limits::default() };
    let summary = train_vqgan(config, &Device::Cpu, limits, &mut warnings)?;
    assert_eq!(warnings.0, Vec::<String>::new());
    Ok(summary)
}

fn codec(summary: &Summary) -> Result<Codec> {
    Ok(Codec::load(&ModelSpec::new(summary.model.clone()), &LoadOptions::default())?)
}

#[test]
fn label_maps_become_a_codec_and_a_run_resumes() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("scenes");
    scenes(&data)?;
    let whole = config(&data, &dir.path().join("whole"), InputKind::Labels)?;
    let parts = config(&data, &dir.path().join("parts"), InputKind::Labels)?;
    let summary = train(&whole, None)?;
    train(&parts, Some(7))?;
    train(&parts, None)?;
    assert_eq!(bits(&whole)?, bits(&parts)?);
    let log = lines(&whole)?;
    assert_eq!(log, lines(&parts)?);

    let losses: Vec<f64> = log.iter().filter_map(|line| line.get("bce_loss")?.as_f64()).collect();
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (first, last) = (mean(&losses[..3]), mean(&losses[13..]));
    assert!(losses.len() == 16 && last < 0.6 * first, "{first} {last}");
    let validation = summary.validation.as_ref().context("no validation")?;
    let term = |name: &str| validation.get(name).copied().context(name.to_owned());
    // Most of each map is ground.
    assert!(term("val_accuracy")? > 0.5 && term("val_mean_iou")? > 0.0);
    assert!(term("val_bce")? < first && term("val_usage")? > 0.0);
    assert!(!validation.contains_key("val_psnr"));

    let card = std::fs::read_to_string(summary.model.join("README.md"))?;
    assert!(card.contains("mean IoU") && card.contains("ground, one, two, three"), "{card}");
    assert!(!card.contains("PSNR") && !card.contains("reconstruct"), "{card}");
    let codec = codec(&summary)?;
    let names = ["ground", "one", "two", "three"].map(str::to_owned);
    assert_eq!(*codec.input(), CodecInput::Labels(names.to_vec()));
    assert_eq!(training::written_input(&whole.run, &whole), *codec.input());
    let maps = Tensor::zeros((1, 10, 13), candle_core::DType::U8, &Device::Cpu)?;
    let codes = codec.encode_tensor(&image_data::one_hot(&maps, LABELS)?)?;
    assert_eq!(codes.dims(), (1, 5, 7));
    let refused = codec.check_pictures().err().map(|e| e.to_string()).unwrap_or_default();
    assert!(refused.contains("reads label maps (4 labels"), "{refused}");

    // Originals in their own colours, over what the model makes of them.
    let preview = image::open(whole.run.join("previews").join("step-00000016.png"))?.into_rgb8();
    let colors = [[255; 3], [128, 0, 0], [0, 128, 0], [0, 0, 255]];
    assert!(preview.pixels().all(|pixel| colors.contains(&pixel.0)));
    assert!(preview.pixels().any(|pixel| pixel.0 != colors[0]));
    Ok(())
}

#[test]
fn depth_maps_become_a_codec() -> Result<()> {
    let dir = tempfile::tempdir()?;
    scenes(dir.path())?;
    let mut config = config(dir.path(), &dir.path().join("run"), InputKind::Depth)?;
    config.steps = 8;
    let summary = train(&config, None)?;
    let validation = summary.validation.as_ref().context("no validation")?;
    assert!(validation["val_psnr"] > 0.0 && validation["val_l1"] > 0.0);
    let codec = codec(&summary)?;
    assert_eq!(*codec.input(), CodecInput::Depth);
    let map = Tensor::zeros((1, 1, 16, 16), candle_core::DType::F32, &Device::Cpu)?;
    assert_eq!(codec.encode_tensor(&map)?.dims(), (1, 8, 8));
    assert!(codec.check_pictures().is_err());
    Ok(())
}

#[test]
fn data_that_do_not_fit_are_refused() -> Result<()> {
    let dir = tempfile::tempdir()?;
    scenes(dir.path())?;
    let run = |name: &str| dir.path().join(name);
    let refused = |config: &TrainConfig| {
        let error = train(config, None).err().map(|e| format!("{e:#}")).unwrap_or_default();
        assert!(!config.run.join("model").exists());
        error
    };
    let mut more = config(dir.path(), &run("more"), InputKind::Labels)?;
    (more.model.in_channels, more.model.out_channels) = (5, 5);
    let error = refused(&more);
    assert!(error.contains("classes.json numbers 4 labels"), "{error}");

    std::fs::remove_file(dir.path().join("classes.json"))?;
    let labels = config(dir.path(), &run("beyond"), InputKind::Labels)?;
    let beyond = dir.path().join("labels/03.png");
    GrayImage::from_pixel(24, 24, Luma([LABELS as u8])).save(&beyond)?;
    let error = refused(&labels);
    let says = format!("{}: label 4 is beyond the 4 labels", beyond.display());
    assert!(error.contains(&says), "{error}");

    std::fs::remove_dir_all(dir.path().join("labels"))?;
    let error = refused(&config(dir.path(), &run("none"), InputKind::Labels)?);
    assert!(error.contains("10 of 10 pictures have no label map"), "{error}");
    Ok(())
}
