use serde_json::json;

use super::*;

const SHA: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn gpt(condition: Value) -> Value {
    json!({
        "kind": "code_transformer", "format_version": 1,
        "architecture": { "layout": "gpt", "vocab_size": 60, "block_size": 40, "n_layer": 1,
                          "n_head": 2, "n_embd": 8 },
        "first_stage": { "path": "first_stage", "codec_sha256": SHA },
        "codes": 32, "grid": [4, 4], "permuter": "subsample",
        "condition": condition,
        "sampling": { "temperature": 0.9, "top_k": 20, "top_p": 0.95, "cfg_scale": 2.0 },
        "preprocessing": { "range": [-1, 1] }, "provenance": { "steps": 3 },
    })
}

fn llama(prefix: Value, condition: Value) -> Value {
    let mut value = gpt(condition);
    value["architecture"] = json!({
        "layout": "llama", "vocab_size": 60, "block_size": 16, "dim": 16, "n_layer": 1,
        "n_head": 2, "prefix": prefix,
    });
    value
}

#[test]
fn matrices_are_stored_in_blocks_or_as_numbers() -> anyhow::Result<()> {
    let path = Path::new("config.json");
    let mut value = gpt(json!({ "kind": "start", "token": 32 }));
    assert_eq!(TransformerConfig::from_value(&value, path)?.to_value()?.get("weights"), None);
    value["architecture"]["n_embd"] = json!(64);
    for (weights, block) in [("q8", true), ("q4", true), ("f16", false), ("f32", false)] {
        value["weights"] = json!(weights);
        let read = TransformerConfig::from_value(&value, path);
        assert_eq!(read.is_ok(), block, "{weights}");
        if let Ok(config) = read {
            assert_eq!(config.to_value()?["weights"], json!(weights));
        }
    }
    for (weights, width) in [(json!("q8"), 40), (json!("q2"), 64), (json!(8), 64)] {
        value["weights"] = weights;
        value["architecture"]["n_embd"] = json!(width);
        assert!(TransformerConfig::from_value(&value, path).is_err(), "{value}");
    }
    Ok(())
}

/// One of every kind, as people write it.
fn every_kind() -> Vec<Value> {
    let codec = json!({ "hub": "owner/depth@v1", "codec_sha256": SHA });
    vec![
        gpt(json!({ "kind": "start", "token": 32 })),
        gpt(json!({ "kind": "class", "names": ["cat", "dog"], "offset": 32, "null": 34 })),
        gpt(json!({ "kind": "grid", "input": "segmentation", "codec": codec, "grid": [4, 4],
                    "offset": 32, "labels": ["sky", "sea"] })),
        gpt(json!({ "kind": "grid", "input": "image", "grid": [2, 2], "downsample": 8 })),
        gpt(json!({ "kind": "coordinates", "levels": 20, "factor": 16, "offset": 32 })),
        gpt(json!({ "kind": "layout", "names": ["cat", "dog"], "categories": 2, "max_objects": 3,
                    "vocabulary": 25, "places": "boxes", "encode_crop": true,
                    "tell_groups": false, "tell_attributes": false, "offset": 32 })),
        gpt(json!({ "kind": "text", "tokens": 8, "offset": 33, "pad": 32, "null": 32 })),
        llama(
            json!({ "kind": "class", "classes": 2 }),
            json!({ "kind": "class", "names": ["cat", "dog"], "null": 2 }),
        ),
        llama(
            json!({ "kind": "caption", "dim": 8, "positions": 6 }),
            json!({ "kind": "caption", "encoder": "t5-v1_1-xl" }),
        ),
    ]
}

#[test]
fn every_kind_is_read_and_written() -> anyhow::Result<()> {
    let mut positions = Vec::new();
    for value in every_kind() {
        let config = TransformerConfig::from_value(&value, Path::new("config.json"))?;
        let written = config.to_value()?;
        assert_eq!(written["kind"], TRANSFORMER_KIND);
        assert_eq!(TransformerConfig::from_value(&written, Path::new("x"))?, config, "{written}");
        assert_eq!(config.condition.kind(), value["condition"]["kind"]);
        positions.push(config.condition_positions());
    }
    assert_eq!(positions, [1, 1, 16, 4, 16, 11, 8, 1, 6]);
    Ok(())
}

#[test]
fn one_message_names_what_is_wrong() -> anyhow::Result<()> {
    let start = json!({ "kind": "start", "token": 32 });
    let with = |path: &str, value: Value| {
        let mut config = gpt(start.clone());
        if let Some(slot) = config.pointer_mut(path) {
            *slot = value;
        }
        config
    };
    let mut unknown = gpt(start.clone());
    unknown["n_heads"] = 3.into();
    let class = |names: Value, offset: u32, none: u32| {
        gpt(json!({ "kind": "class", "names": names, "offset": offset, "null": none }))
    };
    for (value, words) in [
        (with("/kind", json!("vq_autoencoder")), "vq_autoencoder"),
        (unknown, "n_heads"),
        (with("/codes", json!(61)), "61 codes"),
        (with("/codes", json!(0)), "0 codes"),
        (with("/grid", json!([4, 5])), "subsample"),
        (with("/grid", json!([0, 4])), "empty"),
        (with("/grid", json!([8, 8])), "64 positions"),
        (with("/permuter", json!("backwards")), "backwards"),
        (with("/architecture/n_head", json!(3)), "n_embd 8"),
        (with("/architecture/layout", json!("mamba")), "mamba"),
        (with("/first_stage/codec_sha256", json!("12")), "codec_sha256"),
        (with("/first_stage", json!({ "codec_sha256": SHA })), "`path` or a `hub`"),
        (with("/condition/token", json!(60)), "reach 60"),
        (with("/condition/kind", json!("smell")), "smell"),
        (with("/sampling/top_k", json!(0)), "top-k 0"),
        (with("/sampling/cfg_scale", json!(0.5)), "cfg-scale"),
        (class(json!([]), 0, 1), "names is empty"),
        (class(json!(["a", "b"]), 59, 1), "reach 60"),
        (class(json!(["a"]), 0, 60), "reach 60"),
        (gpt(json!({ "kind": "caption" })), "llama"),
        (gpt(json!({ "kind": "grid", "input": "depth", "grid": [4, 0] })), "no grid"),
        (llama(json!({ "kind": "class", "classes": 3 }), start), "takes no condition of kind"),
        (
            llama(
                json!({ "kind": "class", "classes": 3 }),
                json!({ "kind": "class", "names": ["cat"] }),
            ),
            "3 classes",
        ),
    ] {
        let result = TransformerConfig::from_value(&value, Path::new("here/config.json"));
        let message = result.err().map(|e| e.to_string().to_lowercase()).unwrap_or_default();
        assert!(message.contains(&words.to_lowercase()), "{words:?} is not in {message:?}");
        assert!(message.contains("here/config.json"), "{message}");
    }
    Ok(())
}

#[test]
fn texts_are_filled_up_and_not_cut() -> anyhow::Result<()> {
    let text = TextCondition { tokens: 4, offset: 100, pad: 99, null: None };
    assert_eq!(text.tokens(&[0, 5]), Some(vec![100, 105, 99, 99]));
    assert_eq!(text.tokens(&[]), Some(vec![99; 4]));
    assert_eq!(text.tokens(&[0; 5]), None);
    Ok(())
}

#[test]
fn stages_are_found_from_the_folder() {
    let place = |stage: &StageRef| stage.place(Path::new("models/faces"));
    assert_eq!(place(&StageRef::at("../vqgan", SHA)), Path::new("models/faces/../vqgan"));
    let hub = StageRef { path: None, hub: Some("a/b@c".into()), codec_sha256: SHA.into() };
    assert_eq!(place(&hub), Path::new("a/b@c"));
}
