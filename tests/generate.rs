//! `generate`: the same seed gives the same pictures, and a picture says how to make it
//! again.

#[path = "generate/captions.rs"]
mod captions;
#[path = "generate/conditions.rs"]
mod conditions;
#[path = "generate/convert.rs"]
mod convert;
#[path = "support/generators.rs"]
mod generators;
#[path = "generate/quantized.rs"]
mod quantized;
#[path = "generate/refusals.rs"]
mod refusals;
#[path = "generate/replay.rs"]
mod replay;
#[path = "generate/scorer.rs"]
mod scorer;
#[path = "generate/shipped.rs"]
mod shipped;
mod support;

use anyhow::{Context, Result};
use generators::{CODES, Recipe, chunk, classes};
use serde_json::{Value, json};
use support::{Place, same_bytes};

fn place() -> Result<Place> {
    let place = Place::new()?;
    place.transformer("model", &Recipe::new(classes()))?;
    Ok(place)
}

#[test]
fn the_same_seed_gives_the_same_bytes_however_it_is_drawn() -> Result<()> {
    let place = place()?;
    let classes = ["generate", "--model", "model", "--class", "0", "tabby", "--count", "3"];
    let run = |out: &str, more: &[&str]| -> Result<Vec<String>> {
        place.run(&[&classes[..], &["--output", out], more].concat())?.exits(0)?;
        place.files(out)
    };
    let files = run("a", &["--batch", "1", "--threads", "1"])?;
    assert_eq!(files.len(), 6);
    assert_eq!((&*files[0], &*files[5]), ("goldfish-0-00000.png", "tabby-cat-0-00005.png"));
    for (out, more) in [("b", ["--batch", "8"]), ("c", ["--batch", "2"]), ("d", ["--threads", "2"])]
    {
        assert_eq!(run(out, &more)?, files);
        same_bytes(&place.path("a"), &place.path(out), &files)?;
    }
    // Shares make up the whole.
    for share in ["1/3", "2/3", "3/3"] {
        assert_eq!(run("shares", &["--shard", share])?.len() % 2, 0);
    }
    assert_eq!(place.files("shares")?, files);
    same_bytes(&place.path("a"), &place.path("shares"), &files)?;
    // Pictures differ from each other, and with another seed.
    let bytes = |path: &str| std::fs::read(place.path(path));
    assert_ne!(bytes("a/goldfish-0-00000.png")?, bytes("a/goldfish-0-00001.png")?);
    run("e", &["--seed", "1"])?;
    let pixels =
        |path: &str| -> Result<Vec<u8>> { Ok(image::open(place.path(path))?.into_bytes()) };
    assert_ne!(pixels("a/goldfish-0-00000.png")?, pixels("e/goldfish-1-00000.png")?);
    assert_eq!(image::image_dimensions(place.path("a/goldfish-0-00000.png"))?, (8, 8));
    Ok(())
}

#[test]
fn larger_pictures_by_a_window_that_slides() -> Result<()> {
    let place = place()?;
    let args = ["generate", "--model", "model", "--class", "1", "--width", "21", "--height", "12"];
    for (out, more) in [("a", ["--batch", "1"]), ("b", ["--threads", "1"])] {
        let more = [&["--count", "2", "--output", out][..], &more].concat();
        place.run(&[&args[..], &more].concat())?.exits(0)?;
    }
    let files = place.files("a")?;
    assert_eq!(files.len(), 2, "previews are gone: {files:?}");
    same_bytes(&place.path("a"), &place.path("b"), &files)?;
    assert_eq!(image::image_dimensions(place.path("a/tabby-cat-0-00000.png"))?, (21, 12));
    Ok(())
}

#[test]
fn kept_codes_stay_and_pasted_pixels_are_the_pictures() -> Result<()> {
    let place = place()?;
    place.picture("photo.png", 8, 8)?;
    let white = |x: u32, _| image::Luma([if x < 4 { 0 } else { 255_u8 }]);
    image::GrayImage::from_fn(8, 8, white).save(place.path("mask.png"))?;
    image::GrayImage::from_fn(9, 8, white).save(place.path("other.png"))?;
    let complete = ["generate", "--model", "model", "--class", "0", "--complete", "photo.png"];
    let run = |more: &[&str]| place.run(&[&complete[..], more].concat());
    run(&["--output", "half"])?.exits(0)?;
    run(&["--output", "mask", "--mask", "mask.png"])?.exits(0)?;
    run(&["--output", "pasted", "--mask", "mask.png", "--paste", "--border", "0"])?.exits(0)?;
    let file = "goldfish-0-00000.png";
    let kept = |out: &str| -> Result<Vec<bool>> {
        let recipe: Value = serde_json::from_str(&chunk(&place.path(out).join(file), "synth")?)?;
        let codes = recipe["kept"]["codes"].as_array().context("no kept codes")?;
        Ok(codes.iter().map(|code| !code.is_null()).collect())
    };
    assert_eq!(kept("half")?, (0..16).map(|i| i < 8).collect::<Vec<_>>());
    assert_eq!(kept("mask")?, (0..16).map(|i| i % 4 < 2).collect::<Vec<_>>());
    let open =
        |path: &str| -> Result<image::RgbImage> { Ok(image::open(place.path(path))?.into_rgb8()) };
    let (photo, pasted) = (open("photo.png")?, open(&format!("pasted/{file}"))?);
    let drawn = open(&format!("mask/{file}"))?;
    for (x, y, pixel) in pasted.enumerate_pixels() {
        let expected = if x < 4 { &photo } else { &drawn };
        assert_eq!(pixel, expected.get_pixel(x, y), "({x}, {y})");
    }
    let run = run(&["--output", "no", "--mask", "other.png"])?.exits(2)?;
    assert!(run.err.contains("9x8") && run.err.contains("8x8"), "{}", run.err);
    Ok(())
}

#[test]
fn scores_tell_what_a_model_drew_from_what_it_did_not() -> Result<()> {
    let place = place()?;
    let args = ["generate", "--model", "model", "--class", "1", "--greedy", "--output", "drawn"];
    place.run(&args)?.exits(0)?;
    place.picture("photo.png", 20, 16)?;
    let args =
        ["score", "--model", "model", "--class", "1", "photo.png", "--output", "maps", "--json"];
    let run = place.run(&args)?.exits(0)?;
    let line = run.line("picture")?;
    assert_eq!((&line["grid"], &line["width"]), (&json!([4, 4]), &json!(8)));
    assert!(line["bits_per_code"].as_f64().is_some_and(|bits| bits > 1.0 && bits < 30.0));
    assert_eq!(image::image_dimensions(place.path("maps/photo-bits.png"))?, (8, 8));
    let run = place.run(&args)?.exits(2)?;
    assert!(run.err.contains("exists already"), "{}", run.err);
    let args = ["score", "--model", "model", "--class", "1", "photo.png", "--full-size", "--json"];
    let line = place.run(&args)?.exits(0)?.line("picture")?;
    assert_eq!(line["grid"], json!([10, 8]));
    place.run(&["score", "--model", "model", "photo.png"])?.exits(2)?;
    place.run(&["score", "--model", "model", "--class", "1", "nowhere.png"])?.exits(1)?;
    Ok(())
}

#[test]
fn inspect_knows_transformers() -> Result<()> {
    let place = place()?;
    let line = place.run(&["inspect", "model", "--json"])?.exits(0)?.line("generator")?;
    assert_eq!((&line["condition"], &line["codes"]), (&json!("class"), &json!(CODES)));
    assert_eq!((&line["size"], &line["grid"]), (&json!([8, 8]), &json!([4, 4])));
    for what in ["provenance", "first_stage"] {
        assert_eq!(line[what], json!({ "data": "a formula" }));
    }
    let run = place.run(&["inspect", "model"])?.exits(0)?;
    assert!(run.out.contains("goldfish"), "{}", run.out);
    Ok(())
}
