//! What can go wrong with codes and codebooks.

use candle_core::DType;

/// The result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong with codes and codebooks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
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

    /// A tensor has another dtype than the operation works on.
    #[error("{op}: {what} has dtype {dtype:?}; give it {expected}")]
    DType {
        /// The operation.
        op: &'static str,
        /// Which of its arguments.
        what: &'static str,
        /// The dtype it has.
        dtype: DType,
        /// The dtypes it may have.
        expected: &'static str,
    },

    /// A NaN or infinity where a decision has to be made.
    #[error(
        "{op}: {what} hold {value} in row {row}, column {column}, so there is no right code; \
         find where it comes from (a damaged checkpoint, or training that diverged)"
    )]
    NotFinite {
        /// The operation.
        op: &'static str,
        /// Which of its arguments.
        what: &'static str,
        /// The row of the first such value.
        row: usize,
        /// Its column.
        column: usize,
        /// NaN, or plus or minus infinity.
        value: f64,
    },

    /// A code that no row of the codebook belongs to.
    #[error(
        "code {code} at position {position} has no row in a codebook of {len}; \
         decode it with the codec that made it"
    )]
    CodeOutOfRange {
        /// The code.
        code: u32,
        /// Its flat position in the grid.
        position: usize,
        /// The number of codes there are.
        len: usize,
    },

    /// A configuration that describes no quantizer.
    #[error("quantizer configuration: {0}")]
    Config(String),

    /// An error of a tensor operation.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
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
