//! Captions to the embeddings of a T5 encoder, as LlamaGen's models take them.
//!
//! A caption is cleaned ([`clean_caption`]), cut into tokens, read by the encoder, and put at
//! the end of a sequence of fixed length: what LlamaGen's `T5Embedder` and its sampling
//! script do. The encoder is loaded from a folder as the Hugging Face tools write it. It is
//! two hundred lines of its own (`t5.rs`): `candle-transformers`, which has one without an
//! attention mask too, is fifty thousand, and dozens of models that nothing here needs.
//!
//! The reference fills a caption up to the fixed length first, and forbids attention to what
//! it filled in. Here nothing is filled in, and every number is the same: a forbidden
//! position has weight exp(-3e38) = 0 in every sum over positions, all other layers work on
//! one position alone, the positions of T5 are distances, and the filling stands behind the
//! caption, so that it moves none of them. What comes out at the filled positions, the
//! reference multiplies by 0.

mod caption;
mod config;
mod encoder;
mod error;
mod t5;

pub use caption::clean_caption;
pub use encoder::{Embedded, TextEncoder, Wanted};
pub use error::{Error, Result};
