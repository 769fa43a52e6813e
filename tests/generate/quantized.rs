//! Models whose weights are stored as 8 or 4 bits.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::generators::{Recipe, chunk, classes};
use crate::place;
use crate::support::Place;

fn pixels(place: &Place, file: &str) -> Result<Vec<u8>> {
    Ok(image::open(place.path(file)).with_context(|| file.to_owned())?.into_bytes())
}

fn bytes(path: &Path) -> Result<u64> {
    Ok(std::fs::metadata(path.join("model.safetensors"))?.len())
}

fn config(path: &Path) -> Result<Value> {
    Ok(serde_json::from_str(&std::fs::read_to_string(path.join("config.json"))?)?)
}

#[test]
fn the_shipped_model_in_8_bits_draws_what_it_draws_when_it_is_rounded_on_loading() -> Result<()> {
    let place = Place::new()?;
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/models/emoji");
    for (format, most) in [("q8", 0.65), ("q4", 0.5)] {
        place.run(&["convert", model, "--weights", format, "--output", format])?.exits(0)?;
        let (before, after) = (bytes(Path::new(model))?, bytes(&place.path(format))?);
        assert!((after as f64) < most * before as f64, "{format}: {after} of {before} bytes");
        let (loaded, stored) = (format!("{format}-loaded"), format!("{format}-stored"));
        let prompts = ["--seed", "3", "--prompt", "red heart", "fish"];
        let args = ["generate", "--model", model, "--weights", format, "--output", &loaded];
        place.run(&[&args[..], &prompts].concat())?.exits(0)?;
        let args = ["generate", "--model", format, "--output", &stored];
        place.run(&[&args[..], &prompts].concat())?.exits(0)?;
        let files = place.files(&stored)?;
        assert_eq!((files.len(), &files), (2, &place.files(&loaded)?));
        for file in &files {
            let (loaded, stored) = (format!("{loaded}/{file}"), format!("{stored}/{file}"));
            assert_eq!(pixels(&place, &loaded)?, pixels(&place, &stored)?, "{file}");
            let recipe = |file: &str| -> Result<Value> {
                Ok(serde_json::from_str(&chunk(&place.path(file), "synth")?)?)
            };
            assert_eq!(recipe(&stored)?["weights"], json!(format));
            assert_eq!(recipe(&loaded)?["weights"], json!(format));
        }
        let (again, drawn) = (format!("{format}-again"), format!("{stored}/{}", files[0]));
        place.run(&["generate", "--from", &drawn, "--output", &again])?.exits(0)?;
        assert_eq!(
            std::fs::read(place.path(&drawn))?,
            std::fs::read(place.path(&again).join(&files[0]))?
        );
        // Bits a code are those of weights that were rounded on loading.
        let bits = |model: &[&str]| -> Result<Value> {
            let args = ["score", &drawn, "--prompt", "fish", "--json", "--model"];
            let line = place.run(&[&args[..], model].concat())?.exits(0)?.line("picture")?;
            Ok(line["bits_per_code"].clone())
        };
        assert_eq!(bits(&[format])?, bits(&[model, "--weights", format])?);
        assert_ne!(bits(&[format])?, bits(&[model])?);

        let config = config(&place.path(format))?;
        assert_eq!((&config["weights"], &config["format_version"]), (&json!(format), &json!(2)));
        assert_eq!(config["provenance"]["weights"], json!(format));
        let card = std::fs::read_to_string(place.path(format).join("README.md"))?;
        assert!(card.contains(&format!("stored as {format}")), "{card}");
        let line = place.run(&["inspect", format, "--json"])?.exits(0)?.line("generator")?;
        let plain = place.run(&["inspect", model, "--json"])?.exits(0)?.line("generator")?;
        assert_eq!(line["kept_as"], json!(format));
        assert_eq!(line["parameters"], plain["parameters"]);
        assert_ne!(line["sha256"], plain["sha256"]);
        assert!(plain.get("kept_as").is_none(), "{plain}");
    }
    Ok(())
}

#[test]
fn a_folder_in_blocks_is_copied_as_it_is_and_made_nothing_else_of() -> Result<()> {
    let place = place()?;
    place.transformer("narrow", &Recipe { width: 40, ..Recipe::new(classes()) })?;
    let convert = |args: &[&str]| place.run(&[&["convert"][..], args].concat());
    convert(&["model", "--weights", "q8", "--numbers", "f16", "--output", "q8"])?.exits(0)?;
    for more in [&[][..], &["--weights", "q8"]] {
        let args = [&["q8", "--output", "copy", "--force"][..], more].concat();
        convert(&args)?.exits(0)?;
        let file = |name: &str| std::fs::read(place.path(name).join("model.safetensors"));
        assert!(file("copy")? == file("q8")?, "{more:?}");
    }
    let generate = ["--class", "0", "--output", "drawn"];
    let generate =
        |args: &[&str]| place.run(&[&["generate", "--model"][..], args, &generate].concat());
    generate(&["q8", "--weights", "q8"])?.exits(0)?;
    generate(&["q8", "--weights", "q8", "--dtype", "bf16", "--seed", "1"])?.exits(0)?;

    let refused = |run: crate::support::Run, parts: &[&str], out: &str| -> Result<()> {
        let run = run.exits(2)?;
        for part in parts {
            assert!(run.err.contains(part), "{part:?} is not in {}", run.err);
        }
        assert_eq!(run.err.matches("synth-cli:").count(), 1, "{}", run.err);
        assert!(place.files(out)?.is_empty(), "{out}: {:?}", place.files(out)?);
        Ok(())
    };
    for format in ["f32", "bf16", "f16", "q4"] {
        let run = place.run(&[
            "generate",
            "--model",
            "q8",
            "--class",
            "1",
            "--weights",
            format,
            "--output",
            "no",
        ])?;
        refused(run, &["stored as q8", format, "--weights"], "no")?;
    }
    refused(convert(&["q8", "--weights", "q4", "--output", "no"])?, &["stored as q8"], "no")?;
    refused(convert(&["q8", "--to", "taming", "--output", "no"])?, &["only our format"], "no")?;
    let args = ["model", "--weights", "q8", "--to", "taming", "--output", "no"];
    refused(convert(&args)?, &["--to ours"], "no")?;
    let args = ["narrow", "--weights", "q8", "--output", "no"];
    refused(convert(&args)?, &["blocks of 32", "40 numbers"], "no")?;
    let args = ["vqgan", "--weights", "q8", "--output", "no"];
    refused(convert(&args)?, &["codec", "--numbers"], "no")?;
    convert(&["model", "--weights", "f16", "--output", "no"])?.exits(2)?;
    refused(convert(&["model", "--weights", "q8", "--output", "q8"])?, &["exists"], "no")?;

    // Weights of another model's configuration, and none at all.
    let spoil = |name: &str, edit: &dyn Fn(&mut Value)| -> Result<()> {
        convert(&["q8", "--output", name])?.exits(0)?;
        let mut config = config(&place.path(name))?;
        edit(&mut config);
        std::fs::write(place.path("spoiled.json"), config.to_string())?;
        Ok(())
    };
    let read = |weights: &str| {
        let weights = place.path(weights).join("model.safetensors");
        let weights = weights.to_string_lossy().into_owned();
        place.run(&[
            "generate",
            "--model",
            &weights,
            "--config",
            "spoiled.json",
            "--first-stage",
            "vqgan",
            "--class",
            "0",
            "--output",
            "no",
        ])
    };
    spoil("a", &|_| ())?;
    read("a")?.exits(0)?;
    std::fs::remove_dir_all(place.path("no"))?;
    spoil("b", &|config| {
        let _ = config.as_object_mut().and_then(|config| config.remove("weights"));
    })?;
    refused(read("b")?, &["blocks", "config.json"], "no")?;
    spoil("c", &|config| config["weights"] = json!("q4"))?;
    refused(read("c")?, &["Q8_0", "Q4_0"], "no")?;
    spoil("d", &|config| config["weights"] = json!("f16"))?;
    refused(read("d")?, &["only q8 and q4"], "no")?;
    spoil("e", &|config| config["architecture"]["n_embd"] = json!(64))?;
    refused(read("e")?, &["[64, 64]", "[32, 32]"], "no")?;
    spoil("f", &|config| config["weights"] = json!("q8"))?;
    refused(read("model")?, &["is not stored in blocks"], "no")?;
    // A folder whose parts do not belong together is noticed before that.
    let edited = place.path("f/config.json");
    let text =
        std::fs::read_to_string(&edited)?.replace("\"weights\": \"q8\"", "\"weights\": \"q4\"");
    std::fs::write(&edited, text)?;
    let run = place.run(&["generate", "--model", "f", "--class", "0", "--output", "no"])?;
    refused(run, &["config.json beside it"], "no")?;
    Ok(())
}
