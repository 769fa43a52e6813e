use serde_json::json;

use super::*;

const TARGET: &str = "taming.models.cond_transformer.Net2NetTransformer";

fn codec(channels: usize) -> Value {
    json!({ "target": "taming.models.vqgan.VQModel", "params": {
        "embed_dim": 256, "n_embed": 1024,
        "ddconfig": { "double_z": false, "z_channels": 256, "resolution": 256,
                      "in_channels": channels, "out_ch": channels, "ch": 128,
                      "ch_mult": [1, 1, 2, 2, 4], "num_res_blocks": 2,
                      "attn_resolutions": [16], "dropout": 0.0 } } })
}

fn params(condition: Value, block: usize) -> Value {
    json!({
        "transformer_config": { "target": "taming.modules.transformer.mingpt.GPT", "params": {
            "vocab_size": 8192, "block_size": block, "n_layer": 2, "n_head": 2, "n_embd": 8,
            "embd_pdrop": 0.0 } },
        "first_stage_config": codec(3),
        "cond_stage_config": condition,
        "pkeep": 1.0,
    })
}

fn read(params: &Value, data: &Value, names: Option<&[String]>) -> Result<ReferenceTransformer> {
    ReferenceTransformer::new(TARGET, params, &json!({ "data": data }), names)
}

#[test]
fn conditions_of_the_published_configurations() -> anyhow::Result<()> {
    let target = |class: &str, params: Value| json!({ "target": class, "params": params });
    let mut depth = params(codec(1), 512);
    depth["cond_stage_key"] = "depth".into();
    let mut small = params(json!("__is_first_stage__"), 512);
    small["downsample_cond_size"] = 64.into();
    for (params, kind, positions) in [
        (params(json!("__is_unconditional__"), 256), "start", 1),
        (
            params(target("taming.modules.util.Labelator", json!({ "n_classes": 1000 })), 256),
            "class",
            1,
        ),
        (
            params(
                target(
                    "taming.modules.misc.coord.CoordStage",
                    json!({ "n_embed": 1024, "down_factor": 16 }),
                ),
                512,
            ),
            "coordinates",
            256,
        ),
        (depth, "grid", 256),
        (params(codec(182), 512), "grid", 256),
        (small, "grid", 16),
    ] {
        let model = read(&params, &Value::Null, None)?;
        assert_eq!(model.config.condition.kind(), kind);
        assert_eq!(model.config.condition_positions(), positions, "{kind}");
        assert_eq!((model.config.grid, model.config.codes), ([16, 16], 1024));
    }
    let segmentation = read(&params(codec(182), 512), &Value::Null, None)?;
    let ConditionConfig::Grid(grid) = &segmentation.config.condition else {
        anyhow::bail!("no grid")
    };
    assert_eq!(grid.input, GridInput::Segmentation);
    assert_eq!(segmentation.condition_stage.map(|codec| codec.in_channels), Some(182));
    Ok(())
}

#[test]
fn scene_models_need_their_categories() -> anyhow::Result<()> {
    let stage = json!({ "target": "taming.models.dummy_cond_stage.DummyCondStage",
                        "params": { "conditional_key": "objects_bbox" } });
    let mut params = params(stage, 348);
    params["cond_stage_key"] = "objects_bbox".into();
    let data = json!({ "params": { "train": { "params": {
        "no_tokens": 8192, "max_objects_per_image": 30, "encode_crop": true,
        "use_group_parameter": true } } } });
    let Err(error) = read(&params, &data, None) else { anyhow::bail!("read without names") };
    assert!(error.to_string().contains("--class-names"), "{error}");
    let names: Vec<String> = (0..183).map(|i| format!("thing {i}")).collect();
    let model = read(&params, &data, Some(&names))?;
    assert_eq!(model.config.condition_positions(), 92);
    assert!(read(&params, &Value::Null, Some(&names)).is_err());
    Ok(())
}

#[test]
fn what_is_not_known_is_said() {
    let unknown = json!({ "target": "a.Smell", "params": {} });
    let mut other = params(json!("__is_unconditional__"), 256);
    other["transformer_config"]["target"] = "a.Mamba".into();
    let mut permuted = params(json!("__is_unconditional__"), 256);
    permuted["permuter_config"] = json!({ "target": "a.Dance" });
    for (params, words) in [
        (params(unknown, 256), "Smell"),
        (params(json!("__is_magic__"), 256), "__is_magic__"),
        (params(json!({ "target": "x.Labelator" }), 256), "0 classes"),
        (params(json!("__is_unconditional__"), 200), "256 positions"),
        (other, "Mamba"),
        (permuted, "Dance"),
        (json!({}), "transformer_config"),
    ] {
        let message = read(&params, &Value::Null, None).err().map(|e| e.to_string());
        let message = message.unwrap_or_default();
        assert!(message.contains(words) && message.contains(TARGET), "{words:?}: {message}");
    }
}
