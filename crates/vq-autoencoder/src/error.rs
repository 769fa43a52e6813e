//! What can go wrong in this crate.

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operation on tensors failed, or a weight is missing or mis-shaped.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// The quantizer refused its input, its codes or its configuration.
    #[error(transparent)]
    Codebook(#[from] codebook::Error),
    /// A field of a configuration breaks a rule.
    #[error("autoencoder config: {field} is {value}, but {rule}")]
    Config {
        /// The field, as it is spelled in the configuration.
        field: &'static str,
        /// What it holds.
        value: String,
        /// The rule, and what to write instead.
        rule: String,
    },
    /// A configuration of the reference has no counterpart here.
    #[error("reference config: {what}; {hint}")]
    Reference {
        /// What was found.
        what: String,
        /// What to do.
        hint: &'static str,
    },
    /// A tensor of pictures or codes has the wrong shape.
    #[error("{op}: got {got}, expected {expected}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// The shape it got.
        got: String,
        /// The shape it needs, or the rule.
        expected: String,
    },
    /// Tiles cannot be laid out as asked.
    #[error("tiles: {0}")]
    Tiles(String),
}

impl Error {
    pub(crate) fn config(
        field: &'static str,
        value: impl ToString,
        rule: impl Into<String>,
    ) -> Self {
        Self::Config { field, value: value.to_string(), rule: rule.into() }
    }
}

/// Lets constructors of this crate be used where candle's result is expected.
impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Candle(error) => error,
            other => candle_core::Error::wrap(other),
        }
    }
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
