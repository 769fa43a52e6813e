//! The identity of a codec: what decides which codes it makes and what they
//! look like, and nothing else.

use candle_core::Tensor;
use codebook::QuantizerConfig;
use sha2::{Digest, Sha256};
use vq_autoencoder::{Layout, VqConfig};

use crate::error::Result;

/// The SHA-256, in lowercase hexadecimal, of a codec's wiring and weights.
///
/// `tensors` come sorted by name, in f32. It is taken over the values and not over the file, so a checkpoint and its
/// conversion to another format are the same codec. Hashed are, in this order:
/// the line `synth-codec 1 LAYOUT QUANTIZER`, then for every tensor, sorted by
/// name, the line `NAME [SHAPE]` and its elements as little-endian f32.
pub(crate) fn codec_sha256(
    config: &VqConfig,
    tensors: impl IntoIterator<Item = Result<(String, Tensor)>>,
) -> Result<String> {
    let layout = match config.layout {
        Layout::Taming => "taming",
        Layout::LlamaGen => "llamagen",
    };
    let quantizer = match config.quantizer {
        QuantizerConfig::Euclidean { .. } => "euclidean",
        QuantizerConfig::Normalized { .. } => "normalized",
        QuantizerConfig::Gumbel { .. } => "gumbel",
        QuantizerConfig::Ema { .. } => "ema",
    };
    let mut hash = Sha256::new();
    hash.update(format!("synth-codec 1 {layout} {quantizer}\n").as_bytes());
    for tensor in tensors {
        let (name, tensor) = tensor?;
        hash.update(format!("{name} {:?}\n", tensor.dims()).as_bytes());
        let values = tensor.flatten_all()?.to_vec1::<f32>()?;
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        hash.update(&bytes);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
