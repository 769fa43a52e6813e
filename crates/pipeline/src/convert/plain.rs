//! An l2-normalised codebook for programs that know only the nearest row.

use candle_core::{D, DType, Device, Tensor};
use codebook::{NormalizedQuantizer, QuantizerConfig};
use vq_autoencoder::{Layout, VqConfig};

use super::rounded;
use crate::digest::codec_sha256;
use crate::error::{Error, Result};
use crate::model_spec::Found;
use crate::weights;

/// The codebook's name in taming's wiring.
pub(super) const CODEBOOK: &str = "quantize.embedding.weight";

/// What becomes of the codebook, for people.
pub(super) const UNIT_ROWS: &str = "its codebook is l2-normalised, which the target does not \
    know: its rows are written at length one, so that the nearest row is the one of the least \
    angle; codes and pictures stay what they are, only the rows' own lengths, which nothing but \
    training sees, are gone";

/// A codec of taming's wiring with an l2-normalised codebook, as one with a plain codebook
/// that makes the same codes and the same pictures.
///
/// The nearest of rows e of length one to a vector z of any length is
/// `argmin |z - e|^2 = argmin |z|^2 - 2 z.e + 1 = argmax z.e`, and `|z|` is the same for all
/// rows: the row of the least angle. What the decoder sees is the row of length one, in both.
/// That holds up to the rounding of f32, which decides between codes that are as near.
pub(super) struct Plain {
    /// The architecture, with the reference's quantizer.
    pub(super) config: VqConfig,
    /// The rows of length one, `[K, D]`, f32, which they stay whatever other numbers become:
    /// rounded rows would have different lengths.
    pub(super) rows: Tensor,
}

impl Plain {
    /// The codec of `found`; none if it needs no other form, or has none.
    ///
    /// # Errors
    /// When a row is zero, which has no direction.
    pub(super) fn of(found: &Found) -> Result<Option<Self>> {
        let (&QuantizerConfig::Normalized { len, dim, .. }, Layout::Taming) =
            (&found.config.quantizer, found.config.layout)
        else {
            return Ok(None);
        };
        let codebook = rounded(found, CODEBOOK, None)?;
        let rows = NormalizedQuantizer::new(codebook, 0.0, 0.0)?.unit_codebook()?;
        let rows = rows.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
        let squares = rows.sqr()?.sum(D::Minus1)?.to_vec1::<f32>()?;
        if let Some(code) = squares.iter().position(|square| !(0.9..1.1).contains(square)) {
            return Err(Error::model(
                found.weights.file.path(),
                format!(
                    "the codebook's row of code {code} has no direction, so it cannot be written \
                     at length one; write our own format"
                ),
            ));
        }
        let quantizer = QuantizerConfig::Euclidean { len, dim, beta: 0.25, legacy_beta: true };
        Ok(Some(Self { config: VqConfig { quantizer, ..found.config.clone() }, rows }))
    }

    /// Its identity, numbers but those of the codebook being `dtype`.
    pub(super) fn identity(&self, found: &Found, dtype: Option<DType>) -> Result<String> {
        let expected = weights::expected(&self.config)?;
        let tensors = expected.keys().map(|name| {
            let tensor = match name == CODEBOOK {
                true => self.rows.clone(),
                false => rounded(found, name, dtype)?,
            };
            Ok((name.clone(), tensor))
        });
        codec_sha256(&self.config, tensors)
    }
}
