//! What can go wrong between a file and ids.

use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file that describes no tokenizer, or one that is not accepted.
    #[error("{}: not a tokenizer: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A text that the tokenizer has no ids for.
    #[error("the text has no tokens: {reason}")]
    Text {
        /// What the library said.
        reason: String,
    },
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
