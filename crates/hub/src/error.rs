//! What can go wrong between a name and its files.

use std::path::{Path, PathBuf};

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// An error that names the model it is about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name that is none.
    #[error("{name:?} is not owner/name[@revision][:file]: {reason}")]
    Name {
        /// As it was given.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The hub does not know the model, the revision or the file.
    #[error(
        "{what}: the hub {endpoint} does not have it (404): check the spelling; a private model \
         needs a token (HF_TOKEN)"
    )]
    NotFound {
        /// What was asked for.
        what: String,
        /// The hub.
        endpoint: String,
    },
    /// The hub wants to know who asks.
    #[error(
        "{what}: the hub {endpoint} refuses access ({status}): {}",
        if *token { "the token is not accepted, or does not have access to this model (gated \
                     models ask you to accept their terms on the web page first)" }
        else { "set HF_TOKEN to a token of an account that has access" }
    )]
    Denied {
        /// What was asked for.
        what: String,
        /// The hub.
        endpoint: String,
        /// 401 or 403.
        status: u16,
        /// Whether a token was sent.
        token: bool,
    },
    /// The hub answered something else.
    #[error("{what}: the hub {endpoint} answers {answer}")]
    Answer {
        /// What was asked for.
        what: String,
        /// The hub.
        endpoint: String,
        /// Its answer.
        answer: String,
    },
    /// The hub cannot be reached, or says nothing.
    #[error(
        "{what}: the hub {endpoint} cannot be reached or does not answer ({reason}); try again, \
         or work with what is in the cache (HF_HUB_OFFLINE=1)"
    )]
    Unreachable {
        /// What was asked for.
        what: String,
        /// The hub.
        endpoint: String,
        /// What happened.
        reason: String,
    },
    /// What came is not what was announced.
    #[error("{what}: the download is damaged: {reason}; nothing of it was kept, try again")]
    Damaged {
        /// What was asked for.
        what: String,
        /// What differs.
        reason: String,
    },
    /// Offline, and not in the cache.
    #[error(
        "{what} is not in the cache {}, and HF_HUB_OFFLINE forbids asking the hub",
        cache.display()
    )]
    Offline {
        /// What was asked for.
        what: String,
        /// The cache.
        cache: PathBuf,
    },
    /// There is no place for the cache.
    #[error("there is no home folder to keep models in: set HF_HOME to a folder")]
    NoHome,
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// A file could not be hashed.
    #[error(transparent)]
    Hash(#[from] checkpoints::Error),
}

impl Error {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_path_buf(), source }
    }

    /// Whether what was asked for does not exist, rather than that asking failed.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::Offline { .. })
    }
}
