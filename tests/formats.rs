//! Every picture file of `../shared/data`, reconstructed or refused as expected.

mod support;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use support::{Place, text, tiny};

/// Photographs up to this many pixels are reconstructed by default: a large one
/// takes a minute on two cores.
const QUICK_PIXELS: u64 = 500_000;

#[test]
fn every_format_as_its_expectation_says() -> Result<()> {
    let Some(folder) = golden::shared_path("data/formats") else { return Ok(()) };
    let place = Place::new()?;
    place.model("model", &tiny(5), 1)?;
    let list: Vec<Value> =
        serde_json::from_str(&std::fs::read_to_string(folder.join("formats.json"))?)?;
    let args = ["reconstruct", "--model", "model", text(&folder), "--compare", "--json"];
    let run = place.run(&args)?.exits(2)?;

    for entry in &list {
        let name = entry["file"].as_str().context("no file name")?;
        let source = folder.join(name);
        let of_file = |line: &&Value| line["source"] == text(&source);
        let pictures = run.lines("picture")?;
        let failures = run.lines("failure")?;
        let done = pictures.iter().find(of_file);
        let failed = failures.iter().find(of_file);
        ensure!(done.is_some() != failed.is_some(), "{name}: {done:?}, {failed:?}");
        if entry["expect"].is_string() {
            let failed = failed.with_context(|| format!("{name} was read although broken"))?;
            let error = failed["error"].as_str().unwrap_or_default();
            ensure!(error.contains(name) && error.len() > name.len() + 20, "{name}: {error}");
            continue;
        }
        let done = done.with_context(|| format!("{name}: {failed:?}"))?;
        let size = (entry["size"][0].as_u64(), entry["size"][1].as_u64());
        ensure!((done["width"].as_u64(), done["height"].as_u64()) == size, "{name}: {done}");
        check_pictures(&place, done, entry).with_context(|| name.to_owned())?;
    }
    Ok(())
}

/// Checks the size of the reconstruction, and that what was encoded has the
/// mean that the expectation states: the left half of the comparison.
fn check_pictures(place: &Place, done: &Value, entry: &Value) -> Result<()> {
    let path = |key: &str| done[key].as_str().map(|name| place.path(name)).context("no output");
    let size = (entry["size"][0].as_u64(), entry["size"][1].as_u64());
    let size = (size.0.unwrap_or(0) as u32, size.1.unwrap_or(0) as u32);
    let result = image::open(path("output")?)?.into_rgb8();
    ensure!(result.dimensions() == size, "{:?} is not {size:?}", result.dimensions());
    let pair = image::open(path("compare")?)?.into_rgb8();
    let key = if entry["mean_on_white"].is_array() { "mean_on_white" } else { "mean" };
    let Some(expected) = entry[key].as_array() else { return Ok(()) };
    for (channel, expected) in expected.iter().enumerate() {
        let pixels = pair.enumerate_pixels().filter(|(x, ..)| *x < size.0);
        let sum: u64 = pixels.map(|(_, _, pixel)| u64::from(pixel[channel])).sum();
        let mean = sum as f64 / f64::from(size.0 * size.1);
        let expected = expected.as_f64().context("no mean")?;
        // Lossy formats, and conversions to 8 bits, move it a little.
        ensure!((mean - expected).abs() < 1.5, "mean {mean} is not {expected}");
    }
    Ok(())
}

#[test]
fn small_photos() -> Result<()> {
    photos(&|pixels| pixels <= QUICK_PIXELS)
}

/// Fifty megapixels: run with `--ignored`.
#[test]
#[ignore = "takes two and a half minutes on two quiet cores"]
fn large_photos() -> Result<()> {
    photos(&|pixels| pixels > QUICK_PIXELS)
}

fn photos(wanted: &dyn Fn(u64) -> bool) -> Result<()> {
    let Some(folder) = golden::shared_path("data/photos") else { return Ok(()) };
    let place = Place::new()?;
    place.model("model", &tiny(5), 1)?;
    let list: Vec<Value> =
        serde_json::from_str(&std::fs::read_to_string(folder.join("photos.json"))?)?;
    let side = |entry: &Value, i: usize| entry["size"][i].as_u64().unwrap_or(0);
    let list: Vec<_> =
        list.iter().filter(|entry| wanted(side(entry, 0) * side(entry, 1))).collect();
    let names = list.iter().filter_map(|entry| entry["file"].as_str());
    let paths: Vec<_> = names.map(|name| folder.join(name)).collect();
    let mut args = vec!["reconstruct", "--model", "model", "--metrics", "--json"];
    args.extend(paths.iter().map(|path| text(path)));
    let run = place.run(&args)?.exits(0)?;
    let pictures = run.lines("picture")?;
    ensure!(pictures.len() == list.len() && !list.is_empty());
    for (line, entry) in pictures.iter().zip(&list) {
        let size = image::image_dimensions(place.path(line["output"].as_str().unwrap_or("")))?;
        let expected = (side(entry, 0), side(entry, 1));
        ensure!((size.0.into(), size.1.into()) == expected, "{line}");
        ensure!(line["psnr"].as_f64().is_some_and(f64::is_finite), "{line}");
    }
    ensure!(Path::new(&place.path("reconstructed")).is_dir());
    Ok(())
}
