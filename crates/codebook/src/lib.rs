//! Vector quantization: from continuous feature maps to codes and back.
//!
//! A [`Quantizer`] maps a feature map `z: [B, D, H, W]` to a [`CodeGrid`]
//! `[B, H, W]` of indices into a codebook `[K, D]`, and a grid back to vectors.
//! Four of them are here, chosen by a [`QuantizerConfig`]:
//!
//! | kind | code of a vector | codebook learns by |
//! |---|---|---|
//! | [`EuclideanQuantizer`] | nearest row | gradient (VQGAN) |
//! | [`NormalizedQuantizer`] | nearest row on the unit sphere | gradient (LlamaGen) |
//! | [`GumbelQuantizer`] | arg-max of a projection | gradient through a sample (Gumbel VQGAN) |
//! | [`EmaQuantizer`] | nearest row | moving averages of its vectors |
//!
//! The search itself is one candle custom op, [`NearestCode`], so that a faster
//! kernel or another device can take its place without touching a quantizer.
//!
//! What only training needs is kept apart from what inference sees: the Gumbel
//! sample ([`GumbelQuantizer::sample`], [`TemperatureSchedule`]), the update of
//! the moving averages ([`EmaState`]), [`CodeUsage`] and [`Revival`].

mod any;
mod argmax;
mod assign;
mod config;
#[cfg(feature = "cuda")]
mod cuda;
mod ema;
mod entropy;
mod error;
mod euclidean;
mod feature_map;
mod grid;
mod gumbel;
mod losses;
mod nearest;
mod normalized;
mod quantizer;
mod remap;
mod revival;
mod usage;

pub use any::AnyQuantizer;
pub use argmax::argmax_rows;
pub use config::QuantizerConfig;
pub use ema::{EmaQuantizer, EmaState};
pub use entropy::entropy_loss;
pub use error::{Error, Result};
pub use euclidean::EuclideanQuantizer;
pub use grid::CodeGrid;
pub use gumbel::{GumbelQuantizer, TemperatureSchedule, gumbel_noise};
pub use losses::Losses;
pub use nearest::{NearestCode, nearest_codes, nearest_codes_plain};
pub use normalized::NormalizedQuantizer;
pub use quantizer::{Quantized, Quantizer};
pub use remap::{Remap, Unknown};
pub use revival::{Revival, ReviveState};
pub use usage::{CodeUsage, RecentUsage};
