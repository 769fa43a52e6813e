//! What can go wrong with pictures and datasets.

use std::path::PathBuf;

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of this crate. A message names the file and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{}: cannot {action}: {source}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was attempted, as a verb phrase.
        action: &'static str,
        /// The reason.
        source: std::io::Error,
    },
    /// A folder was given where a picture file is needed.
    #[error("{}: a folder, not a picture file", .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
    },
    /// The file has no bytes.
    #[error("{}: the file is empty", .path.display())]
    EmptyFile {
        /// The file.
        path: PathBuf,
    },
    /// Neither content nor name tells a picture format.
    #[error(
        "{}: not a picture: its content is none of JPEG, PNG, WebP, GIF, TIFF, BMP, PNM, TGA",
        .path.display()
    )]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// A known picture format, or a feature of one, that is not read here.
    #[error("{}: {what} is not supported; convert it to PNG or JPEG", .path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The format or the feature.
        what: String,
    },
    /// The picture data is damaged or ends early.
    #[error("{}: the {format} data is damaged or cut short: {reason}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The format that the content claims.
        format: &'static str,
        /// The decoder's words.
        reason: String,
    },
    /// A limit of [`Limits`](crate::Limits) would be exceeded.
    #[error(
        "{}: {what} {value} is over the limit of {limit} ({name}); \
         if you trust the file, raise the limits with --max-pixels {needed}",
        .path.display()
    )]
    Limit {
        /// The file.
        path: PathBuf,
        /// What was measured, with its unit.
        what: &'static str,
        /// The value seen.
        value: u64,
        /// The limit.
        limit: u64,
        /// The field of [`Limits`](crate::Limits).
        name: &'static str,
        /// A value for [`Limits::with_max_pixels`](crate::Limits::with_max_pixels) that admits it.
        needed: u64,
    },
    /// The output exists and may not be overwritten.
    #[error("{}: exists already; choose another name or allow overwriting", .path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A picture could not be encoded as PNG.
    #[error("{}: cannot encode as PNG: {reason}", .path.display())]
    Encode {
        /// The file to be written.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// A label or depth map of a kind that is not read.
    #[error("{}: {reason}", .path.display())]
    Map {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A line of a list or of captions cannot be used.
    #[error("{}:{line}: {reason}", .path.display())]
    List {
        /// The list.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// What was given is no dataset of a known form.
    #[error(
        "{}: {found}. A dataset is a folder of pictures, folders of pictures named by class, \
         images/ beside labels/ or depth/, pictures with captions.jsonl, .tar shards, or a .txt \
         file that lists pictures; docs/data.md shows each",
        .path.display()
    )]
    Unrecognized {
        /// The file or folder.
        path: PathBuf,
        /// What it is instead.
        found: String,
    },
    /// A dataset without examples.
    #[error("{}: no pictures {split}", .path.display())]
    NoPictures {
        /// The folder.
        path: PathBuf,
        /// Which ones were looked for.
        split: String,
    },
    /// A whole epoch went by without one batch.
    #[error(
        "{readable} of {len} pictures could be read: too few for a batch of {batch_size}{first}"
    )]
    NothingReadable {
        /// Pictures that could be read.
        readable: usize,
        /// Pictures in the dataset.
        len: usize,
        /// Pictures in a batch.
        batch_size: usize,
        /// The first failure, for example.
        first: String,
    },
    /// An argument out of its domain.
    #[error("{op}: {reason}")]
    Argument {
        /// The function.
        op: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A worker thread of the batch loader stopped.
    #[error("a worker of the batch loader stopped before its work was done")]
    Worker,
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl Error {
    /// An [`Error::Argument`].
    pub(crate) fn argument(op: &'static str, reason: impl Into<String>) -> Self {
        Self::Argument { op, reason: reason.into() }
    }
}
