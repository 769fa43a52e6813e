//! Captions in text files beside the pictures: `cat.jpg` and `cat.txt`.

use std::io::Read;
use std::path::Path;

/// Longest caption, in bytes; what is longer is something else.
pub(super) const MAX_BYTES: u64 = 64 << 10;

/// The caption beside `picture`, if there is one.
pub(super) fn caption(picture: &Path) -> Option<String> {
    let file = std::fs::File::open(picture.with_extension("txt")).ok()?;
    let mut text = String::new();
    file.take(MAX_BYTES).read_to_string(&mut text).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_string())
}
