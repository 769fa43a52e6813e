//! What can go wrong between a path and a picture.

use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing is at the path given for a model.
    #[error(
        "{}: no such model; give a model folder, a reference run folder, or a weights file with \
         --config",
        path.display()
    )]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// Nothing is at the path given for a model, and the hub cannot help.
    #[error("{}: no such file or folder; and as a model on the hub: {source}", path.display())]
    NotHere {
        /// The path.
        path: PathBuf,
        /// What the hub, or asking it, said.
        source: hub::Error,
    },
    /// The hub or its cache.
    #[error(transparent)]
    Hub(hub::Error),
    /// A path holds no model, or a configuration does not describe one.
    #[error("{}: {reason}", path.display())]
    Model {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// A reference configuration names a model that is not an image codec here.
    #[error("target {target:?}: {reason}")]
    Target {
        /// The reference's `target:`.
        target: String,
        /// Why it cannot be loaded, and what can.
        reason: String,
    },
    /// The device cannot be used.
    #[error("device {device:?}: {reason}")]
    Device {
        /// As the user wrote it.
        device: String,
        /// Why not.
        reason: String,
    },
    /// The codec cannot take or give pictures of this kind.
    #[error("{0}")]
    Pictures(String),
    /// A condition or a wish that does not fit the model.
    #[error("{0}")]
    Condition(String),
    /// A scorer that gives no scores.
    #[error("{0}")]
    Scorer(String),
    /// Codes that this codec did not make.
    #[error(
        "the codes were made by another codec: they name sha256 {found}, this one is {expected}; \
         decode them with the model that made them"
    )]
    OtherCodec {
        /// The hash of the codec that is loaded.
        expected: String,
        /// The hash in the codes file.
        found: String,
    },
    /// Weights or a configuration could not be read.
    #[error(transparent)]
    Checkpoint(#[from] checkpoints::Error),
    /// The transformer refused its configuration or its input.
    #[error(transparent)]
    Transformer(#[from] cond_transformer::Error),
    /// The text encoder could not be loaded, or refused a caption.
    #[error(transparent)]
    Text(#[from] text_encoder::Error),
    /// The tokenizer could not be loaded, or has no ids for a prompt.
    #[error(transparent)]
    Tokens(#[from] text_tokens::Error),
    /// The network refused its configuration or its input.
    #[error(transparent)]
    Autoencoder(#[from] vq_autoencoder::Error),
    /// The codes are not the codebook's.
    #[error(transparent)]
    Codebook(#[from] codebook::Error),
    /// A picture could not be read or made.
    #[error(transparent)]
    Image(#[from] image_data::Error),
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl Error {
    pub(crate) fn model(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Model { path: path.into(), reason: reason.into() }
    }

    /// Guidance of a model that has no token of no condition.
    pub(crate) fn unguided() -> Self {
        Self::Condition(
            "this model was not trained to draw without its condition, so it cannot be guided: \
             leave --cfg-scale out"
                .to_owned(),
        )
    }
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
