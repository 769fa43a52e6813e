use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use checkpoints::{expected_tensors, save_safetensors};
use cond_transformer::{Gpt, Llama};
use vq_autoencoder::VqModel;

use super::*;

/// A file of `names` and shapes. No more than names and shapes is ever looked
/// at: the elements are a hole in the file.
fn file_of(dir: &std::path::Path, names: &BTreeMap<String, Vec<usize>>) -> Result<TensorFile> {
    use std::io::Write;
    let mut end = 0;
    let mut header = serde_json::Map::new();
    for (name, shape) in names {
        let begin = end;
        end += shape.iter().product::<usize>();
        let entry = serde_json::json!({
            "dtype": "U8", "shape": shape, "data_offsets": [begin, end],
        });
        header.insert(name.clone(), entry);
    }
    let header = serde_json::to_string(&header)?;
    let path = dir.join("names.safetensors");
    let mut file = std::fs::File::create(&path)?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    file.set_len((8 + header.len() + end) as u64)?;
    Ok(TensorFile::open(path)?)
}

/// The published key list `name`: names and shapes, and which are parameters.
fn key_list(path: &std::path::Path) -> Result<BTreeMap<String, Vec<usize>>> {
    let mut names = BTreeMap::new();
    for line in std::fs::read_to_string(path)?.lines().filter(|line| !line.starts_with('#')) {
        let mut columns = line.split('\t');
        let (name, shape) = (columns.next().context("name")?, columns.next().context("shape")?);
        names.insert(name.to_owned(), serde_json::from_str(shape)?);
    }
    Ok(names)
}

/// Checks that `ours` is what the list has below `prefix`, buffers and losses apart.
fn same(
    what: &str,
    names: &BTreeMap<String, Vec<usize>>,
    prefix: &str,
    ours: &BTreeMap<String, candle_core::Shape>,
) -> Result<()> {
    let mut theirs = names.iter().filter_map(|(name, shape)| {
        let inner = name.strip_prefix(prefix)?;
        let weight = checkpoints::reference_key_use(inner) == checkpoints::KeyUse::Load;
        let other =
            ["first_stage_model.", "cond_stage_model."].iter().any(|p| inner.starts_with(p));
        (weight && !other).then_some((inner, shape))
    });
    let count = theirs.clone().count();
    ensure!(count == ours.len(), "{what}: {count} weights published, {} of ours", ours.len());
    theirs.try_for_each(|(name, shape)| {
        let dims = ours.get(name).map(|shape| shape.dims());
        ensure!(dims == Some(shape), "{what}: {name} is {shape:?}, ours {dims:?}");
        Ok(())
    })
}

/// From the names and shapes of every published model alone: what it is, and a
/// network that has exactly those.
#[test]
fn every_published_key_list_is_recognised() -> Result<()> {
    let Some(folder) = golden::shared_path("reference/keys") else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let (mut codecs, mut transformers) = (0, 0);
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let list = path.file_stem().and_then(|stem| stem.to_str()).context("name")?.to_owned();
        let names = key_list(&path)?;
        let stages: Vec<&str> = ["", "first_stage_model.", "cond_stage_model."]
            .into_iter()
            .filter(|place| names.contains_key(&format!("{place}encoder.conv_in.weight")))
            .collect();
        for place in stages {
            let found =
                codec(file_of(dir.path(), &names)?, Some(place)).map_err(anyhow::Error::msg)?;
            let llamagen = list.starts_with("llamagen");
            ensure!((found.family == Family::LlamaGenVq) == llamagen, "{list}: {:?}", found.family);
            let config = found.infer().map_err(|e| anyhow::anyhow!("{list}: {e}"))?;
            let ours = expected_tensors(|vb| Ok(VqModel::new(&config, vb)?))?;
            same(&list, &names, place, &ours)?;
            codecs += 1;
        }
        if let Some((family, prefix)) = transformer_family(&file_of(dir.path(), &names)?) {
            let weights = transformer(file_of(dir.path(), &names)?).map_err(anyhow::Error::msg)?;
            assert_eq!((weights.family, weights.prefix.as_str()), (family, prefix));
            let sizes =
                weights.infer(None, Some(256)).map_err(|e| anyhow::anyhow!("{list}: {e}"))?;
            let ours = match &sizes {
                TransformerSizes::Gpt(config) => expected_tensors(|vb| Ok(Gpt::new(config, vb)?))?,
                TransformerSizes::Llama(config) => {
                    expected_tensors(|vb| Ok(Llama::new(config, vb)?))?
                }
            };
            same(&list, &names, prefix, &ours)?;
            transformers += 1;
        }
    }
    ensure!((codecs, transformers) == (17, 13), "{codecs} codecs, {transformers} transformers");
    Ok(())
}

/// Presets come back from their shapes.
#[test]
fn presets_are_inferred() -> Result<()> {
    let dir = tempfile::tempdir()?;
    for name in VqConfig::preset_names() {
        let config = VqConfig::preset(name).context("preset")?;
        let names = expected_tensors(|vb| Ok(VqModel::new(&config, vb)?))?
            .into_iter()
            .map(|(name, shape)| (format!("stage1.{name}"), shape.into_dims()))
            .collect();
        let found = codec(file_of(dir.path(), &names)?, None).map_err(anyhow::Error::msg)?;
        assert_eq!(found.prefix, "stage1.");
        assert_eq!(found.infer(), Ok(config), "{name}");
    }
    Ok(())
}

/// The second stage of minDALL-E, 1.3B: joined tables are one vocabulary.
#[test]
fn mindalle_is_one_vocabulary() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let tensor = |rows: usize, start: f32| -> Result<Tensor> {
        let values: Vec<f32> = (0..rows * 8).map(|i| start + i as f32).collect();
        Ok(Tensor::from_vec(values, (rows, 8), &Device::Cpu)?)
    };
    let mut tensors = BTreeMap::from([
        ("tok_emb_img.weight", tensor(6, 0.0)?),
        ("tok_emb_txt.weight", tensor(5, 1000.0)?),
        ("pos_emb_img.weight", tensor(4, 2000.0)?),
        ("pos_emb_txt.weight", tensor(3, 3000.0)?),
        ("head_img.weight", tensor(6, 4000.0)?),
        ("head_txt.weight", tensor(5, 5000.0)?),
        ("ln_f.weight", Tensor::zeros(8, candle_core::DType::F32, &Device::Cpu)?),
    ]);
    tensors.insert("blocks.0.attn.key.weight", tensor(8, 0.0)?);
    tensors.insert("blocks.0.ln1.weight", tensor(1, 0.0)?.flatten_all()?);
    let path = dir.path().join("stage2_last.safetensors");
    save_safetensors(&path, &tensors, [])?;
    let weights = transformer(TensorFile::open(&path)?).map_err(anyhow::Error::msg)?;
    assert_eq!(weights.family, Family::MinDalleGpt);
    let read = |name: &str| weights.file.tensor(name, &Device::Cpu);
    let joined = Tensor::cat(&[&tensors["tok_emb_img.weight"], &tensors["tok_emb_txt.weight"]], 0)?;
    golden::close("tok_emb", &read("tok_emb.weight")?, &joined, 0.0)?;
    let joined = Tensor::cat(&[&tensors["pos_emb_txt.weight"], &tensors["pos_emb_img.weight"]], 0)?;
    golden::close("pos_emb", &read("pos_emb")?, &joined.unsqueeze(0)?, 0.0)?;
    assert_eq!(read("head.weight")?.dims(), [11, 8]);
    let TransformerSizes::Gpt(config) = weights.infer(Some(2), None).map_err(anyhow::Error::msg)?
    else {
        anyhow::bail!("not a GPT")
    };
    assert_eq!((config.vocab_size, config.block_size, config.n_layer), (11, 7, 1));
    assert!(weights.infer(None, None).is_err_and(|e| e.contains("--config")));
    Ok(())
}

#[test]
fn what_is_no_codec_is_named() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let reason = |names: &[&str]| -> Result<String> {
        let names = names.iter().map(|name| ((*name).to_owned(), vec![1])).collect();
        Ok(codec(file_of(dir.path(), &names)?, None).err().unwrap_or_default())
    };
    let mark = "encoder.down.0.block.0.norm1.weight";
    let (a, b) = (format!("a.{mark}"), format!("b.{mark}"));
    for (names, part) in [
        (&["tok_emb.weight", "blocks.0.attn.key.weight"][..], "a transformer without"),
        (&["lin0.model.1.weight"], "LPIPS"),
        (&["model.diffusion_model.out.0.weight"], "diffusion"),
        (&["main.0.weight"], "discriminator"),
        (&[], "empty"),
        (&["x"], "no autoencoder"),
        (&[&a, &b], "a., b."),
    ] {
        let reason = reason(names)?;
        assert!(reason.contains(part), "{part}: {reason}");
    }
    Ok(())
}
