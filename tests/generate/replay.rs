//! What a picture says about itself, and drawing it again.

use anyhow::{Context, Result};
use pipeline::SamplingDefaults;
use serde_json::{Value, json};

use crate::generators::{CODES, Recipe, chunk, classes};
use crate::place;
use crate::support::same_bytes;

#[test]
fn a_picture_is_drawn_again_from_what_it_says() -> Result<()> {
    let place = place()?;
    place.transformer(
        "guided",
        &Recipe {
            sampling: SamplingDefaults {
                top_k: Some(30),
                cfg_scale: 2.0,
                ..SamplingDefaults::default()
            },
            ..Recipe::new(classes())
        },
    )?;
    place.picture("photo.png", 13, 10)?;
    let cases: [&[&str]; 5] = [
        &["--model", "model", "--class", "fire engine", "--temperature", "0.9", "--top-p", "0.9"],
        &["--model", "guided", "--class", "0", "--cfg-interval", "7"],
        &["--model", "model", "--class", "2", "--candidates", "3"],
        &["--model", "model", "--class", "2", "--complete", "photo.png", "--paste", "--seed", "9"],
        &["--model", "model", "--class", "2", "--greedy", "--width", "8", "--height", "14"],
    ];
    for (i, case) in cases.iter().enumerate() {
        let (out, again) = (format!("out{i}"), format!("again{i}"));
        let args = [&["generate", "--count", "2", "--output", &out], *case].concat();
        place.run(&args)?.exits(0)?;
        let files = place.files(&out)?;
        assert_eq!(files.len(), 2);
        let picture = format!("{out}/{}", files[1]);
        place.run(&["generate", "--from", &picture, "--output", &again])?.exits(0)?;
        same_bytes(&place.path(&out), &place.path(&again), &files[1..])?;
        // In its own place it is not overwritten unasked.
        let run = place.run(&["generate", "--from", &picture, "--output", &out])?.exits(2)?;
        assert!(run.err.contains("--force"), "{}", run.err);
    }
    // A moved model is named; another one is refused, with both identities.
    std::fs::rename(place.path("model"), place.path("moved"))?;
    let picture = "out0/fire-engine-0-00000.png";
    let run = place.run(&["generate", "--from", picture, "--output", "x"])?;
    assert_eq!(run.code, 1, "{}", run.err);
    let args = ["generate", "--from", picture, "--output", "x"];
    place.run(&[&args[..], &["--model", "moved"]].concat())?.exits(0)?;
    place.transformer("model", &Recipe { seed: 2, ..Recipe::new(classes()) })?;
    let run = place.run(&["generate", "--from", picture, "--output", "y"])?.exits(2)?;
    let recipe: Value = serde_json::from_str(&chunk(&place.path(picture), "synth")?)?;
    let sha256 = recipe["model"]["sha256"].as_str().context("no sha256")?;
    assert!(run.err.contains(sha256) && run.err.contains("weights differ"), "{}", run.err);
    assert!(place.files("y")?.is_empty());
    // A pasted picture must be the one it was.
    let pasted = "out3/fire-engine-9-00000.png";
    std::fs::remove_file(place.path("photo.png"))?;
    let args = ["generate", "--from", pasted, "--output", "z", "--model", "moved"];
    let run = place.run(&args)?.exits(2)?;
    assert!(run.err.contains("--complete"), "{}", run.err);
    place.picture("another.png", 13, 10)?;
    std::fs::rename(place.path("another.png"), place.path("photo.png"))?;
    let run = place.run(&args)?.exits(2)?;
    assert!(run.err.contains("changed"), "{}", run.err);
    Ok(())
}

#[test]
fn formats_of_weights_are_recorded_and_drawn_with_again() -> Result<()> {
    let place = place()?;
    place.picture("photo.png", 8, 8)?;
    let bits = |more: &[&str]| -> Result<f64> {
        let args = ["score", "--model", "model", "--class", "1", "photo.png", "--json"];
        let line = place.run(&[&args[..], more].concat())?.exits(0)?.line("picture")?;
        line["bits_per_code"].as_f64().context("no bits")
    };
    let (whole, mut lost) = (bits(&[])?, Vec::new());
    for format in ["f32", "bf16", "f16", "q8", "q4"] {
        let args = ["--model", "model", "--class", "1", "--count", "3", "--weights", format];
        let again = format!("{format}-again");
        place.run(&[&["generate", "--output", format], &args[..]].concat())?.exits(0)?;
        let files = place.files(format)?;
        assert_eq!(files.len(), 3, "{format}");
        for file in &files {
            let picture = format!("{format}/{file}");
            let recipe: Value = serde_json::from_str(&chunk(&place.path(&picture), "synth")?)?;
            assert_eq!((&recipe["weights"], &recipe["dtype"]), (&json!(format), &json!("f32")));
            let people = chunk(&place.path(&picture), "parameters")?;
            assert!(people.contains(&format!("Weights: {format}")), "{people}");
            place.run(&["generate", "--from", &picture, "--output", &again])?.exits(0)?;
        }
        same_bytes(&place.path(format), &place.path(&again), &files)?;
        lost.push((bits(&["--weights", format])? - whole).abs());
    }
    // The fewer the bits, the further from what the model was.
    assert_eq!(lost[0], 0.0);
    assert!(lost[1..].iter().all(|&lost| lost > 0.0) && lost[3] < lost[4], "{lost:?}");
    assert!(lost[4] < 1.0, "{lost:?}");
    // Where nothing was asked for, nothing is recorded, as it was before.
    place.run(&["generate", "--model", "model", "--class", "1"])?.exits(0)?;
    let text = chunk(&place.path("generated/tabby-cat-0-00000.png"), "synth")?;
    assert!(!text.contains("weights"), "{text}");
    let pixels =
        |path: &str| -> Result<Vec<u8>> { Ok(image::open(place.path(path))?.into_bytes()) };
    let of = |folder: &str| pixels(&format!("{folder}/tabby-cat-0-00000.png"));
    assert_eq!(of("generated")?, of("f32")?);
    assert_ne!(of("q4")?, of("f32")?);
    Ok(())
}

#[test]
fn metadata_for_people_and_programs() -> Result<()> {
    let place = place()?;
    let args = ["generate", "--model", "model", "--class", "cat", "--grid", "--count", "3"];
    let run = place.run(&args)?.exits(2)?;
    assert!(run.err.contains("tabby cat"), "the nearest: {}", run.err);
    let args =
        ["generate", "--model", "model", "--class", "tabby", "--grid", "--count", "3", "--json"];
    let run = place.run(&args)?.exits(0)?;
    assert_eq!(run.lines("picture")?.len(), 3);
    let summary = run.line("summary")?;
    assert_eq!((&summary["done"], &summary["codes"]), (&json!(3), &json!(48)));
    assert!(summary["codes_per_second"].as_f64().is_some_and(|speed| speed > 0.0));
    let sheet = run.line("sheet")?;
    assert_eq!(sheet["output"], "generated/sheet-0.png");
    assert_eq!(image::image_dimensions(place.path("generated/sheet-0.png"))?, (18, 18));
    let picture = place.path("generated/tabby-cat-0-00001.png");
    let people = chunk(&picture, "parameters")?;
    for words in ["tabby cat", "Seed: 0", "Sample: 1", "Size: 8x8", "Temperature: 1", "model"] {
        assert!(people.contains(words), "{words}: {people}");
    }
    let recipe: Value = serde_json::from_str(&chunk(&picture, "synth")?)?;
    assert_eq!(recipe["condition"]["front"]["tokens"], json!([CODES + 1]));
    let run = place.run(&["inspect", "generated/tabby-cat-0-00001.png"])?.exits(0)?;
    for words in ["parameters", "Seed: 0", "front", "sha256"] {
        assert!(run.out.contains(words), "{words}: {}", run.out);
    }
    // A sheet is not drawn again, and says so; nor is any other picture.
    place.picture("plain.png", 8, 8)?;
    for (picture, words) in [("generated/sheet-0.png", "sheet"), ("plain.png", "synth chunk")] {
        let run = place.run(&["generate", "--from", picture])?.exits(2)?;
        assert!(run.err.contains(words), "{}", run.err);
    }
    place.run(&["generate", "--from", "nowhere.png"])?.exits(1)?;
    Ok(())
}
