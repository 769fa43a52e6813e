//! What a project file of ours says beyond what the reference reads.
//!
//! `convert` writes a section `synth_codes:` beside `model:`, which no program of the
//! reference looks at. It has what the reference does not state: names of classes, where
//! the tokens of a condition begin, the token of no condition, the sizes of grids.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::transformer_config::{ConditionConfig, SamplingDefaults};

/// The section's name.
const SECTION: &str = "synth_codes";
/// A section that is larger is not written; project files have a limit when read.
const MAX_BYTES: usize = 1 << 19;

/// The section.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Extra {
    /// As in our `config.json`, with the codec as it is in the checkpoint.
    pub(crate) condition: ConditionConfig,
    pub(crate) grid: [usize; 2],
    #[serde(default)]
    pub(crate) sampling: SamplingDefaults,
}

impl Extra {
    /// The section of the project file `root`, if it has one.
    ///
    /// # Errors
    /// When it is none that was written here.
    pub(crate) fn read(root: &Value) -> Result<Option<Self>> {
        let section = &root[SECTION];
        if section.is_null() {
            return Ok(None);
        }
        Self::deserialize(section).map(Some).map_err(|e| Error::Target {
            target: SECTION.to_owned(),
            reason: format!("this section of the project file is damaged, take it out: {e}"),
        })
    }

    /// The lines of the section; none if it is too large.
    pub(crate) fn lines(&self) -> String {
        // JSON is YAML. What would be replaced by something else is a name here.
        match serde_json::to_string(self) {
            Ok(text) if text.len() <= MAX_BYTES => {
                format!("{SECTION}: {}\n", text.replace("${", "$ {"))
            }
            _ => String::new(),
        }
    }
}
