//! Embeddings as LlamaGen's embedder computes them; `data/README.md` says with what.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::{DType, Device};
use checkpoints::TensorFile;
use text_encoder::{Embedded, TextEncoder, Wanted};

const WANTED: Wanted = Wanted { positions: 120, dim: 16 };

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// A folder with the encoder `name`, and what `change` makes of it.
fn folder(name: &str, change: impl FnOnce(&Path) -> Result<()>) -> Result<tempfile::TempDir> {
    let dir = tempfile::tempdir()?;
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(data(name).join(file), dir.path().join(file))?;
    }
    std::fs::copy(data("tokenizer.json"), dir.path().join("tokenizer.json"))?;
    change(dir.path())?;
    Ok(dir)
}

fn expected(name: &str) -> Result<Vec<Vec<f32>>> {
    let file = TensorFile::open(data("expected.safetensors"))?;
    Ok(file.tensor(name, &Device::Cpu)?.to_dtype(DType::F32)?.to_vec2()?)
}

fn captions() -> Result<(Vec<String>, Vec<usize>)> {
    let text = std::fs::read(data("captions.json"))?;
    let value: serde_json::Value = serde_json::from_slice(&text)?;
    Ok((
        serde_json::from_value(value["captions"].clone())?,
        serde_json::from_value(value["counts"].clone())?,
    ))
}

/// The largest difference from `expected`, of the rows where the caption is.
fn difference(embedded: &Embedded, expected: &[Vec<f32>]) -> Result<f32> {
    let filled = WANTED.positions - expected.len();
    let present: Vec<bool> = (0..WANTED.positions).map(|i| i >= filled).collect();
    assert_eq!(embedded.present, present);
    let (before, own) = embedded.embeddings.split_at(filled * WANTED.dim);
    assert!(before.iter().all(|&value| value == 0.0));
    let expected = expected.concat();
    assert_eq!(own.len(), expected.len());
    let differences = own.iter().zip(&expected).map(|(a, b)| (a - b).abs());
    differences.reduce(f32::max).context("nothing to compare")
}

#[test]
fn embeddings_are_the_references_without_its_filling_and_mask() -> Result<()> {
    let (captions, counts) = captions()?;
    for name in ["gated", "relu"] {
        let dir = folder(name, |_| Ok(()))?;
        let encoder = TextEncoder::load(dir.path(), WANTED, &Device::Cpu)?;
        let all = expected(&format!("{name}.embeddings"))?;
        let mut rest = all.as_slice();
        for (caption, &count) in captions.iter().zip(&counts) {
            let (own, others) = rest.split_at(count);
            rest = others;
            let embedded = encoder.embed(caption)?;
            let difference = difference(&embedded, own)?;
            assert!(difference < 1e-4, "{name}, {count} tokens: {difference}");
            assert_eq!(embedded.left_out > 0, count == WANTED.positions, "{caption:?}");
        }
        // Attention to the filling would have given something else altogether.
        let unmasked = expected(&format!("{name}.unmasked"))?;
        let wrong = difference(&encoder.embed(&captions[0])?, &unmasked)?;
        assert!(wrong > 0.5, "{name}: {wrong}");
    }
    Ok(())
}

#[test]
fn weights_of_half_the_size_and_under_other_names() -> Result<()> {
    let (captions, counts) = captions()?;
    let own = &expected("gated.embeddings")?[..counts[0]];
    let rewrite = |dtype: DType, renamed: bool| {
        folder("gated", move |dir| {
            let path = dir.join("model.safetensors");
            let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu)?;
            for tensor in tensors.values_mut() {
                *tensor = tensor.to_dtype(dtype)?;
            }
            if renamed && let Some(shared) = tensors.remove("shared.weight") {
                tensors.insert("encoder.embed_tokens.weight".to_owned(), shared);
            }
            // A decoder is passed over.
            let norm = tensors["encoder.final_layer_norm.weight"].clone();
            tensors.insert("decoder.final_layer_norm.weight".to_owned(), norm);
            Ok(candle_core::safetensors::save(&tensors, path)?)
        })
    };
    for (dtype, renamed, most) in
        [(DType::F32, true, 1e-4), (DType::F16, false, 0.02), (DType::BF16, true, 0.2)]
    {
        let dir = rewrite(dtype, renamed)?;
        let encoder = TextEncoder::load(dir.path(), WANTED, &Device::Cpu)?;
        let difference = difference(&encoder.embed(&captions[0])?, own)?;
        assert!(difference < most, "{dtype:?}: {difference}");
        assert_eq!(difference > 1e-4, dtype != DType::F32, "{dtype:?}: {difference}");
    }
    Ok(())
}

#[test]
fn a_caption_needs_positions() -> Result<()> {
    let dir = folder("relu", |_| Ok(()))?;
    let load =
        |positions| TextEncoder::load(dir.path(), Wanted { positions, ..WANTED }, &Device::Cpu);
    let error = load(0).err().context("loaded")?.to_string();
    assert!(error.contains("no positions"), "{error}");
    // The last one is that of what ends it.
    let embedded = load(1)?.embed("a red cat")?;
    assert_eq!((embedded.present.as_slice(), embedded.embeddings.len()), (&[true][..], WANTED.dim));
    assert!(embedded.left_out > 0);
    Ok(())
}

#[test]
fn shards_with_their_index() -> Result<()> {
    let (captions, counts) = captions()?;
    let dir = folder("relu", |dir| {
        let path = dir.join("model.safetensors");
        let tensors = candle_core::safetensors::load(&path, &Device::Cpu)?;
        let mut places = serde_json::Map::new();
        let mut shards = [std::collections::HashMap::new(), std::collections::HashMap::new()];
        for (i, (name, tensor)) in tensors.into_iter().enumerate() {
            places.insert(name.clone(), format!("model-0000{}-of-00002.safetensors", i % 2).into());
            shards[i % 2].insert(name, tensor);
        }
        for (i, shard) in shards.iter().enumerate() {
            let name = format!("model-0000{i}-of-00002.safetensors");
            candle_core::safetensors::save(shard, dir.join(name))?;
        }
        std::fs::remove_file(path)?;
        let index = serde_json::json!({ "metadata": {}, "weight_map": places });
        Ok(std::fs::write(dir.join("model.safetensors.index.json"), index.to_string())?)
    })?;
    let encoder = TextEncoder::load(dir.path(), WANTED, &Device::Cpu)?;
    let own = &expected("relu.embeddings")?[..counts[0]];
    assert!(difference(&encoder.embed(&captions[0])?, own)? < 1e-4);
    Ok(())
}

#[test]
fn what_is_no_text_encoder_is_said_to_be_none() -> Result<()> {
    let edit = |from: &'static str, to: &'static str| {
        move |dir: &Path| -> Result<()> {
            let path = dir.join("config.json");
            let text = std::fs::read_to_string(&path)?;
            anyhow::ensure!(text.contains(from), "no {from}");
            Ok(std::fs::write(path, text.replacen(from, to, 1))?)
        }
    };
    let remove = |name: &'static str| {
        move |dir: &Path| -> Result<()> { Ok(std::fs::remove_file(dir.join(name))?) }
    };
    type Change = Box<dyn FnOnce(&Path) -> Result<()>>;
    let cases: Vec<(Change, &[&str])> = vec![
        (Box::new(remove("config.json")), &["config.json", "google/flan-t5-xl"]),
        (Box::new(remove("tokenizer.json")), &["tokenizer.json", "spiece.model"]),
        (Box::new(remove("model.safetensors")), &["no weights", "pytorch_model.bin"]),
        (Box::new(edit("\"model_type\": \"t5\"", "\"model_type\": \"bert\"")), &["bert", "T5"]),
        (Box::new(edit("\"d_model\": 16", "\"d_model\": 1024")), &["1024", "takes 16"]),
        (Box::new(edit("\"d_ff\": 24", "\"d_ff\": 25")), &["do not fit"]),
        (Box::new(edit("\"num_layers\": 2", "\"num_layers\": 4000000")), &["num_layers"]),
        (Box::new(edit("gated-gelu", "gated-x")), &["gated-x", "relu"]),
        (Box::new(edit("{", "[")), &["not JSON"]),
        (
            Box::new(|dir: &Path| Ok(std::fs::write(dir.join("tokenizer.json"), "{}")?)),
            &["tokenizer.json", "not a tokenizer"],
        ),
    ];
    for (change, words) in cases {
        let dir = folder("gated", change)?;
        let Err(error) = TextEncoder::load(dir.path(), WANTED, &Device::Cpu) else {
            anyhow::bail!("{words:?}: loaded")
        };
        let error = error.to_string();
        for word in words {
            assert!(error.contains(word), "{word:?} is not in {error}");
        }
        assert!(error.contains(&dir.path().display().to_string()), "{error}");
    }
    // A tokenizer with more tokens than the encoder has.
    let dir = folder("gated", |dir| {
        let path = dir.join("tokenizer.json");
        let mut value: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        let pieces = value["model"]["vocab"].as_array_mut().context("no vocabulary")?;
        for i in 0..40 {
            pieces.push(serde_json::json!([format!("▁word{i}"), -1.0]));
        }
        pieces.push(serde_json::json!(["▁horse", -1.0]));
        pieces.push(serde_json::json!(["▁zebra", -0.1]));
        Ok(std::fs::write(path, value.to_string())?)
    })?;
    let encoder = TextEncoder::load(dir.path(), WANTED, &Device::Cpu)?;
    let error = encoder.embed("a zebra").err().context("embedded")?.to_string();
    assert!(error.contains("another model"), "{error}");
    Ok(())
}
