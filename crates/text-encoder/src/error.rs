//! What can go wrong between a folder and an embedding.

use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A folder that is no text encoder, or another one than is needed.
    #[error("{}: {reason}", path.display())]
    Folder {
        /// The folder or the file in it.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// The tokenizer could not be loaded, or has no ids for a caption.
    #[error(transparent)]
    Tokens(#[from] text_tokens::Error),
    /// The weights could not be read, or do not fit.
    #[error(transparent)]
    Checkpoint(#[from] checkpoints::Error),
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl Error {
    pub(crate) fn folder(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Folder { path: path.into(), reason: reason.into() }
    }
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
