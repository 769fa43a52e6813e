//! Published formats through the pipeline: the reference's codes and pixels.

use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{DType, Device};
use golden::Group;
use pipeline::{Codec, LoadOptions, ModelSpec};
use vq_autoencoder::ImageCodec;

fn load(spec: &ModelSpec) -> Result<Codec> {
    Ok(Codec::load(spec, &LoadOptions::default())?)
}

/// Checks codes of the input `x`, and the picture decoded from them.
fn check(group: &Group, codec: &Codec, x: &str, codes: &str, picture: &str) -> Result<()> {
    let inputs = group.inputs()?;
    let expected = group.expected("outputs.safetensors")?;
    let grid = codec.model().encode(inputs.get(x).context("no input")?)?;
    expected.check(codes, grid.codes())?;
    expected.check(picture, &codec.model().decode(&grid)?)
}

fn with_yaml(group: &Group, weights: &str, yaml: &str) -> ModelSpec {
    ModelSpec::with_config(group.path(weights), group.path(yaml))
}

#[test]
fn vqgan_a_and_b() -> Result<()> {
    for name in ["vqgan_a", "vqgan_b"] {
        let Some(group) = golden::group(name)? else { return Ok(()) };
        let codec = load(&with_yaml(&group, "model.safetensors", "config.yaml"))?;
        check(&group, &codec, "x", "indices", "rec_from_codes")?;
        let has_loss = name == "vqgan_a";
        assert_eq!(codec.describe().loss_tensors > 0, has_loss, "{name}");
    }
    Ok(())
}

#[test]
fn gumbel_from_either_file_is_one_codec() -> Result<()> {
    let Some(group) = golden::group("gumbel")? else { return Ok(()) };
    let codec = load(&with_yaml(&group, "model.safetensors", "config.yaml"))?;
    check(&group, &codec, "x", "eval_det/indices", "eval_det/rec")?;
    let other = load(&with_yaml(&group, "last.ckpt", "config.yaml"))?;
    assert_eq!(codec.sha256(), other.sha256());
    Ok(())
}

#[test]
fn llamagen_with_a_configuration_of_ours() -> Result<()> {
    let Some(group) = golden::group("llamagen_vq")? else { return Ok(()) };
    // LlamaGen has no configuration files: the preset with the sizes of this group.
    let stated = |key: &str| group.manifest()["config"][key].clone();
    let preset = vq_autoencoder::VqConfig::preset("llamagen-vq16").context("no preset")?;
    let mut config = serde_json::to_value(preset)?;
    for (key, stated) in [
        ("ch", stated("ch")),
        ("ch_mult", stated("mult")),
        ("num_res_blocks", stated("nres")),
        ("z_channels", stated("z")),
    ] {
        config[key] = stated;
    }
    config["quantizer"]["len"] = stated("K");
    config["quantizer"]["dim"] = stated("e");
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("config.json");
    std::fs::write(&path, serde_json::to_string(&config)?)?;
    let codec = load(&ModelSpec::with_config(group.path("model.safetensors"), &path))?;
    check(&group, &codec, "x", "indices", "decode_code")?;
    check(&group, &codec, "odd", "odd/indices", "odd/decode_code")
}

#[test]
fn a_checkpoint_of_the_real_program() -> Result<()> {
    let Some(group) = golden::group("ckpt_real_main")? else { return Ok(()) };
    let codec = load(&with_yaml(&group, "last.ckpt", "project.yaml"))?;
    check(&group, &codec, "x", "indices", "rec_from_codes")?;
    assert!(codec.describe().loss_tensors > 0);

    // As its run folder, named by the folder or by the checkpoint inside.
    let run = tempfile::tempdir()?;
    let at = |name: &str| run.path().join(name);
    std::fs::create_dir(at("configs"))?;
    std::fs::create_dir(at("checkpoints"))?;
    std::fs::copy(group.path("project.yaml"), at("configs/2020-12-22T09-00-00-project.yaml"))?;
    std::fs::write(at("configs/2020-12-22T09-00-00-lightning.yaml"), "lightning: {}\n")?;
    std::fs::copy(group.path("last.ckpt"), at("checkpoints/last.ckpt"))?;
    for place in [run.path(), &at("checkpoints/last.ckpt")] {
        let same = load(&ModelSpec::new(place))?;
        assert_eq!(same.sha256(), codec.sha256());
        assert_eq!(same.config(), codec.config());
    }
    Ok(())
}

#[test]
fn first_stages_of_transformers() -> Result<()> {
    for (name, weights) in [
        ("net2net_class", "last.ckpt"),
        ("net2net_class", "model.safetensors"),
        ("net2net_seg", "model.safetensors"),
    ] {
        let Some(group) = golden::group(name)? else { return Ok(()) };
        let codec = load(&with_yaml(&group, weights, "config.yaml"))?;
        let inputs = group.inputs()?;
        let codes = codec.model().encode(inputs.get("x").context("no input")?)?;
        group.expected("outputs.safetensors")?.check("z_indices", codes.codes())?;
    }
    Ok(())
}

#[test]
fn our_folder_is_the_same_codec() -> Result<()> {
    let Some(group) = golden::group("vqgan_b")? else { return Ok(()) };
    let codec = load(&with_yaml(&group, "model.safetensors", "config.yaml"))?;
    let folder = tempfile::tempdir()?;
    let config = pipeline::model_config(codec.config(), codec.input(), serde_json::json!({}))?;
    let tensors = group.tensors("model.safetensors")?;
    let ours = folder.path().join("ours");
    checkpoints::model_folder::ModelFolder::write(&ours, &config, tensors.iter(), "# Test\n")?;
    let again = load(&ModelSpec::new(&ours))?;
    assert_eq!(again.sha256(), codec.sha256());
    check(&group, &again, "x", "indices", "rec_from_codes")
}

#[test]
fn pictures_through_the_codec() -> Result<()> {
    let Some(group) = golden::group("vqgan_b")? else { return Ok(()) };
    let codec = load(&with_yaml(&group, "model.safetensors", "config.yaml"))?;
    let pictures: Vec<_> = (0..3)
        .map(|i| {
            pipeline::RgbImage::from_fn(30, 21, |x, y| image::Rgb([x as u8 * 8, y as u8 * 12, i]))
        })
        .collect();
    let codes = codec.encode_images(&pictures)?;
    assert_eq!(codes.dims(), (3, 6, 8));
    assert_eq!(codec.grid_size((30, 21)), (8, 6));
    let decoded = codec.decode(&codes, (30, 21))?;
    assert_eq!(decoded, codec.reconstruct(&pictures)?);
    assert!(decoded.iter().all(|picture| picture.dimensions() == (30, 21)));
    for (i, picture) in pictures.iter().enumerate() {
        assert_eq!(codec.reconstruct(std::slice::from_ref(picture))?[0], decoded[i]);
    }
    assert!(codec.decode(&codes, (40, 21)).is_err());
    let beyond = pipeline::CodeGrid::from_vec(vec![96; 48], (1, 6, 8), &Device::Cpu)?;
    let Err(error) = codec.decode(&beyond, (30, 21)) else { anyhow::bail!("decoded code 96") };
    assert!(error.to_string().contains("96"), "{error}");
    Ok(())
}

#[test]
fn half_precision_gives_a_like_picture() -> Result<()> {
    let Some(group) = golden::group("vqgan_b")? else { return Ok(()) };
    let spec = with_yaml(&group, "model.safetensors", "config.yaml");
    let full = load(&spec)?;
    let picture =
        pipeline::RgbImage::from_fn(32, 32, |x, y| image::Rgb([x as u8 * 8, y as u8 * 8, 99]));
    let codes = full.encode_images(std::slice::from_ref(&picture))?;
    let expected = full.decode(&codes, (32, 32))?;
    let options = |dtype| LoadOptions { dtype, ..LoadOptions::default() };
    for dtype in [DType::F16, DType::BF16] {
        // Where the machine multiplies bf16 (AMX), maps are rounded, too, not weights alone.
        let rounds_maps = dtype == DType::BF16 && simd::tiles::are_available();
        let bound = if rounds_maps { 24 } else { 16 };
        let half = Codec::load(&spec, &options(dtype))?;
        assert_eq!(half.sha256(), full.sha256());
        let pixels = &half.decode(&codes, (32, 32))?[0];
        let worst = pixels.iter().zip(expected[0].iter()).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(worst.is_some_and(|worst| worst < bound), "{dtype:?}: {worst:?}");
        half.encode_images(std::slice::from_ref(&picture))?;
    }
    Ok(())
}

#[test]
fn messages_say_what_to_do() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let message = |spec: &ModelSpec| match load(spec) {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    };
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("weights.ckpt"), "x")?;
    std::fs::write(at("bad.json"), "{")?;
    let config = |name: &str| ModelSpec::with_config(at("weights.ckpt"), Path::new(name));
    for (spec, words) in [
        (ModelSpec::new(at("nowhere")), "no such model"),
        (ModelSpec::new(folder.path()), "no model in this folder"),
        (ModelSpec::new(at("weights.ckpt")), "neither a safetensors"),
        (config("imagenet-f16"), "imagenet-f16-1024"),
        (config("imagenet-f16-1024"), "weights.ckpt"),
        (ModelSpec::with_config(at("weights.ckpt"), at("bad.json")), "JSON"),
        (ModelSpec::with_config(folder.path(), "imagenet-f16-1024"), "drop --config"),
    ] {
        let message = message(&spec);
        assert!(message.contains(words), "{words}: {message}");
    }
    Ok(())
}
