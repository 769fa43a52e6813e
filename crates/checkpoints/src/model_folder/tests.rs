use std::fs;

use candle_core::{Device, Tensor};
use serde_json::json;

use super::*;

fn config() -> Value {
    json!({
        "kind": "vqgan",
        "architecture": {"ch": 32, "beta": 0.25, "z": [1, 2]},
        "preprocessing": {"range": [-1, 1]},
        "provenance": {"steps": 10, "lr": 4.5e-6},
    })
}

fn message<T>(result: Result<T>) -> String {
    result.err().map(|e| e.to_string()).unwrap_or_default()
}

#[test]
fn written_folders_open() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("model");
    let tensor = Tensor::new(&[1_f32, 2.0], &Device::Cpu)?;
    let written = ModelFolder::write(&path, &config(), [("a.weight", &tensor)], "# Card\n")?;
    let opened = ModelFolder::open(&path)?;
    assert_eq!(opened, written);
    assert_eq!(opened.kind(), "vqgan");
    assert_eq!(opened.card.as_deref(), Some("# Card\n"));
    assert_eq!(opened.config["architecture"], config()["architecture"]);
    assert_eq!(opened.sha256()?, sha256_file(path.join(WEIGHTS))?);
    let file = TensorFile::open(&opened.weights)?;
    golden::close("a.weight", &file.tensor("a.weight", &Device::Cpu)?, &tensor, 0.0)?;
    assert_eq!(fs::read_dir(dir.path())?.count(), 1);

    // The same model is the same bytes.
    let other = ModelFolder::write(dir.path().join("b"), &config(), [("a.weight", &tensor)], "")?;
    assert_eq!(other.sha256()?, opened.sha256()?);
    Ok(())
}

#[test]
fn nothing_is_overwritten_unasked() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("model");
    let one = Tensor::new(1_f32, &Device::Cpu)?;
    ModelFolder::write(&path, &config(), [("a", &one)], "")?;
    let again = ModelFolder::write(&path, &config(), [("b", &one)], "");
    assert!(matches!(again, Err(Error::Exists { .. })));

    ModelFolder::replace(&path, &config(), [("b", &one)], "")?;
    assert_eq!(TensorFile::open(path.join(WEIGHTS))?.names().collect::<Vec<_>>(), ["b"]);
    fs::write(path.join("thesis.tex"), "years of work")?;
    let refused = message(ModelFolder::replace(&path, &config(), [("c", &one)], ""));
    assert!(refused.contains("thesis.tex"), "{refused}");
    assert!(path.join("thesis.tex").exists());
    assert_eq!(fs::read_dir(dir.path())?.count(), 1);
    Ok(())
}

#[test]
fn a_changed_configuration_is_noticed_and_a_reformatted_one_is_not() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("model");
    let one = Tensor::new(1_f32, &Device::Cpu)?;
    let folder = ModelFolder::write(&path, &config(), [("a", &one)], "")?;
    fs::write(path.join(CONFIG), folder.config.to_string())?;
    assert_eq!(ModelFolder::open(&path)?.config, folder.config);

    let mut changed = folder.config.clone();
    changed["architecture"]["ch"] = 64.into();
    fs::write(path.join(CONFIG), changed.to_string())?;
    assert!(message(ModelFolder::open(&path)).contains("config.json beside it"));

    for (text, part) in [
        ("{}", "kind"),
        ("[", "JSON"),
        (r#"{"kind": "vqgan"}"#, "format_version"),
        (r#"{"kind": "vqgan", "format_version": 3}"#, "newer"),
        (r#"{"kind": "vqgan", "format_version": 1}"#, "architecture"),
    ] {
        fs::write(path.join(CONFIG), text)?;
        let error = message(ModelFolder::open(&path));
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
    Ok(())
}

#[test]
fn incomplete_configurations_are_not_written() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let one = Tensor::new(1_f32, &Device::Cpu)?;
    for config in [json!(null), json!({}), json!({"kind": "vqgan"})] {
        assert!(ModelFolder::write(dir.path().join("m"), &config, [("a", &one)], "").is_err());
    }
    assert_eq!(fs::read_dir(dir.path())?.count(), 0);
    Ok(())
}

#[test]
fn stages_and_a_tokenizer_come_along_and_are_replaced_with_the_rest() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (codec, path) = (dir.path().join("codec"), dir.path().join("model"));
    let one = Tensor::new(1_f32, &Device::Cpu)?;
    ModelFolder::write(&codec, &config(), [("a", &one)], "codec")?;
    fs::write(codec.join("notes.txt"), "not part of a model")?;
    let parts = Parts { tokenizer: Some(b"{}"), first_stage: Some(&codec), ..Parts::default() };
    ModelFolder::write_with(&path, &config(), [("b", &one)], "", parts)?;
    let inside = path.join("first_stage");
    assert_eq!(ModelFolder::open(&inside)?.card.as_deref(), Some("codec"));
    assert!(!inside.join("notes.txt").exists());
    assert_eq!(fs::read(path.join("tokenizer.json"))?, b"{}");

    // Again, with the stage that it holds itself; the tokenizer is no longer named.
    let parts = Parts { first_stage: Some(&inside), ..Parts::default() };
    ModelFolder::replace_with(&path, &config(), [("c", &one)], "", parts)?;
    assert!(ModelFolder::is_one(&inside) && !path.join("tokenizer.json").exists());

    let parts = Parts { first_stage: Some(dir.path()), ..Parts::default() };
    assert!(ModelFolder::replace_with(&path, &config(), [("d", &one)], "", parts).is_err());
    fs::write(inside.join("thesis.tex"), "years of work")?;
    let refused = message(ModelFolder::replace(&path, &config(), [("d", &one)], ""));
    assert!(refused.contains("thesis.tex"), "{refused}");
    assert!(inside.join("thesis.tex").exists());
    assert_eq!(TensorFile::open(path.join(WEIGHTS))?.names().collect::<Vec<_>>(), ["c"]);
    assert_eq!(fs::read_dir(dir.path())?.count(), 2);
    Ok(())
}
