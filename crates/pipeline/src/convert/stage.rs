//! A codec as a part of a reference transformer's checkpoint.

use candle_core::{DType, Device, Tensor};
use checkpoints::{Copies, Derived};
use codebook::QuantizerConfig;
use vq_autoencoder::{Layout, VqConfig};

use super::plain::{CODEBOOK, Plain};
use super::rounded;
use crate::error::{Error, Result};
use crate::families;
use crate::model_spec::Found;
use crate::weights;

/// Every number of a row that no vector is nearest to. Its square times the width of a
/// codebook is still a number of f32.
const FAR: f32 = 1e15;

/// A codec on its way into a checkpoint, in a form that the reference has.
pub(super) struct Stage<'a> {
    found: &'a Found,
    /// The architecture as it is written.
    pub(super) config: VqConfig,
    /// The codebook, where it is not that of the file.
    codebook: Option<Tensor>,
    /// Whether its rows were brought to length one.
    pub(super) unit_rows: bool,
}

impl<'a> Stage<'a> {
    /// The codec of `found`, whose code 0 becomes code `offset`.
    ///
    /// The reference has no offset: a condition's codes are tokens as they are. So rows
    /// that are never the nearest are put in front of the codebook, and every code moves up.
    ///
    /// # Errors
    /// When the reference has no such codec.
    pub(super) fn new(found: &'a Found, offset: usize) -> Result<Self> {
        let refuse = |reason: String| Err(Error::model(found.weights.file.path(), reason));
        if found.config.layout != Layout::Taming {
            return refuse(
                "this codec has LlamaGen's wiring, which taming-transformers does not have: no \
                 checkpoint of it can hold both stages"
                    .to_owned(),
            );
        }
        let plain = Plain::of(found)?;
        let unit_rows = plain.is_some();
        let (mut config, mut codebook) = match plain {
            Some(Plain { config, rows }) => (config, Some(rows)),
            None => (found.config.clone(), None),
        };
        if offset > 0 {
            let QuantizerConfig::Euclidean { len, dim, .. } = &mut config.quantizer else {
                return refuse(format!(
                    "the codes of the condition stand behind {offset} others in the model's table, \
                     and only a codebook of which the nearest row is taken can be written so that \
                     the reference counts them from there; this codec has another"
                ));
            };
            let own = match codebook.take() {
                Some(rows) => rows,
                None => rounded(found, CODEBOOK, None)?,
            };
            let far = Tensor::full(FAR, (offset, *dim), &Device::Cpu)?;
            codebook = Some(Tensor::cat(&[&far, &own.to_dtype(DType::F32)?], 0)?);
            *len += offset;
        }
        Ok(Self { found, config, codebook, unit_rows })
    }

    /// Its tensors, names behind `place`. A codebook that was changed stays f32.
    ///
    /// # Errors
    /// When its networks' names cannot be found out.
    pub(super) fn copies(&self, place: &str, dtype: Option<DType>) -> Result<Copies<'a>> {
        let source = &self.found.weights;
        let expected = weights::expected(&self.found.config)?;
        let tensors = expected
            .keys()
            .filter(|name| self.codebook.is_none() || *name != CODEBOOK)
            .map(|name| {
                Derived::renamed(&format!("{}{name}", source.prefix), format!("{place}{name}"))
            })
            .collect();
        let mut others: Vec<_> =
            self.codebook.iter().map(|rows| (format!("{place}{CODEBOOK}"), rows.clone())).collect();
        others.extend(colours(&self.config)?.map(|colours| (format!("{place}{COLOURS}"), colours)));
        Ok(Copies { tensors, others, ..Copies::of_all(&source.file, dtype) })
    }
}

/// The name of [`colours`].
pub(super) const COLOURS: &str = "colorize";

/// What the reference's class for label maps (`families::project` says when it is that)
/// keeps to show them in colours, `[3, labels, 1, 1]`: any will do, the same each time.
///
/// # Errors
/// When there is no memory for it.
pub(super) fn colours(config: &VqConfig) -> Result<Option<Tensor>> {
    let labels = config.in_channels;
    if labels <= families::MAX_PICTURE_CHANNELS
        || !matches!(config.quantizer, QuantizerConfig::Euclidean { .. })
    {
        return Ok(None);
    }
    let values = (0..3 * labels).map(|i| ((i as f32 + 1.0) * 0.618_034).fract() * 2.0 - 1.0);
    Ok(Some(Tensor::from_vec(values.collect(), (3, labels, 1, 1), &Device::Cpu)?))
}
