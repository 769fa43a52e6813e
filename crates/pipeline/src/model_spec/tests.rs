use std::fs;

use anyhow::Result;
use serde_json::json;

use super::*;
use crate::model_config::model_config;

fn config() -> Result<Value> {
    let config = VqConfig::preset("imagenet-f16-1024").unwrap();
    Ok(model_config(&config, json!({}))?)
}

#[test]
fn weights_files_take_a_preset_or_a_file() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let weights = dir.path().join("w.ckpt");
    fs::write(&weights, "weights")?;
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
        assert_eq!(found.weights, weights);
        assert_eq!(found.origin, "weights file");
    }
    assert!(ModelSpec::new(&weights).find().is_err());
    assert!(ModelSpec::with_config(&weights, "no-such-preset").find().is_err());
    Ok(())
}

#[test]
fn a_training_run_holds_a_model_folder() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let weights: [(&str, &candle_core::Tensor); 0] = [];
    ModelFolder::write(dir.path().join("model"), &config()?, weights, "")?;
    let found = ModelSpec::new(dir.path()).find()?;
    assert_eq!(found.origin, "run folder");
    let found = ModelSpec::new(dir.path().join("model/model.safetensors")).find()?;
    assert_eq!(found.origin, "model folder");
    Ok(())
}
