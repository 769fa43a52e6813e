use std::fs;

use anyhow::Result;
use candle_core::{Device, Tensor};
use serde_json::json;

use super::*;
use crate::model_config::model_config;

fn config() -> Result<Value> {
    let config = VqConfig::preset("imagenet-f16-1024").unwrap();
    Ok(model_config(&config, &CodecInput::default(), json!({}))?)
}

/// Weights of a small network, by its names.
pub(crate) fn weights(config: &VqConfig) -> Result<std::collections::BTreeMap<String, Tensor>> {
    let tensors = crate::weights::expected(config)?.into_iter().map(|(name, shape)| {
        let n = shape.elem_count();
        let start = name.bytes().map(usize::from).sum::<usize>();
        let values: Vec<f32> = (0..n).map(|i| ((start + i) % 251) as f32 / 251.0 - 0.5).collect();
        Ok((name, Tensor::from_vec(values, shape, &Device::Cpu)?))
    });
    tensors.collect()
}

/// A network with everything that varies: attention, two widths, shortcuts.
pub(crate) fn small() -> VqConfig {
    VqConfig {
        layout: vq_autoencoder::Layout::Taming,
        in_channels: 3,
        out_channels: 3,
        ch: 32,
        ch_mult: vec![1, 2],
        num_res_blocks: 1,
        attn_resolutions: vec![128],
        resolution: 256,
        z_channels: 4,
        quantizer: codebook::QuantizerConfig::Euclidean {
            len: 16,
            dim: 4,
            beta: 0.25,
            legacy_beta: true,
        },
        dropout: 0.0,
    }
}

#[test]
fn weights_files_take_a_preset_or_a_file() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let weights = dir.path().join("w.ckpt");
    checkpoints::save_safetensors(&weights, &self::weights(&small())?, [])?;
    let json = dir.path().join("ours.json");
    fs::write(&json, config()?.to_string())?;
    let yaml = dir.path().join("project.yaml");
    fs::write(
        &yaml,
        "model:\n  target: taming.models.vqgan.VQModel\n  params:\n    embed_dim: 256\n    \
         n_embed: 1024\n    ddconfig: {double_z: false, z_channels: 256, resolution: 256, \
         in_channels: 3, out_ch: 3, ch: 128, ch_mult: [1, 1, 2, 2, 4], num_res_blocks: 2, \
         attn_resolutions: [16], dropout: 0.0}\n",
    )?;
    for config in [Path::new("imagenet-f16-1024"), &json, &yaml] {
        let found = ModelSpec::with_config(&weights, config).find()?;
        assert_eq!(Some(found.config), VqConfig::preset("imagenet-f16-1024"));
        assert_eq!(found.weights.file.path(), weights);
        assert_eq!(found.origin, "weights file");
    }
    assert!(ModelSpec::with_config(&weights, "no-such-preset").find().is_err());
    let found = ModelSpec::new(&weights).find()?;
    assert_eq!((found.config, found.weights.family), (small(), Family::TamingVq));
    Ok(())
}

#[test]
fn a_training_run_holds_a_model_folder() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let config = model_config(&small(), &CodecInput::default(), json!({}))?;
    let tensors = weights(&small())?;
    ModelFolder::write(dir.path().join("model"), &config, &tensors, "")?;
    let found = ModelSpec::new(dir.path()).find()?;
    assert_eq!((found.config, found.origin), (small(), "run folder"));
    let found = ModelSpec::new(dir.path().join("model/model.safetensors")).find()?;
    assert_eq!(found.origin, "model folder");
    Ok(())
}

#[test]
fn of_a_transformer_the_first_stage_is_meant() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let codec = model_config(&small(), &CodecInput::default(), json!({}))?;
    let tensors = weights(&small())?;
    let folder = dir.path().join("drawing");
    let mut transformer = json!({
        "kind": "code_transformer", "format_version": 1,
        "architecture": { "layout": "gpt", "vocab_size": 60, "block_size": 40, "n_layer": 1,
                          "n_head": 2, "n_embd": 8 },
        "first_stage": { "path": "first_stage", "codec_sha256": "0".repeat(64) },
        "codes": 32, "grid": [4, 4], "permuter": "subsample",
        "condition": { "kind": "start", "token": 32 },
        "preprocessing": { "range": [-1, 1] },
    });
    ModelFolder::write(&folder, &transformer, &tensors, "")?;
    ModelFolder::write(folder.join("first_stage"), &codec, &tensors, "")?;
    assert_eq!(ModelSpec::new(&folder).find()?.config, small());

    transformer["first_stage"]["path"] = json!(".");
    let folder = dir.path().join("itself");
    ModelFolder::write(&folder, &transformer, &tensors, "")?;
    let error = ModelSpec::new(&folder).find().err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("is a transformer"), "{error}");
    Ok(())
}

#[test]
fn a_diffusers_folder_is_the_same_model() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let folder = dir.path().join("vqvae");
    fs::create_dir(&folder)?;
    let tensors = weights(&small())?;
    let renamed: Vec<(String, Tensor)> = tensors
        .iter()
        .map(|(name, tensor)| {
            let (name, shape) = families::diffusers_name(name, tensor.dims(), 2);
            Ok((name, tensor.reshape(shape)?))
        })
        .collect::<Result<_>>()?;
    for name in [
        "encoder.down_blocks.1.attentions.0.to_out.0.weight",
        "encoder.down_blocks.0.downsamplers.0.conv.bias",
        "encoder.mid_block.attentions.0.group_norm.weight",
        "encoder.down_blocks.1.resnets.0.conv_shortcut.weight",
        "decoder.up_blocks.0.upsamplers.0.conv.weight",
        "decoder.up_blocks.1.resnets.1.norm2.bias",
        "decoder.conv_norm_out.weight",
        "quantize.embedding.weight",
    ] {
        assert!(renamed.iter().any(|(renamed, _)| renamed == name), "{name}");
    }
    let file = folder.join("diffusion_pytorch_model.safetensors");
    let borrowed = renamed.iter().map(|(name, tensor)| (name, tensor));
    checkpoints::save_safetensors(&file, borrowed, [])?;
    let config = |text: &str| fs::write(folder.join("config.json"), text);
    config(r#"{"_class_name": "VQModel", "act_fn": "silu", "norm_num_groups": 32}"#)?;
    for place in [dir.path(), &folder, &file] {
        let found = ModelSpec::new(place).find()?;
        assert_eq!((&found.config, found.weights.family), (&small(), Family::DiffusersVq));
        let (loaded, _) = crate::weights::load(&found)?;
        for (name, tensor) in &tensors {
            golden::close(name, &loaded[name], tensor, 0.0)?;
        }
    }
    for (text, part) in [
        (r#"{"_class_name": "AutoencoderKL"}"#, "AutoencoderKL"),
        (r#"{"_class_name": "VQModel", "norm_type": "spatial"}"#, "norm_type"),
        (r#"{"_class_name": "VQModel", "mid_block_add_attention": false}"#, "attention"),
    ] {
        config(text)?;
        let error = ModelSpec::new(&folder).find().err().map(|e| e.to_string());
        assert!(error.as_ref().is_some_and(|e| e.contains(part)), "{part}: {error:?}");
    }
    Ok(())
}
