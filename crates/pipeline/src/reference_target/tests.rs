use serde_json::json;

use super::*;

const VQ_MODEL: &str = "taming.models.vqgan.VQModel";
const NET2NET: &str = "taming.models.cond_transformer.Net2NetTransformer";

fn params() -> Value {
    json!({
        "embed_dim": 256, "n_embed": 1024, "monitor": "val/rec_loss",
        "ddconfig": {
            "double_z": false, "z_channels": 256, "resolution": 256, "in_channels": 3,
            "out_ch": 3, "ch": 128, "ch_mult": [1, 1, 2, 2, 4], "num_res_blocks": 2,
            "attn_resolutions": [16], "dropout": 0.0,
        },
        "lossconfig": { "target": "taming.modules.losses.DummyLoss" },
    })
}

#[test]
fn an_autoencoder_stands_without_prefix() -> anyhow::Result<()> {
    for target in [VQ_MODEL, "ldm.models.autoencoder.VQModelInterface"] {
        let model = ReferenceModel::new(target, &params())?;
        assert_eq!(Some(model.config), VqConfig::preset("imagenet-f16-1024"));
        assert_eq!(model.prefix, "");
    }
    Ok(())
}

#[test]
fn the_first_stage_of_a_transformer_has_one() -> anyhow::Result<()> {
    let stage = json!({ "target": VQ_MODEL, "params": params() });
    let model = ReferenceModel::new(NET2NET, &json!({ "first_stage_config": stage }))?;
    assert_eq!(model.prefix, "first_stage_model.");
    assert_eq!(Some(model.config), VqConfig::preset("imagenet-f16-1024"));
    Ok(())
}

#[test]
fn errors_name_the_target() {
    let nested = json!({ "first_stage_config": { "target": NET2NET, "params": {} } });
    let cases = [
        ("ldm.models.autoencoder.AutoencoderKL", params()),
        (NET2NET, json!({})),
        (NET2NET, nested),
        (VQ_MODEL, json!({ "ddconfig": 3 })),
        ("", Value::Null),
    ];
    for (target, params) in cases {
        let Err(error) = ReferenceModel::new(target, &params) else {
            panic!("{target} was accepted");
        };
        assert!(error.to_string().contains(&format!("target {target:?}")), "{error}");
    }
}
