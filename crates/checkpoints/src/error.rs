//! What can go wrong with a file, and what to do about it.

use std::path::{Path, PathBuf};

use crate::load::Mismatch;

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// An error with the file it is about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file is not what it should be: damaged, or of another kind.
    #[error("{}: {reason}", path.display())]
    Format {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// A number in the file is larger than this crate accepts.
    #[error("{}: {what} is {got}, more than the limit of {limit}", path.display())]
    Limit {
        /// The file.
        path: PathBuf,
        /// What is too large.
        what: &'static str,
        /// Its size.
        got: u64,
        /// The largest that is accepted.
        limit: u64,
    },
    /// The file has no tensor of that name.
    #[error("{}: no tensor {name:?}", path.display())]
    NoTensor {
        /// The file.
        path: PathBuf,
        /// The name asked for.
        name: String,
    },
    /// The tensor's elements are of a kind that candle cannot hold.
    #[error("{}: tensor {name:?} has elements of type {dtype}, which is not supported", path.display())]
    UnsupportedDType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its element type as the file names it.
        dtype: String,
    },
    /// The tensors of the file are not those of the network.
    #[error(transparent)]
    Mismatch(#[from] Box<Mismatch>),
    /// Something is there already and overwriting it was not asked for.
    #[error("{}: exists already; ask for overwriting, or choose another place", path.display())]
    Exists {
        /// The file or folder.
        path: PathBuf,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl Error {
    /// [`Error::Format`] for `path`.
    pub(crate) fn format(path: &Path, reason: impl Into<String>) -> Self {
        Self::Format { path: path.to_path_buf(), reason: reason.into() }
    }

    /// Turns an I/O error into one that names `path`.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_path_buf(), source }
    }

    /// Checks `got` against `limit`.
    pub(crate) fn check_limit(path: &Path, what: &'static str, got: u64, limit: u64) -> Result<()> {
        if got > limit {
            return Err(Self::Limit { path: path.to_path_buf(), what, got, limit });
        }
        Ok(())
    }
}
