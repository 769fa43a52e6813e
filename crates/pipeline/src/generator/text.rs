//! Text to a tokenizer's ids.

use std::path::Path;

use tokenizers::Tokenizer;

use crate::error::{Error, Result};

/// The tokenizer of a text-conditional model (`tokenizer.json`).
pub(crate) struct TextTokenizer {
    tokenizer: Tokenizer,
}

impl TextTokenizer {
    /// Reads the content of a `tokenizer.json` beside the file `weights`.
    ///
    /// # Errors
    /// When it describes no tokenizer.
    pub(crate) fn new(bytes: &[u8], weights: &Path) -> Result<Self> {
        let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(|error| {
            Error::model(
                weights.with_file_name("tokenizer.json"),
                format!("not a tokenizer of the `tokenizers` library: {error}"),
            )
        })?;
        // A prompt that is too long is said to be so, and is filled up by the model's
        // own rule.
        let _ = tokenizer
            .with_truncation(None)
            .map_err(|error| Error::Condition(format!("tokenizer: {error}")))?;
        tokenizer.with_padding(None);
        Ok(Self { tokenizer })
    }

    /// The ids of `text` alone, as in training.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.encoding(text)?.get_ids().to_vec())
    }

    /// The pieces that `text` falls into.
    pub(crate) fn pieces(&self, text: &str) -> Result<Vec<String>> {
        Ok(self.encoding(text)?.get_tokens().to_vec())
    }

    fn encoding(&self, text: &str) -> Result<tokenizers::Encoding> {
        self.tokenizer
            .encode(text, false)
            .map_err(|error| Error::Condition(format!("the prompt has no tokens: {error}")))
    }
}
