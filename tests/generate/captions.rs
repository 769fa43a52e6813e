//! `--text-encoder`: captions read by a T5, here of a few thousand random weights.

use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use serde_json::Value;

use crate::generators::{POSITIONS, Recipe, WIDTH, chunk, classes};
use crate::support::{Place, same_bytes};

/// A place with the model `model` and the text encoder `t5`.
fn place() -> Result<Place> {
    let place = Place::new()?;
    place.transformer("model", &Recipe::of_captions())?;
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../text-encoder/tests/data");
    std::fs::create_dir(place.path("t5"))?;
    for file in ["gated/config.json", "gated/model.safetensors", "tokenizer.json"] {
        let name = file.rsplit('/').next().unwrap_or(file);
        std::fs::copy(data.join(file), place.path("t5").join(name))?;
    }
    Ok(place)
}

fn recipe(place: &Place, file: &str) -> Result<Value> {
    Ok(serde_json::from_str(&chunk(&place.path(file), "synth")?)?)
}

const PROMPT: &str = "Two RED apples on a white plate!";
const DRAWN: &str = "two-red-apples-on-a-white-plate-0-00000.png";

#[test]
fn a_prompt_is_read_by_the_text_encoder() -> Result<()> {
    let place = place()?;
    let args = ["generate", "--model", "model", "--greedy"];
    let run = |out: &str, more: &[&str]| {
        place.run(&[&args[..], &["--output", out], more].concat())?.exits(0)
    };
    let by_t5 = ["--prompt", PROMPT, "a horse in the forest", "--text-encoder", "t5"];
    let quiet = run("drawn", &by_t5)?;
    assert!(!quiet.err.contains("left out"), "{}", quiet.err);
    let files = place.files("drawn")?;
    assert_eq!(files, ["a-horse-in-the-forest-0-00001.png", DRAWN]);

    // The recipe holds what was read, and says what read it.
    let condition = recipe(&place, &format!("drawn/{DRAWN}"))?["condition"].clone();
    assert_eq!((&condition["name"], &condition["text_encoder"]), (&PROMPT.into(), &"t5".into()));
    let caption = &condition["front"]["caption"];
    let embeddings: Vec<f32> = serde_json::from_value(caption["embeddings"].clone())?;
    let present: Vec<bool> = serde_json::from_value(caption["present"].clone())?;
    assert_eq!((embeddings.len(), present.len()), (POSITIONS * WIDTH, POSITIONS));
    // 22 tokens, at the end.
    assert_eq!(present.iter().position(|&there| there), Some(POSITIONS - 22));

    // The same embeddings out of a file draw the same codes.
    let mask: Vec<u8> = present.iter().map(|&there| there.into()).collect();
    let tensors = [
        ("embeddings", Tensor::from_vec(embeddings, (POSITIONS, WIDTH), &Device::Cpu)?),
        ("mask", Tensor::from_vec(mask, POSITIONS, &Device::Cpu)?),
    ];
    let tensors = tensors.map(|(name, tensor)| (name.to_owned(), tensor));
    let file = place.path("caption.safetensors");
    candle_core::safetensors::save(&tensors.into_iter().collect(), file)?;
    run("given", &["--condition", "caption.safetensors"])?;
    let pixels =
        |path: &str| -> Result<Vec<u8>> { Ok(image::open(place.path(path))?.into_bytes()) };
    let drawn = pixels(&format!("drawn/{DRAWN}"))?;
    assert_eq!(drawn, pixels("given/caption-0-00000.png")?);
    assert_ne!(drawn, pixels(&format!("drawn/{}", files[0]))?);

    // Drawn again, a picture needs no text encoder; guidance and scores work as ever.
    std::fs::rename(place.path("t5"), place.path("moved"))?;
    place.run(&["generate", "--from", &format!("drawn/{DRAWN}"), "--output", "again"])?.exits(0)?;
    same_bytes(&place.path("drawn"), &place.path("again"), &[DRAWN.to_owned()])?;
    let by_t5 = ["--prompt", PROMPT, "--text-encoder", "moved"];
    run("guided", &[&by_t5[..], &["--cfg-scale", "3"]].concat())?;
    let picture = format!("drawn/{DRAWN}");
    let args = ["score", "--model", "model", &picture, "--json"];
    let line = place.run(&[&args[..], &by_t5].concat())?.exits(0)?.line("picture")?;
    assert!(line["bits_per_code"].as_f64().context("no bits")? > 0.0);

    // What has no place is left out, and that is said.
    let long = ["a photo of an astronaut riding a horse in the forest"; 3].join(" ");
    let run = run("long", &["--prompt", &long, "--text-encoder", "moved"])?;
    assert!(
        run.err.contains("tokens are left out") && run.err.contains("astronaut"),
        "{}",
        run.err
    );
    Ok(())
}

#[test]
fn what_is_missing_is_named() -> Result<()> {
    let place = place()?;
    place.transformer("classes", &Recipe::new(classes()))?;
    let copy = |name: &str, leave: &str, edit: &dyn Fn(String) -> String| -> Result<()> {
        std::fs::create_dir(place.path(name))?;
        for file in ["config.json", "tokenizer.json", "model.safetensors"] {
            if file != leave {
                std::fs::copy(place.path("t5").join(file), place.path(name).join(file))?;
            }
        }
        let config = place.path(name).join("config.json");
        Ok(std::fs::write(&config, edit(std::fs::read_to_string(&config)?))?)
    };
    copy("mute", "tokenizer.json", &|text| text)?;
    copy("empty", "model.safetensors", &|text| text)?;
    copy("large", "", &|text| text.replace("\"d_model\": 16", "\"d_model\": 1024"))?;
    copy("bert", "", &|text| text.replace("\"t5\"", "\"bert\""))?;
    let prompt = |model: &'static str| ["generate", "--model", model, "--prompt", "a horse"];
    let cases: [(&str, &[&str], &[&str]); 7] = [
        ("model", &[], &["--text-encoder google/flan-t5-xl", "--condition"]),
        ("model", &["--text-encoder", "mute"], &["mute", "tokenizer.json", "spiece.model"]),
        ("model", &["--text-encoder", "empty"], &["empty", "no weights"]),
        ("model", &["--text-encoder", "large"], &["large", "1024", "takes 16"]),
        ("model", &["--text-encoder", "bert"], &["config.json", "\"bert\""]),
        ("model", &["--text-encoder", "vqgan"], &["vqgan", "T5"]),
        ("classes", &["--text-encoder", "t5"], &["takes a class", "--text-encoder"]),
    ];
    for (model, more, words) in cases {
        let args = [&prompt(model)[..], &["--output", "no"], more].concat();
        let run = place.run(&args)?.exits(2)?;
        for words in words {
            assert!(run.err.contains(words), "{more:?}: {words:?} is not in {}", run.err);
        }
        assert!(!run.err.contains("panicked") && place.files("no")?.is_empty(), "{}", run.err);
    }
    let args = [&prompt("model")[..], &["--text-encoder", "nowhere"]].concat();
    place.run(&args)?.exits(1)?;
    Ok(())
}
