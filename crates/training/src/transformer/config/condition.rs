//! What comes in front of the codes, as a run is told it.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::ModelSetting;

/// What comes in front of the codes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ConditionSetting {
    /// A start token: unconditional.
    None {},
    /// The picture's class: its folder, or `class` in `captions.jsonl`.
    Class {
        /// Share of examples whose class is withheld, for guidance.
        #[serde(default = "usual_drop")]
        drop: f64,
    },
    /// The picture's caption in `captions.jsonl`, as tokens.
    Text {
        /// Rows of the tokenizer that is trained on the captions (byte-level BPE).
        vocabulary: usize,
        /// Positions of a caption; longer ones are cut.
        tokens: usize,
        /// Share of examples whose caption is withheld, for guidance.
        #[serde(default = "usual_drop")]
        drop: f64,
    },
    /// The codes of another picture, which the condition's codec reads: a label map, a
    /// depth map, or the picture itself in small.
    Grid {
        /// The codec: a run or model folder. What it reads says what the condition is.
        /// Empty: the first stage.
        #[serde(default)]
        codec: PathBuf,
        /// Side of the square that the condition is scaled to before it is encoded; 0: none.
        #[serde(default)]
        downsample: usize,
        /// Share of examples whose condition is withheld, for guidance.
        #[serde(default = "usual_drop")]
        drop: f64,
    },
}

/// LlamaGen's `class_dropout_prob`, which it takes for captions, too.
fn usual_drop() -> f64 {
    0.1
}

impl ConditionSetting {
    /// Share of examples without their condition.
    pub fn drop(&self) -> f64 {
        match self {
            Self::None {} => 0.0,
            Self::Class { drop } | Self::Text { drop, .. } | Self::Grid { drop, .. } => *drop,
        }
    }

    /// Checks that values make sense, and that a network of this kind takes them.
    pub(super) fn validate(&self, model: &ModelSetting) -> Result<()> {
        let drop = self.drop();
        ensure!((0.0..1.0).contains(&drop), "condition.drop = {drop} is not in [0, 1)");
        let needs_gpt = |kind: &str| -> Result<()> {
            ensure!(
                matches!(model, ModelSetting::Gpt { .. }),
                "condition.kind = \"{kind}\" needs model.kind = \"gpt\": this Llama takes classes"
            );
            Ok(())
        };
        match self {
            Self::None {} | Self::Class { .. } => {}
            &Self::Text { vocabulary, tokens, .. } => {
                ensure!(
                    vocabulary >= 256,
                    "condition.vocabulary = {vocabulary}: a byte-level tokenizer has 256 bytes and \
                     more"
                );
                ensure!(tokens > 0, "condition.tokens = 0: no positions for a caption");
                needs_gpt("text")?;
            }
            Self::Grid { codec, downsample, .. } => {
                needs_gpt("grid")?;
                ensure!(
                    *downsample > 0 || !codec.as_os_str().is_empty(),
                    "condition.kind = \"grid\": name the codec of label or depth maps with \
                     condition.codec=FOLDER, or the side of the small picture in front with \
                     condition.downsample"
                );
            }
        }
        Ok(())
    }
}
