//! A tokenizer out of the bytes of its file.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde_json::Value;
use tokenizers::{AddedToken, NormalizedString, Normalizer, Tokenizer};

use crate::error::{Error, Result};
use crate::limits;

/// The largest `tokenizer.json`; that of a large multilingual model has 17 MB.
pub const MAX_TOKENIZER_BYTES: u64 = 32 << 20;

/// What turns text to ids.
pub struct TextTokenizer {
    tokenizer: Tokenizer,
}

impl TextTokenizer {
    /// Reads `bytes`, the content of the `tokenizer.json` at `path`.
    ///
    /// Truncation, padding, templates and decoders in it count for nothing: the length of a
    /// sequence, and what begins and ends it, are the model's own.
    ///
    /// # Errors
    /// When it describes no tokenizer, or one that is not accepted.
    pub fn new(bytes: &[u8], path: &Path) -> Result<Self> {
        let broken = |reason| Error::File { path: path.to_path_buf(), reason };
        if bytes.len() as u64 > MAX_TOKENIZER_BYTES {
            return Err(broken(format!("it has more than {MAX_TOKENIZER_BYTES} bytes")));
        }
        let mut value: Value =
            serde_json::from_slice(bytes).map_err(|e| broken(format!("not JSON: {e}")))?;
        limits::check(&value).map_err(broken)?;
        for part in ["truncation", "padding", "post_processor", "decoder"] {
            value[part] = Value::Null;
        }
        let added = value["added_tokens"].take();
        value["added_tokens"] = Value::Array(Vec::new());
        let tokenizer = guarded(|| {
            let tokenizer = serde_json::from_value(value).map_err(|e| e.to_string())?;
            with_added(tokenizer, added)
        });
        Ok(Self { tokenizer: tokenizer.map_err(broken)? })
    }

    /// The ids of `text` alone, without any that begin or end it.
    ///
    /// # Errors
    /// When the tokenizer has none for it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.encoding(text)?.get_ids().to_vec())
    }

    /// The pieces that `text` falls into.
    ///
    /// # Errors
    /// When the tokenizer has none for it.
    pub fn pieces(&self, text: &str) -> Result<Vec<String>> {
        Ok(self.encoding(text)?.get_tokens().to_vec())
    }

    fn encoding(&self, text: &str) -> Result<tokenizers::Encoding> {
        guarded(|| self.tokenizer.encode(text, false).map_err(|e| e.to_string()))
            .map_err(|reason| Error::Text { reason })
    }
}

/// `tokenizer` with the tokens `added`, each of which must be something after the
/// normalizer, too: the library finds an empty one everywhere, without end.
fn with_added(mut tokenizer: Tokenizer, added: Value) -> std::result::Result<Tokenizer, String> {
    let added: Option<Vec<AddedToken>> =
        serde_json::from_value(added).map_err(|e| format!("added_tokens: {e}"))?;
    let added = added.unwrap_or_default();
    for token in added.iter().filter(|token| token.normalized) {
        let mut text = NormalizedString::from(token.content.as_str());
        if let Some(normalizer) = tokenizer.get_normalizer() {
            normalizer.normalize(&mut text).map_err(|e| e.to_string())?;
        }
        if text.get().is_empty() && !token.content.is_empty() {
            return Err(format!("nothing is left of the added token {:?}", token.content));
        }
    }
    tokenizer.add_tokens(added).map_err(|e| e.to_string())?;
    Ok(tokenizer)
}

/// What the library answers, a panic of it being an error. Nothing of it is used after one.
fn guarded<T>(
    ask: impl FnOnce() -> std::result::Result<T, String>,
) -> std::result::Result<T, String> {
    catch_unwind(AssertUnwindSafe(ask))
        .unwrap_or_else(|_| Err("the library `tokenizers` failed on tokenizer.json".to_owned()))
}

#[cfg(test)]
mod tests;
