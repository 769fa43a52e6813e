use anyhow::Result;
use serde_json::json;

use super::*;

fn published() -> Value {
    json!({
        "embed_dim": 256, "n_embed": 1024, "ckpt_path": null, "lossconfig": {"target": "x"},
        "ddconfig": {
            "double_z": false, "z_channels": 256, "resolution": 256, "in_channels": 3,
            "out_ch": 3, "ch": 128, "ch_mult": [1, 1, 2, 2, 4], "num_res_blocks": 2,
            "attn_resolutions": [16], "dropout": 0.0
        }
    })
}

#[test]
fn the_published_file_is_the_preset() -> Result<()> {
    let config = VqConfig::from_reference("taming.models.vqgan.VQModel", &published())?;
    assert_eq!(Some(config), VqConfig::preset("imagenet-f16-1024"));

    let mut params = published();
    (params["n_embed"], params["kl_weight"]) = (json!(8192), json!(1e-8));
    (params["ddconfig"]["ch_mult"], params["ddconfig"]["attn_resolutions"]) =
        (json!([1, 1, 2, 4]), json!([32]));
    let config = VqConfig::from_reference("taming.models.vqgan.GumbelVQ", &params)?;
    assert_eq!(Some(config), VqConfig::preset("openimages-f8-gumbel"));
    Ok(())
}

#[test]
fn what_is_not_built_here_is_refused_by_name() {
    let refusal = |target: &str, path: &str, value: Value| {
        let mut params = published();
        match path.split_once('.') {
            Some((outer, inner)) => params[outer][inner] = value,
            None => params[path] = value,
        }
        match VqConfig::from_reference(target, &params) {
            Err(error) => error.to_string(),
            Ok(config) => panic!("{config:?}"),
        }
    };
    let model = "taming.models.vqgan.VQModel";
    assert!(refusal(model, "ddconfig.double_z", json!(true)).contains("double_z"));
    assert!(refusal(model, "ddconfig.attn_type", json!("none")).contains("attention"));
    assert!(refusal(model, "ddconfig.ch", json!("wide")).contains("params"));
    assert!(refusal(model, "ddconfig.ch", json!(100)).contains("multiple of 32"));
    assert!(refusal(model, "remap", json!("used.npy")).contains("remap"));
    assert!(refusal("a.b.AutoencoderKL", "x", json!(0)).contains("a.b.AutoencoderKL"));
    let gumbel = "taming.models.vqgan.GumbelVQ";
    assert!(refusal(gumbel, "embed_dim", json!(64)).contains("z_channels"));
}
