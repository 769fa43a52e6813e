//! What weights are kept as.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What the weights of a model's linear layers are kept as. On the CPU a code takes as
/// long as it takes to read them, so half the bytes are nearly twice the speed.
///
/// Sums are f32 whatever the format, and weights are read exactly: `Q8` gives what its
/// rounded weights would give in f32. Rows of a length that is no multiple of 32 stay
/// f32 under `Q8` and `Q4`.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[serde(rename_all = "lowercase")]
pub enum WeightFormat {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits, 8 of them the exponent, for everything: activations and cache too where
    /// candle's ops are used.
    Bf16,
    /// 16 bits, 5 of them the exponent.
    F16,
    /// 8 bits and a scale for every 32 (GGML's `Q8_0`); all but linear layers in f32.
    Q8,
    /// 4 bits and a scale for every 32 (GGML's `Q4_0`); the head has 8, all but linear
    /// layers f32.
    Q4,
}

impl WeightFormat {
    /// All of them, largest first.
    pub const ALL: [Self; 5] = [Self::F32, Self::Bf16, Self::F16, Self::Q8, Self::Q4];

    /// Its name in options and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Q8 => "q8",
            Self::Q4 => "q4",
        }
    }

    /// What everything but the matrices of linear layers is.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 | Self::Q8 | Self::Q4 => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::F16 => DType::F16,
        }
    }

    /// The blocks that matrices of linear layers become.
    pub(crate) fn blocks(self) -> Option<GgmlDType> {
        match self {
            Self::F32 | Self::Bf16 | Self::F16 => None,
            Self::Q8 => Some(GgmlDType::Q8_0),
            Self::Q4 => Some(GgmlDType::Q4_0),
        }
    }

    /// The blocks that a matrix with rows of `len` numbers becomes.
    pub(crate) fn blocks_of(self, len: usize) -> Option<GgmlDType> {
        self.blocks().filter(|blocks| len.is_multiple_of(blocks.block_size()))
    }

    /// The format of the head under this one.
    pub(crate) fn of_head(self) -> Self {
        if self == Self::Q4 { Self::Q8 } else { self }
    }

    /// How many weights of a row share a scale; none where each stands alone. Rows of a
    /// length that is no multiple of it stay f32.
    pub fn block(self) -> Option<usize> {
        self.blocks().map(|blocks| blocks.block_size())
    }

    /// Refuses blocks elsewhere than on the CPU.
    ///
    /// # Errors
    /// Which formats the device can have.
    pub fn validate(self, device: &Device) -> Result<()> {
        if self.blocks().is_some() && !device.is_cpu() {
            return Err(Error::Config {
                what: "weights",
                why: format!(
                    "{self} is for the CPU; {} takes f32, bf16 or f16",
                    match device {
                        Device::Cpu => "the CPU",
                        Device::Cuda(_) => "CUDA",
                        Device::Metal(_) => "Metal",
                    }
                ),
            });
        }
        Ok(())
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for WeightFormat {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name).ok_or_else(|| Error::Config {
            what: "weights",
            why: format!(
                "{name:?} is no format; there are {}",
                Self::ALL.map(Self::name).join(", ")
            ),
        })
    }
}

/// Matrices of linear layers that are in blocks already: those of a file that stores them
/// so.
#[derive(Clone, Debug, Default)]
pub struct BlockMatrices {
    by_name: BTreeMap<String, Arc<QTensor>>,
}

impl BlockMatrices {
    /// Matrices `[out, in]` on the CPU by the names of their weights
    /// (`blocks.0.attn.key.weight`).
    pub fn new(by_name: BTreeMap<String, Arc<QTensor>>) -> Self {
        Self { by_name }
    }

    /// The matrix of that name, if it is one of these.
    pub(crate) fn get(
        &self,
        name: &str,
        shape: (usize, usize),
    ) -> candle_core::Result<Option<Arc<QTensor>>> {
        let Some(matrix) = self.by_name.get(name) else { return Ok(None) };
        if matrix.shape().dims2()? != shape {
            candle_core::bail!("{name} has shape {:?}; give it {shape:?}", matrix.shape().dims());
        }
        Ok(Some(Arc::clone(matrix)))
    }
}
