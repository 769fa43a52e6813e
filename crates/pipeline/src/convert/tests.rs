use std::fs;

use anyhow::{Context, Result, ensure};
use checkpoints::TensorFile;
use checkpoints::reference_config::ReferenceConfig;
use codebook::QuantizerConfig;
use vq_autoencoder::ImageCodec;

use super::*;
use crate::model_spec::tests::{small, weights};

/// The same weights in f32, whatever file they are in.
fn loaded(place: &Path) -> Result<std::collections::BTreeMap<String, candle_core::Tensor>> {
    Ok(crate::weights::load(&ModelSpec::new(place).find()?)?.0)
}

#[test]
fn there_and_back_is_the_same_codec() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let source = dir.path().join("source.safetensors");
    let gumbel = VqConfig {
        quantizer: QuantizerConfig::Gumbel {
            len: 16,
            dim: 4,
            features: 4,
            kl_weight: 1e-8,
            straight_through: true,
        },
        ..small()
    };
    let llamagen = VqConfig {
        layout: Layout::LlamaGen,
        attn_resolutions: Vec::new(),
        quantizer: QuantizerConfig::Normalized { len: 16, dim: 4, beta: 0.25, entropy_ratio: 0.0 },
        ..small()
    };
    for (config, diffusers) in [(small(), true), (gumbel, false), (llamagen, false)] {
        let tensors = weights(&config)?;
        checkpoints::save_safetensors(&source, &tensors, [])?;
        let mut identity = None;
        for target in [Target::Ours, Target::Reference, Target::Diffusers] {
            let out = dir.path().join(format!("{target:?}"));
            let options = ConvertOptions { target, replace: true, ..Default::default() };
            let converted = convert(&ModelSpec::new(&source), &out, &options);
            if target == Target::Diffusers && !diffusers {
                ensure!(converted.is_err_and(|e| e.to_string().contains("diffusers")));
                continue;
            }
            let converted = converted?;
            ensure!(*identity.get_or_insert_with(|| converted.sha256.clone()) == converted.sha256);
            for file in &converted.files {
                ensure!(file.is_file(), "{}", file.display());
            }
            // Folders are found as such; of the reference's files each is enough.
            let places = match target {
                Target::Reference => converted.files[..2].to_vec(),
                _ => vec![out.clone()],
            };
            for place in places {
                let found = ModelSpec::new(&place).find()?;
                assert_eq!(found.config, config, "{target:?}");
                for (name, tensor) in loaded(&place)? {
                    golden::close(&name, &tensor, &tensors[&name], 0.0)?;
                }
                let codec = crate::Codec::load(&ModelSpec::new(&place), &Default::default())?;
                assert_eq!(Some(codec.sha256()), identity.as_deref());
            }
            if let Some(yaml) = converted.files.iter().find(|p| p.ends_with("project.yaml")) {
                let model = ReferenceConfig::read(yaml)?.model()?;
                let read = VqConfig::from_reference(&model.target, &model.params)?;
                assert_eq!(read, config);
            }
            // Not over what is there, unless asked.
            let options = ConvertOptions { target, ..Default::default() };
            let again = convert(&ModelSpec::new(&source), &out, &options);
            ensure!(again.is_err_and(|e| e.to_string().contains("exists already")), "{target:?}");
            fs::remove_dir_all(&out)?;
        }
    }
    Ok(())
}

/// The demo model's kind: what taming-transformers and diffusers read of it makes the same
/// codes and the same pictures.
#[test]
fn l2_normalised_codebooks_are_written_at_length_one() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let quantizer = QuantizerConfig::Normalized { len: 16, dim: 4, beta: 0.25, entropy_ratio: 0.1 };
    let config = VqConfig { quantizer, ..small() };
    let mut tensors = weights(&config)?;
    // Rows of very different lengths, so that the nearest is not the one of the least angle.
    let lengths: Vec<f32> = (0..16).map(|i| 0.05 * 1.6_f32.powi(i)).collect();
    let lengths = Tensor::from_vec(lengths, (16, 1), &Device::Cpu)?;
    let rows = tensors[plain::CODEBOOK].broadcast_mul(&lengths)?;
    tensors.insert(plain::CODEBOOK.to_owned(), rows.clone());
    let source = dir.path().join("source");
    let described = model_config(&config, &Default::default(), json!({}))?;
    ModelFolder::write(&source, &described, tensors.iter(), "")?;
    let ours = crate::Codec::load(&ModelSpec::new(&source), &Default::default())?;
    let images = image::RgbImage::from_fn(32, 32, |x, y| {
        image::Rgb([(x * y) as u8, (255 - 7 * x) as u8, (5 * y + x * x) as u8])
    });
    let codes = ours.encode_images(std::slice::from_ref(&images))?;
    let pixels = ours.model().decode(&codes)?;
    let drawn = codes.to_vec()?;
    ensure!(drawn.iter().any(|&code| code != drawn[0]), "one code alone");

    for target in [Target::Reference, Target::Diffusers] {
        for dtype in [None, Some(DType::F16)] {
            let out = dir.path().join(format!("{target:?}"));
            let options = ConvertOptions { target, dtype, replace: true, ..Default::default() };
            let converted = convert(&ModelSpec::new(&source), &out, &options)?;
            ensure!(converted.note.is_some_and(|note| note.contains("length one")));
            let place = if target == Target::Diffusers { &out } else { &converted.files[0] };
            let theirs = crate::Codec::load(&ModelSpec::new(place), &Default::default())?;
            ensure!(matches!(theirs.config().quantizer, QuantizerConfig::Euclidean { .. }));
            assert_eq!(theirs.sha256(), converted.sha256, "{target:?}");
            let decoded = theirs.model().decode(&codes)?;
            if dtype.is_none() {
                let again = theirs.encode_images(std::slice::from_ref(&images))?;
                assert_eq!(again.to_vec()?, codes.to_vec()?, "{target:?}");
                golden::close("pixels", &decoded, &pixels, 1e-5)?;
            }
            // In f32 whatever the rest is: lengths must stay one.
            let rows = loaded(place)?[plain::CODEBOOK].sqr()?.sum(1)?.to_vec1::<f32>()?;
            ensure!(rows.iter().all(|square| (square - 1.0).abs() < 1e-6), "{rows:?}");
        }
    }
    // Ours keeps it as it is.
    let out = dir.path().join("ours");
    let converted = convert(&ModelSpec::new(&source), &out, &ConvertOptions::default())?;
    ensure!(converted.note.is_none() && converted.sha256 == ours.sha256());

    let mut rows = rows.to_vec2::<f32>()?;
    rows[3] = vec![0.0; 4];
    tensors.insert(plain::CODEBOOK.to_owned(), Tensor::new(rows, &Device::Cpu)?);
    ModelFolder::replace(&source, &described, tensors.iter(), "")?;
    let options = ConvertOptions { target: Target::Reference, ..Default::default() };
    let none = convert(&ModelSpec::new(&source), &dir.path().join("none"), &options);
    ensure!(none.is_err_and(|e| e.to_string().contains("code 3 has no direction")));
    ensure!(!dir.path().join("none").exists());
    Ok(())
}

#[test]
fn numbers_are_kept_or_rounded() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let source = dir.path().join("source.safetensors");
    let tensors = weights(&small())?;
    checkpoints::save_safetensors(&source, &tensors, [])?;
    let from = TensorFile::open(&source)?;
    for dtype in [None, Some(DType::F32), Some(DType::BF16), Some(DType::F16)] {
        let out = dir.path().join("out");
        let options = ConvertOptions {
            dtype,
            replace: true,
            source: "a|b\nc".to_owned(),
            ..Default::default()
        };
        let converted = convert(&ModelSpec::new(&source), &out, &options)?;
        let file = TensorFile::open(&converted.files[0])?;
        assert_eq!(file.len(), tensors.len());
        for (name, tensor) in &tensors {
            match dtype {
                None | Some(DType::F32) => {
                    assert_eq!(file.tensor_sha256(name)?, from.tensor_sha256(name)?, "{name}");
                }
                Some(dtype) => {
                    let read = file.tensor(name, &Device::Cpu)?;
                    assert_eq!(read.dtype(), dtype);
                    golden::close(name, &read, &tensor.to_dtype(dtype)?, 0.0)?;
                }
            }
        }
        let codec = crate::Codec::load(&ModelSpec::new(&out), &Default::default())?;
        assert_eq!(codec.sha256(), converted.sha256);
        let config: Value = serde_json::from_str(&fs::read_to_string(out.join("config.json"))?)?;
        let from = &config["provenance"]["converted_from"];
        assert_eq!(from["sha256"], sha256_file(&source)?);
        let card = fs::read_to_string(out.join("README.md"))?;
        assert!(card.contains("| source | a b c |"), "{card}");
    }
    Ok(())
}

/// The reference's own checkpoint: every tensor of the codec, bit for bit.
#[test]
fn a_checkpoint_of_the_real_program() -> Result<()> {
    let Some(group) = golden::group("ckpt_real_main")? else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let spec = ModelSpec::new(group.path("last.ckpt"));
    let options = ConvertOptions::default();
    let converted = convert(&spec, &dir.path().join("ours"), &options)?;
    ensure!(converted.left_out > 0);
    let checksums = group.manifest()["extra"]["checksums"].as_object().context("checksums")?;
    let file = TensorFile::open(&converted.files[0])?;
    for name in file.names() {
        assert_eq!(checksums[name][3], file.tensor_sha256(name)?.as_str(), "{name}");
    }
    Ok(())
}
