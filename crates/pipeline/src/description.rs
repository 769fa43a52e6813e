//! What there is to say about a codec.

use std::path::PathBuf;

use serde::Serialize;
use vq_autoencoder::VqConfig;

use crate::codec_input::CodecInput;
use crate::families::Family;

/// A codec in words and numbers, for people and for JSON.
#[derive(Debug, Clone, Serialize)]
pub struct Description {
    /// The file of the weights.
    pub weights: PathBuf,
    /// What kind of place they were found in: a model folder, a run folder, a
    /// reference run folder, a diffusers folder, or a weights file.
    pub origin: &'static str,
    /// Whose names the weights have.
    pub family: Family,
    /// The format of the file.
    pub format: &'static str,
    /// The part of a torch checkpoint that was read: `state_dict`, `model`, `ema`.
    pub section: Option<String>,
    /// The codec's identity; see `Codec::sha256`.
    pub sha256: String,
    /// Weights, without buffers.
    pub parameters: u64,
    /// What it reads.
    pub input: CodecInput,
    /// Sides of a picture over sides of its code grid.
    pub factor: usize,
    /// How many codes there are.
    pub codes: usize,
    /// Tensors of the loss module (LPIPS, discriminator): known, not loaded.
    pub loss_tensors: usize,
    /// Other tensors that the codec does not need.
    pub ignored_tensors: usize,
    /// The architecture.
    pub config: VqConfig,
}
