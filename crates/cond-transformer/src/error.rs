//! What can go wrong between a condition and its codes.

/// The result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong between a condition and its codes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration that describes no model, or one beyond the limits.
    #[error("{what}: {why}")]
    Config {
        /// Which configuration.
        what: &'static str,
        /// What is wrong, and what to write instead.
        why: String,
    },

    /// A tensor has another shape than the operation works on.
    #[error("{op}: {what} has shape {shape:?}; give it {expected}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// Which of its arguments.
        what: &'static str,
        /// The shape it has.
        shape: Vec<usize>,
        /// The shape it should have.
        expected: String,
    },

    /// A condition that this model was not trained with.
    #[error("this model takes {takes} as its condition, not {given}")]
    ConditionKind {
        /// What the model takes.
        takes: &'static str,
        /// What it was given.
        given: &'static str,
    },

    /// A token without a row in the embedding table.
    #[error("{what} {token} at position {position} has no row in a table of {len}")]
    TokenOutOfRange {
        /// Class, code or condition token.
        what: &'static str,
        /// The token.
        token: u32,
        /// Its flat position in what was given.
        position: usize,
        /// The number of rows.
        len: usize,
    },

    /// More positions than the model or its cache has.
    #[error(
        "{what}: {positions} positions do not fit in {limit}; \
         shorten the condition, or use the sliding window for larger grids"
    )]
    ContextFull {
        /// What is full: the model's context or the cache.
        what: &'static str,
        /// The positions asked for.
        positions: usize,
        /// The positions there are.
        limit: usize,
    },

    /// A NaN or plus infinity among logits, or nothing left to choose from.
    #[error(
        "sample {sample}, position {position}: {what}, so there is no next code; check the \
         weights and the dtype (f16 overflows where bf16 does not)"
    )]
    NoNextCode {
        /// The sample, counted in its batch.
        sample: usize,
        /// The position in the sequence or, in raster order, in the grid.
        position: usize,
        /// What stands in the way.
        what: NoCode,
    },

    /// Sampling options that mean nothing.
    #[error("sampling: {0}")]
    Sampling(String),

    /// A request whose parts do not fit together.
    #[error("generate: {0}")]
    Request(String),

    /// A grid that the permutation is not defined for, or not a permutation.
    #[error("permuter: {0}")]
    Permuter(String),

    /// A layout of objects that has no tokens.
    #[error("layout: {0}")]
    Layout(String),

    /// An error of a code grid.
    #[error(transparent)]
    Codes(#[from] codebook::Error),

    /// An error of a tensor operation.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// Why logits have no next code.
#[derive(thiserror::Error, Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoCode {
    /// A logit is NaN or plus infinity.
    #[error("a logit is NaN or infinite")]
    NotFinite,
    /// All codes are forbidden, or their logits are minus infinity.
    #[error("every code is forbidden or impossible")]
    NothingLeft,
}

/// For constructors and models that speak candle's result type.
impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Candle(error) => error,
            other => candle_core::Error::wrap(other),
        }
    }
}
