//! Real picture files beside the checkout: every format, and large photographs.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use image::RgbImage;
use image_data::{Error, Limits, decode_rgb, load_rgb};
use serde_json::Value;

fn json(path: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(path)?;
    Ok(serde_json::from_str(&text)?)
}

fn mean(image: &RgbImage) -> [f64; 3] {
    let n = f64::from(image.width()) * f64::from(image.height());
    std::array::from_fn(|c| image.iter().skip(c).step_by(3).map(|&v| f64::from(v)).sum::<f64>() / n)
}

// The means are of the pictures before lossy compression and halving.
const TOLERANCE: f64 = 1.0;

/// Expected channel means on the scale of 8 bits, on white: from one value or three.
fn expected_mean(entry: &Value) -> Option<[f64; 3]> {
    let (value, scale) = match (&entry["mean"], &entry["mean_on_white"], &entry["mean16"]) {
        (Value::Null, Value::Null, Value::Null) => return None,
        (Value::Null, Value::Null, value) => (value, 257.0),
        (Value::Null, value, _) | (value, _, _) => (value, 1.0),
    };
    let channel = |c: usize| value.as_f64().or_else(|| value[c].as_f64());
    Some([channel(0)? / scale, channel(1)? / scale, channel(2)? / scale])
}

#[test]
fn every_format_is_read_as_expected_or_refused_by_name() -> Result<()> {
    let Some(dir) = golden::shared_path("data/formats") else { return Ok(()) };
    for entry in json(&dir.join("formats.json"))? {
        let file = entry["file"].as_str().context("file")?;
        let loaded = load_rgb(&dir.join(file), &Limits::default());
        if entry["expect"].as_str().is_some_and(|expect| expect.starts_with("error")) {
            let message = loaded.err().with_context(|| format!("{file} was read"))?.to_string();
            ensure!(message.contains(file), "{message}");
            continue;
        }
        let image = loaded?;
        let (width, height) = image.dimensions();
        ensure!(entry["size"] == serde_json::json!([width, height]), "{file}: {width}x{height}");
        let mean = mean(&image);
        if let Some(expected) = expected_mean(&entry) {
            for c in 0..3 {
                ensure!(
                    (mean[c] - expected[c]).abs() <= TOLERANCE,
                    "{file}: {mean:?}, {expected:?}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn same_pictures_in_different_files_agree() -> Result<()> {
    let Some(dir) = golden::shared_path("data/formats") else { return Ok(()) };
    let load = |file: &str| load_rgb(&dir.join(file), &Limits::default());
    let difference = |a: &RgbImage, b: &RgbImage| {
        let sum: f64 = a.iter().zip(b.iter()).map(|(a, b)| f64::from(a.abs_diff(*b))).sum();
        sum / a.len() as f64
    };
    let upright = load("exif_1.jpg")?;
    for orientation in 2..=8 {
        let turned = load(&format!("exif_{orientation}.jpg"))?;
        let difference = difference(&upright, &turned);
        ensure!(difference < 3.0, "orientation {orientation}: mean difference {difference}");
    }
    ensure!(load("rgba.png")? == load("lossless_alpha.webp")?);
    ensure!(load("rgb_444.jpg")? == load("jpeg_named.png")?);
    for file in ["rgb.ppm", "rgb.tga", "rgb.tif"] {
        ensure!(load("rgb.bmp")? == load(file)?, "{file}");
    }
    let cmyk = difference(&load("rgb_444.jpg")?, &load("cmyk.jpg")?);
    ensure!(cmyk < 3.0, "CMYK: mean difference {cmyk}");
    Ok(())
}

#[test]
fn cut_files_are_refused_or_lack_nothing() -> Result<()> {
    let Some(dir) = golden::shared_path("data/formats") else { return Ok(()) };
    for entry in json(&dir.join("formats.json"))? {
        let file = entry["file"].as_str().context("file")?;
        let bytes = std::fs::read(dir.join(file))?;
        let decode = |bytes: &[u8]| decode_rgb(bytes, Path::new(file), &Limits::default());
        let Ok(whole) = decode(&bytes) else { continue };
        let cuts = (1..12).map(|twelfths| bytes.len() * twelfths / 12);
        for end in cuts.chain((1..9).map(|missing| bytes.len() - missing)) {
            if let Ok(part) = decode(&bytes[..end]) {
                ensure!(part == whole, "{file}: {end} of {} bytes were accepted", bytes.len());
            }
        }
    }
    Ok(())
}

#[test]
fn every_photo_is_read() -> Result<()> {
    let Some(dir) = golden::shared_path("data/photos") else { return Ok(()) };
    for entry in json(&dir.join("photos.json"))? {
        let file = entry["file"].as_str().context("file")?;
        let (width, height) = load_rgb(&dir.join(file), &Limits::default())?.dimensions();
        ensure!(entry["size"] == serde_json::json!([width, height]), "{file}: {width}x{height}");
        let small = Limits { max_pixels: u64::from(width * height) - 1, ..Limits::default() };
        ensure!(matches!(load_rgb(&dir.join(file), &small), Err(Error::Limit { .. })), "{file}");
    }
    Ok(())
}
