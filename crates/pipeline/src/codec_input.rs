//! What a codec reads: pictures, or maps that go with them.

use serde::Serialize;
use serde_json::{Value, json};

/// What a codec turns into codes and back, as `preprocessing` in the `config.json` of our
/// model folder says it. Models of others read pictures, unless their channels say
/// otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CodecInput {
    /// Pictures, `[B, 3, H, W]` or `[B, 1, H, W]` in `[-1, 1]`.
    #[default]
    Pictures,
    /// Label maps, one channel a label (`image_data::one_hot`); what comes out are logits.
    /// With the names of the labels by number, where they are known.
    Labels(Vec<String>),
    /// Depth maps, `[B, 1, H, W]`, each scaled to `[-1, 1]` by its own range.
    Depth,
}

impl CodecInput {
    /// The names of the labels by number; none where there are none, or they are not known.
    pub fn labels(&self) -> &[String] {
        match self {
            Self::Labels(names) => names,
            Self::Pictures | Self::Depth => &[],
        }
    }

    /// `preprocessing` of a `config.json`.
    pub(crate) fn preprocessing(&self) -> Value {
        match self {
            Self::Pictures => json!({ "range": [-1, 1] }),
            Self::Labels(names) if names.is_empty() => json!({ "input": "labels" }),
            Self::Labels(names) => json!({ "input": "labels", "labels": names }),
            Self::Depth => json!({ "input": "depth", "range": [-1, 1] }),
        }
    }

    /// What `config`, a whole `config.json`, says of a codec of `channels`.
    ///
    /// # Errors
    /// With the reason, when it is not one of those above, or there are names for another
    /// number of channels.
    pub fn of(config: &Value, channels: usize) -> Result<Self, String> {
        let preprocessing = &config["preprocessing"];
        match &preprocessing["input"] {
            Value::Null => Ok(Self::Pictures),
            Value::String(input) if input == "pictures" => Ok(Self::Pictures),
            Value::String(input) if input == "depth" => Ok(Self::Depth),
            Value::String(input) if input == "labels" => {
                let names = match &preprocessing["labels"] {
                    Value::Null => Vec::new(),
                    names => serde::Deserialize::deserialize(names)
                        .map_err(|e| format!("preprocessing.labels is no list of names: {e}"))?,
                };
                if !names.is_empty() && names.len() != channels {
                    let count = names.len();
                    return Err(format!(
                        "preprocessing.labels has {count} names for {channels} channels"
                    ));
                }
                Ok(Self::Labels(names))
            }
            other => Err(format!(
                "preprocessing.input is {other}, and known are \"pictures\", \"labels\", \"depth\""
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let names = vec!["sky".to_owned(), "sea".to_owned()];
        for input in [
            CodecInput::Pictures,
            CodecInput::Depth,
            CodecInput::Labels(Vec::new()),
            CodecInput::Labels(names.clone()),
        ] {
            let config = json!({ "preprocessing": input.preprocessing() });
            assert_eq!(CodecInput::of(&config, 2), Ok(input));
        }
        assert_eq!(CodecInput::of(&json!({ "ch": 32 }), 3), Ok(CodecInput::Pictures));
        for (bad, says) in [
            (json!({ "input": "labels", "labels": names }), "2 names for 3 channels"),
            (json!({ "input": "labels", "labels": [1] }), "no list of names"),
            (json!({ "input": "sound" }), "sound"),
        ] {
            let error = CodecInput::of(&json!({ "preprocessing": bad }), 3).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
