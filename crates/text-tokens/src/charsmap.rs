//! The tables of the normalizer `Precompiled`: sentencepiece's `precompiled_charsmap`.
//!
//! Base64 of a length (4 bytes, little endian), a trie of so many bytes, and the texts that
//! it leads to, each ended by a zero. The library makes room for the length before it looks
//! whether so much is there, and follows the trie wherever it leads: the first is checked
//! here; the second can end in a panic, which is caught, and cannot read what is not there.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

const LENGTH_BYTES: usize = 4;

/// The times that the tables make a text longer, in bytes: one byte may become the longest
/// of their texts.
pub(crate) fn growth(table: &str) -> Result<usize, String> {
    let bytes = STANDARD.decode(table).map_err(|e| format!("tables that are not base64: {e}"))?;
    let (length, rest) =
        bytes.split_first_chunk::<LENGTH_BYTES>().ok_or("tables that are cut short")?;
    let length = u32::from_le_bytes(*length) as usize;
    let texts = rest.get(length..).ok_or_else(|| {
        format!("tables that are cut short: a trie of {length} bytes, and {} are there", rest.len())
    })?;
    if length == 0 || !length.is_multiple_of(LENGTH_BYTES) {
        return Err(format!("a trie of {length} bytes"));
    }
    if std::str::from_utf8(texts).is_err() {
        return Err("tables whose texts are not UTF-8".to_owned());
    }
    Ok(texts.split(|&byte| byte == 0).map(<[u8]>::len).max().unwrap_or(0).max(1))
}
