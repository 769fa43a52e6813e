//! `config.json` of our model folder, for an image codec.

use std::path::Path;

use serde_json::{Value, json};
use vq_autoencoder::VqConfig;

use crate::codec_input::CodecInput;
use crate::error::{Error, Result};

/// `kind` in the `config.json` of an image codec.
pub const KIND: &str = "vq_autoencoder";

/// What a model folder's `config.json` says of an image codec: `kind`,
/// `architecture`, `preprocessing` (what it reads), and where it comes from
/// (`provenance`: data, steps, metrics; anything).
pub fn model_config(config: &VqConfig, input: &CodecInput, provenance: Value) -> Result<Value> {
    let architecture = serde_json::to_value(config)
        .map_err(|e| Error::model("config.json", format!("cannot be written: {e}")))?;
    Ok(json!({
        "kind": KIND,
        "architecture": architecture,
        "preprocessing": input.preprocessing(),
        "provenance": provenance,
    }))
}

/// The architecture in a `config.json`, which came from `path`: the whole file
/// as [`model_config`] makes it, or a bare [`VqConfig`].
///
/// # Errors
/// When it is of another kind, or does not describe a model.
pub fn vq_config(value: &Value, path: &Path) -> Result<VqConfig> {
    let architecture = match value.get("kind") {
        Some(kind) if kind == KIND => &value["architecture"],
        Some(kind) => {
            return Err(Error::model(
                path,
                format!("this is a model of kind {kind}; image codecs are of kind {KIND:?}"),
            ));
        }
        None => value,
    };
    let config: VqConfig = serde::Deserialize::deserialize(architecture)
        .map_err(|e| Error::model(path, format!("not an autoencoder's configuration: {e}")))?;
    config.validate()?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() -> anyhow::Result<()> {
        let path = Path::new("config.json");
        for name in VqConfig::preset_names() {
            let config = VqConfig::preset(name).ok_or_else(|| anyhow::anyhow!("{name}"))?;
            let value = model_config(&config, &CodecInput::default(), json!({ "steps": 3 }))?;
            assert_eq!(vq_config(&value, path)?, config);
            assert_eq!(vq_config(&value["architecture"], path)?, config);
        }
        for bad in [json!({ "kind": "gpt" }), json!({}), json!([1]), json!({ "kind": KIND })] {
            assert!(vq_config(&bad, path).is_err(), "{bad}");
        }
        Ok(())
    }
}
