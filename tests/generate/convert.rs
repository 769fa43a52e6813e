//! Models that were converted, with another first stage.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::support::{Place, Run, tiny};
use crate::{place, support};

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
