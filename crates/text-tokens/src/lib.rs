//! Text to ids by a `tokenizer.json`, of a text-conditional model or of a text encoder.
//!
//! The file may be anybody's, and the library `tokenizers` takes files to be its owner's:
//! what it is given is checked before (`limits`, `charsmap`), holds only what turns text to
//! ids, and a panic of it is an error like others.

mod charsmap;
mod error;
mod limits;
mod tokenizer;

pub use error::{Error, Result};
pub use tokenizer::{MAX_TOKENIZER_BYTES, TextTokenizer};
