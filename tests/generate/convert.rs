//! Models that were converted, with other defaults or another first stage.

use anyhow::{Result, ensure};
use pipeline::SamplingDefaults;
use serde_json::{Value, json};

use crate::generators::{CODES, Recipe, chunk, classes};
use crate::support::{Place, Run, same_bytes, tiny};
use crate::{place, support};

fn config(place: &Place, model: &str) -> Result<Value> {
    Ok(serde_json::from_str(&std::fs::read_to_string(place.path(model).join("config.json"))?)?)
}

/// Draws four pictures with `model`, into `out`.
fn draw(place: &Place, model: &str, out: &str, options: &[&str]) -> Result<Vec<String>> {
    let args = ["generate", "--model", model, "--class", "0", "1", "--count", "2", "--output", out];
    place.run(&[&args[..], options].concat())?.exits(0)?;
    place.files(out)
}

/// The pixels of a picture, and how it says that its codes were drawn.
fn drawn(place: &Place, file: &str) -> Result<(Vec<u8>, [Value; 2])> {
    let recipe: Value = serde_json::from_str(&chunk(&place.path(file), "synth")?)?;
    let pixels = image::open(place.path(file))?.into_bytes();
    Ok((pixels, [recipe["sampling"].clone(), recipe["guidance"].clone()]))
}

fn refused(place: &Place, run: Run, parts: &[&str]) -> Result<()> {
    let run = run.exits(2)?;
    for part in parts {
        ensure!(run.err.contains(part), "{part:?} is not in {}", run.err);
    }
    let errors = |start| run.err.matches(start).count();
    ensure!(errors("synth-cli:") + errors("error:") == 1, "{}", run.err);
    ensure!(place.files("no")?.is_empty(), "{:?}", place.files("no")?);
    Ok(())
}

const ALL: [&str; 8] =
    ["--temperature", "0.8", "--top-k", "20", "--top-p", "0.9", "--cfg-scale", "2.5"];

#[test]
fn options_of_drawing_become_the_models_own() -> Result<()> {
    let place = place()?;
    let plain = draw(&place, "model", "plain", &[])?;
    let files = draw(&place, "model", "told", &ALL)?;
    let weights = || std::fs::read(place.path("model/model.safetensors"));
    let before = (config(&place, "model")?, weights()?);
    // In its own place, so that pictures name the same model.
    let convert = ["convert", "model", "--output", "model", "--force"];
    place.run(&[&convert[..], &ALL].concat())?.exits(0)?;
    assert_eq!(draw(&place, "model", "untold", &[])?, files);
    same_bytes(&place.path("told"), &place.path("untold"), &files)?;
    assert_eq!(plain, files);
    for file in &files {
        let [told, plain] = [format!("told/{file}"), format!("plain/{file}")];
        assert_ne!(drawn(&place, &told)?.0, drawn(&place, &plain)?.0, "{file}");
    }
    // What is said on the command line still counts.
    draw(&place, "model", "again", &["--temperature", "1", "--top-k", "all", "--top-p", "1"])?;
    draw(&place, "model", "unguided", &["--cfg-scale", "1"])?;
    for (out, sampling) in [
        ("again", json!({ "greedy": false, "temperature": 1.0, "top_k": null, "top_p": 1.0 })),
        ("unguided", json!({ "greedy": false, "temperature": 0.8, "top_k": 20, "top_p": 0.9 })),
    ] {
        let [own, guidance] = drawn(&place, &format!("{out}/{}", files[0]))?.1;
        assert_eq!((own, guidance.is_null()), (sampling, out == "unguided"), "{out}");
    }
    // Nothing else has changed.
    let (mut after, own) = (config(&place, "model")?, before.0["sampling"].clone());
    let changed = std::mem::replace(&mut after["sampling"], own);
    let expected = json!({ "temperature": 0.8, "top_k": 20, "top_p": 0.9, "cfg_scale": 2.5 });
    assert_eq!(changed, expected);
    after["first_stage"] = before.0["first_stage"].clone();
    assert_eq!(after, before.0);
    assert_ne!(weights()?, before.1, "the hash of the configuration is in it");
    Ok(())
}

#[test]
fn each_option_of_drawing_leaves_the_others_as_they_were() -> Result<()> {
    let place = place()?;
    let own = SamplingDefaults { temperature: 0.9, top_k: Some(30), top_p: 0.95, cfg_scale: 1.5 };
    place.transformer("model", &Recipe { sampling: own, ..Recipe::new(classes()) })?;
    for (i, options) in [
        &["--temperature", "0.5"][..],
        &["--top-k", "3"],
        &["--top-k", "all"],
        &["--top-p", "0.3"],
        &["--cfg-scale", "1"],
    ]
    .into_iter()
    .enumerate()
    {
        let (model, told, untold) = (format!("m{i}"), format!("told{i}"), format!("untold{i}"));
        place.run(&[&["convert", "model", "--output", &model][..], options].concat())?.exits(0)?;
        let files = draw(&place, "model", &told, options)?;
        assert_eq!(draw(&place, &model, &untold, &[])?, files);
        for file in &files {
            let [told, untold] = [format!("{told}/{file}"), format!("{untold}/{file}")];
            assert_eq!(drawn(&place, &untold)?, drawn(&place, &told)?, "{options:?}");
        }
    }
    // With other changes, and from others' files.
    let both = ["convert", "model", "--weights", "q8", "--temperature", "0.5", "--output", "q8"];
    place.run(&both)?.exits(0)?;
    place.run(&["convert", "model", "--to", "taming", "--output", "run"])?.exits(0)?;
    let args = ["convert", "run", "--temperature", "0.5", "--top-k", "all", "--output", "back"];
    place.run(&args)?.exits(0)?;
    for (model, top_k) in [("q8", json!(30)), ("back", Value::Null)] {
        let expected =
            json!({ "temperature": 0.5, "top_k": top_k, "top_p": 0.95, "cfg_scale": 1.5 });
        assert_eq!(config(&place, model)?["sampling"], expected);
        draw(&place, model, &format!("of-{model}"), &[])?;
    }
    Ok(())
}

#[test]
fn ways_to_draw_that_cannot_be_are_no_models_own() -> Result<()> {
    let place = place()?;
    place.transformer("start", &Recipe::new(json!({ "kind": "start", "token": CODES })))?;
    let cases: [(&[&str], &[&str]); 8] = [
        (&["model", "--temperature", "0"], &["temperature 0", "greedy"]),
        (&["model", "--temperature", "NaN"], &["temperature NaN"]),
        (&["model", "--top-k", "0"], &["top-k 0"]),
        (&["model", "--top-p", "1.01"], &["top-p 1.01"]),
        (&["model", "--cfg-scale", "0.5"], &["cfg-scale 0.5"]),
        (&["start", "--cfg-scale", "2"], &["cannot be guided"]),
        (&["model", "--to", "taming", "--top-p", "0.9"], &["--top-p", "--to ours"]),
        (&["vqgan", "--top-k", "9"], &["vqgan", "codec", "--top-k"]),
    ];
    for (args, parts) in cases {
        let run = place.run(&[&["convert"][..], args, &["--output", "no"]].concat())?;
        refused(&place, run, parts)?;
    }
    // What cannot be guided can be told so.
    let args = ["convert", "start", "--cfg-scale", "1", "--top-k", "9", "--output", "start-9"];
    place.run(&args)?.exits(0)?;
    Ok(())
}

#[test]
fn a_first_stage_of_other_codes_is_refused_in_every_format() -> Result<()> {
    let place = place()?;
    place.model("other", &tiny(2), 7)?;
    // Another decoder alone.
    let mut tensors = support::formula_tensors(&tiny(2), 1)?;
    for (name, tensor) in support::formula_tensors(&tiny(2), 7)? {
        if !vq_autoencoder::VqModel::decides_codes(&name) {
            tensors.insert(name, tensor);
        }
    }
    let codec = pipeline::model_config(&tiny(2), &Default::default(), json!({}))?;
    checkpoints::model_folder::ModelFolder::write(place.path("sharper"), &codec, &tensors, "")?;
    let codec_sha256 = |model: &str| -> Result<Value> {
        let line = place.run(&["inspect", model, "--json"])?.exits(0)?.line("generator")?;
        Ok(line["codec_sha256"].clone())
    };
    let mut codecs = vec![codec_sha256("model")?];
    for (to, out) in [("ours", "a"), ("taming", "b")] {
        let args = ["convert", "model", "--to", to, "--first-stage"];
        let run = place.run(&[&args[..], &["other", "--output", "no"]].concat())?;
        refused(&place, run, &["other", "codes mean something else", "keep_codes"])?;
        place.run(&[&args[..], &["sharper", "--output", out]].concat())?.exits(0)?;
        codecs.push(codec_sha256(out)?);
    }
    assert!(codecs[0] != codecs[1] && codecs[1] == codecs[2], "{codecs:?}");
    // A reference's checkpoint has its own inside.
    for to in ["ours", "taming"] {
        let args = ["convert", "b", "--to", to, "--first-stage", "other", "--output", "no"];
        refused(&place, place.run(&args)?, &["other", "codes mean something else"])?;
    }
    let args = ["generate", "--model", "b", "--first-stage", "other", "--class", "0", "--output"];
    refused(&place, place.run(&[&args[..], &["no"]].concat())?, &["leave --first-stage out"])?;
    Ok(())
}
