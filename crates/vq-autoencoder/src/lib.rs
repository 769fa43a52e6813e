//! The VQGAN: encoder, quantizer and decoder, with its published presets.
//!
//! A picture `[B, C, H, W]` in `[-1, 1]` becomes a grid of codes
//! `[B, H/f, W/f]` and back (Esser, Rombach, Ommer 2021, figure 2). Two
//! families share the network and differ in wiring and names ([`Layout`]):
//! CompVis/taming-transformers (`VQModel`, `GumbelVQ`, `VQSegmentationModel`)
//! and FoundationVision/LlamaGen (VQ-8, VQ-16). A checkpoint's keys are the
//! paths of the code, so published weights load without a rename table.
//!
//! The seam is [`ImageCodec`]: pictures to codes and back, and the factor
//! between their sides. It is cut there because everything above it (tiling,
//! pipelines, transformers' training data) needs no more than that from a
//! first stage. [`encode_any_size`] and [`decode_any_size`] lift a codec from
//! multiples of the factor to pictures of any size. What depends on the whole of
//! a picture (group norm, attention) reaches the tiles of a large one through a
//! [`PictureContext`], for codecs that take it.
//!
//! ```
//! use vq_autoencoder::VqConfig;
//! let config = VqConfig::preset("imagenet-f16-1024").ok_or("no such preset")?;
//! config.validate()?;
//! assert_eq!(config.factor(), 16);
//! assert_eq!(config.parameter_count()?, 72_141_699);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod any_size;
mod codec;
mod config;
mod decoder;
mod encoder;
mod error;
mod layout;
mod memory;
mod mid;
mod model;
mod pass;
mod picture_context;
mod preset;
mod reference;
mod residual_stack;
mod resnet_block;
mod tiles;

pub use any_size::{TileConfig, decode_any_size, encode_any_size, grid_size, reconstruct_any_size};
pub use codec::ImageCodec;
pub use config::VqConfig;
pub use error::{Error, Result};
pub use layout::Layout;
pub use model::VqModel;
pub use picture_context::PictureContext;
pub use preset::{PRESETS, Preset};
