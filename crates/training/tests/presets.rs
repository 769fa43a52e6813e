//! The configurations in `assets/configs`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use training::{InputKind, PixelLoss, RunConfig, TrainConfig};
use vq_autoencoder::VqConfig;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/configs")
}

fn read(name: &str) -> Result<TrainConfig> {
    TrainConfig::read(&folder().join(name), &[])
}

#[test]
fn they_are_what_they_say() -> Result<()> {
    for name in ["tiny.toml", "emoji.toml", "small.toml", "fruit-masks.toml", "fruit-depth.toml"] {
        let config = read(name)?;
        // Codes of unit length and dimension 8, and no GAN before reconstruction settles.
        assert!(
            matches!(config.model.quantizer, codebook::QuantizerConfig::Normalized { dim: 8, .. }),
            "{name}"
        );
        let gan = &config.adversarial;
        assert!(gan.weight == 0.0 || gan.start >= config.steps / 2, "{name}");
    }
    let masks = read("fruit-masks.toml")?;
    assert_eq!((masks.input, masks.loss.pixel), (InputKind::Labels, PixelLoss::Bce));
    assert_eq!((masks.model.in_channels, masks.model.factor()), (27, 8));
    let depth = read("fruit-depth.toml")?;
    assert_eq!((depth.input, depth.loss.pixel), (InputKind::Depth, PixelLoss::L2));
    assert_eq!((depth.model.in_channels, depth.model.factor()), (1, 8));
    let preset = |name: &str| VqConfig::preset(name).with_context(|| name.to_string());
    let paper = read("vqgan-f16.toml")?;
    assert_eq!(paper.model, preset("imagenet-f16-1024")?);
    assert!((paper.optimizer.schedule.lr * paper.lr_factor() - 5.4e-5).abs() < 1e-12);
    let llamagen = read("llamagen-vq16.toml")?;
    assert_eq!(llamagen.model, preset("llamagen-vq16")?);
    assert_eq!(llamagen.pictures_per_update(), 128);
    assert_eq!(llamagen.optimizer.schedule.lr * llamagen.lr_factor(), 1e-4);
    Ok(())
}

/// One file explains every key: each stands there with a comment above it, alone or with
/// its neighbours.
#[test]
fn every_key_is_explained() -> Result<()> {
    let text = std::fs::read_to_string(folder().join("emoji.toml"))?;
    let whole: toml::Table = toml::from_str(&text)?;
    let defaults: toml::Table = toml::from_str(&TrainConfig::default().to_toml()?)?;
    let mut missing = Vec::new();
    compare("", &defaults, &whole, &mut missing);
    assert_eq!(missing, Vec::<String>::new());
    let mut explained = false;
    let mut bare = Vec::new();
    for line in text.lines() {
        match line.trim() {
            "" => explained = false,
            line if line.starts_with('#') => explained = true,
            line if line.starts_with('[') => {}
            line if !explained => bare.push(line.to_string()),
            _ => {}
        }
    }
    // Their names say it all.
    let names = ["eps", "in_channels", "out_channels", "ndf", "n_layers", "pictures", "lr", "seed"];
    bare.retain(|line| !names.iter().any(|name| line.starts_with(name)));
    assert_eq!(bare, Vec::<String>::new());
    Ok(())
}

fn compare(prefix: &str, defaults: &toml::Table, actual: &toml::Table, missing: &mut Vec<String>) {
    for (key, value) in defaults {
        let name = format!("{prefix}{key}");
        match (value, actual.get(key)) {
            (_, None) => missing.push(name),
            (toml::Value::Table(value), Some(toml::Value::Table(other))) => {
                compare(&format!("{name}."), value, other, missing);
            }
            _ => {}
        }
    }
}
