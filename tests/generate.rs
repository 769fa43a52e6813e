//! `generate`: the same seed gives the same pictures, and a picture says how to make it
//! again.

#[path = "support/generators.rs"]
mod generators;
mod support;

use anyhow::{Context, Result};
use generators::{CODES, Recipe, TOKENIZER, chunk, classes};
use pipeline::SamplingDefaults;
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
fn one_clear_message_for_everything_that_cannot_be() -> Result<()> {
    let place = place()?;
    place.transformer(
        "text",
        &Recipe {
            tokenizer: Some(TOKENIZER),
            ..Recipe::new(json!({ "kind": "text", "tokens": 3, "offset": CODES + 1, "pad": CODES,
                              "null": CODES }))
        },
    )?;
    place.transformer(
        "mute",
        &Recipe::new(json!({ "kind": "text", "tokens": 3, "offset": CODES + 1, "pad": CODES })),
    )?;
    place.transformer("broken", &Recipe { spoiled: Some(f32::NAN), ..Recipe::new(classes()) })?;
    place.transformer("start", &Recipe::new(json!({ "kind": "start", "token": CODES })))?;
    place.transformer(
        "image",
        &Recipe::new(json!({ "kind": "grid", "input": "image", "grid": [4, 4] })),
    )?;
    place.transformer("greedy-eyes", &Recipe::new(classes()))?;
    place.picture("small.png", 6, 8)?;
    place.picture("wide.png", 8, 10)?;
    place.transformer("narrow", &Recipe { width: 40, ..Recipe::new(classes()) })?;
    let cases: [(&[&str], &[&str]); 28] = [
        (&["--model", "model", "--class", "goldfisch"], &["goldfisch", "\"goldfish\""]),
        (&["--model", "model", "--class", "3"], &["no class 3", "numbered from 0"]),
        (&["--model", "model"], &["takes a class", "--class"]),
        (&["--model", "model", "--prompt", "red"], &["takes a class", "not a text"]),
        (&["--model", "model", "--condition", "wide.png"], &["takes a class", "not a picture"]),
        (&["--model", "start", "--class", "1"], &["unconditional"]),
        (&["--model", "image", "--class", "1"], &["takes a picture"]),
        (&["--model", "image", "--condition", "small.png"], &["6x8", "8x8"]),
        (
            &["--model", "image", "--condition", "wide.png", "--complete", "small.png"],
            &["8x10", "6x8"],
        ),
        (&["--model", "text", "--prompt", "red green red apple"], &["4 tokens", "3 at most"]),
        (&["--model", "mute", "--prompt", "red"], &["mute", "tokenizer.json"]),
        (&["--model", "mute", "--prompt", "red", "--cfg-scale", "2"], &["tokenizer.json"]),
        (&["--model", "start", "--cfg-scale", "2"], &["cannot be guided"]),
        (&["--model", "broken", "--class", "0"], &["NaN", "weights"]),
        (&["--model", "model", "--class", "0", "--top-k", "0"], &["top-k 0"]),
        (&["--model", "model", "--class", "0", "--top-p", "0"], &["top-p 0", "(0, 1]"]),
        (&["--model", "model", "--class", "0", "--top-p", "1.01"], &["top-p 1.01"]),
        (&["--model", "model", "--class", "0", "--temperature", "0"], &["temperature 0"]),
        (&["--model", "model", "--class", "0", "--cfg-scale", "0.5"], &["cfg-scale 0.5"]),
        (&["--model", "model", "--class", "0", "--width", "6"], &["6x8", "8x8"]),
        (
            &["--model", "model", "--class", "0", "--complete", "wide.png", "--keep", "1"],
            &["--keep 1"],
        ),
        (&["--model", "model", "--class", "0", "--shard", "0/2"], &["i from 1 to n"]),
        (&["--model", "model", "--class", "0", "--shard", "1/2", "--grid"], &["--shard"]),
        (
            &["--model", "narrow", "--class", "0", "--weights", "q8"],
            &["blocks of 32", "40", "bf16"],
        ),
        (&["--model", "model", "--class", "0", "--weights", "q5"], &["q5", "q8, q4"]),
        (&["--from", "small.png", "--weights", "q8"], &["--from", "--weights"]),
        (&["--model", "vqgan"], &["vq_autoencoder"]),
        (&["--class", "0"], &["--model"]),
    ];
    for (args, words) in cases {
        let run = place.run(&[&["generate", "--output", "no"], args].concat())?;
        let run = run.exits(2).context(format!("{args:?}"))?;
        for words in words {
            assert!(run.err.contains(words), "{args:?}: {words:?} is not in {}", run.err);
        }
        assert!(!run.err.contains("panicked"), "{}", run.err);
        assert!(place.files("no")?.is_empty(), "{args:?} left something behind");
    }
    place.run(&["generate", "--model", "nowhere"])?.exits(1)?;
    place.run(&["generate", "--model", "image", "--condition", "nowhere.png"])?.exits(1)?;
    // What works.
    place.run(&["generate", "--model", "text", "--prompt", "red apple", "green"])?.exits(0)?;
    place.run(&["generate", "--model", "image", "--condition", "wide.png"])?.exits(0)?;
    assert_eq!(place.files("generated")?.len(), 3);
    Ok(())
}

#[test]
fn another_codec_is_refused() -> Result<()> {
    let place = place()?;
    std::fs::remove_dir_all(place.path("vqgan"))?;
    let run = place.run(&["generate", "--model", "model", "--class", "0"])?.exits(2)?;
    assert!(run.err.contains("--first-stage"), "{}", run.err);
    place.model("vqgan", &support::tiny(2), 7)?;
    let run = place.run(&["generate", "--model", "model", "--class", "0"])?.exits(2)?;
    assert!(run.err.contains("not the first stage"), "{}", run.err);
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

#[test]
fn maps_as_conditions() -> Result<()> {
    let place = Place::new()?;
    let channels = |n: usize| {
        let mut config = support::tiny(2);
        (config.in_channels, config.out_channels) = (n, n);
        config
    };
    place.model("labels", &channels(5), 3)?;
    place.model("depth", &channels(1), 4)?;
    let grid = |input: &str, codec: &str| {
        json!({ "kind": "grid", "input": input, "codec": codec, "grid": [4, 4], "offset": CODES,
                "labels": if codec == "labels" { json!(["sky", "sea", "sand", "sun", "sail"]) }
                          else { Value::Null } })
    };
    place.transformer("from-labels", &Recipe::new(grid("segmentation", "labels")))?;
    place.transformer("from-depth", &Recipe::new(grid("depth", "depth")))?;
    let gray = |name: &str, size: (u32, u32), most: u32| -> Result<()> {
        let value = |x: u32, y: u32| image::Luma([((x / 3 + y / 2) % most) as u8]);
        Ok(image::GrayImage::from_fn(size.0, size.1, value).save(place.path(name))?)
    };
    gray("map.png", (8, 8), 5)?;
    gray("other.png", (8, 8), 3)?;
    gray("large.png", (14, 10), 5)?;
    gray("seven.png", (8, 8), 8)?;
    place.picture("photo.png", 8, 8)?;
    let wide = |x: u32, y: u32| image::Luma([(x * 7000 + y) as u16]);
    image::ImageBuffer::<image::Luma<u16>, Vec<u16>>::from_fn(8, 8, wide)
        .save(place.path("depth16.png"))?;
    let run = |args: &[&str]| place.run(&[&["generate", "--model"], args].concat());
    run(&["from-labels", "--condition", "map.png", "other.png", "--output", "small"])?.exits(0)?;
    run(&["from-labels", "--condition", "large.png", "--output", "large"])?.exits(0)?;
    run(&["from-depth", "--condition", "depth16.png", "map.png", "--output", "deep"])?.exits(0)?;
    assert_eq!(place.files("deep")?.len(), 2);
    assert_eq!(image::image_dimensions(place.path("large/large-0-00000.png"))?, (14, 10));
    // Scaled where the user says so.
    let sized = ["from-labels", "--condition", "large.png", "--width", "8", "--height", "8"];
    run(&[&sized[..], &["--output", "sized"]].concat())?.exits(0)?;
    for (file, words) in [("seven.png", "label 5"), ("photo.png", "colours")] {
        let run = run(&["from-labels", "--condition", file])?.exits(2)?;
        assert!(run.err.contains(words) && run.err.contains(file), "{}", run.err);
    }
    // The map is in the picture: its file is not needed again.
    std::fs::remove_file(place.path("large.png"))?;
    place.run(&["generate", "--from", "large/large-0-00000.png", "--output", "again"])?.exits(0)?;
    same_bytes(&place.path("large"), &place.path("again"), &place.files("large")?)?;
    let line = place.run(&["inspect", "from-labels", "--json"])?.exits(0)?.line("generator")?;
    assert_eq!((&line["input"], &line["first_names"][4]), (&json!("segmentation"), &json!("sail")));
    Ok(())
}

#[test]
fn nothing_is_needed_where_there_is_no_choice() -> Result<()> {
    let place = Place::new()?;
    place.transformer("start", &Recipe::new(json!({ "kind": "start", "token": CODES })))?;
    place.transformer(
        "one",
        &Recipe::new(json!({ "kind": "class", "names": ["picture"], "offset": CODES })),
    )?;
    for model in ["start", "one"] {
        let out = format!("{model}-drawn");
        place.run(&["generate", "--model", model, "--count", "2", "--output", &out])?.exits(0)?;
        assert_eq!(place.files(&out)?, ["picture-0-00000.png", "picture-0-00001.png"]);
    }
    Ok(())
}
