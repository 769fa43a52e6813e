//! The numbers that networks under training compute with.

use anyhow::{Result, ensure};
use candle_core::{DType, Device};
use layers::Factors;
use serde::{Deserialize, Serialize};

/// What weights and activations of a network are rounded to in forward and backward
/// passes. The weights that are updated, averaged, saved and handed out are f32 in any case
/// (Micikevicius et al. 2018, "Mixed Precision Training", section 3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precision {
    /// Not at all.
    #[default]
    #[serde(rename = "f32")]
    F32,
    /// 8 bits of mantissa, the exponents of f32, so that no gradient needs scaling: half
    /// the memory of activations, and tensor cores, on NVIDIA GPUs from Ampere on. On CPUs
    /// with AMX activations stay f32, and what is multiplied is rounded.
    #[serde(rename = "bf16")]
    Bf16,
}

impl Precision {
    /// The dtype of networks on `device`: on a CPU f32, of which products are rounded, see
    /// [`Precision::factors`].
    ///
    /// # Errors
    /// If there are no matrix products of it there.
    pub fn dtype(self, device: &Device) -> Result<DType> {
        self.dtype_where(device, self.factors().are_rounded())
    }

    /// [`Precision::dtype`], given whether products on the CPU are rounded.
    fn dtype_where(self, device: &Device, rounded: bool) -> Result<DType> {
        match self {
            Self::Bf16 if device.is_cuda() => Ok(DType::BF16),
            Self::Bf16 => {
                ensure!(
                    device.is_cpu() && rounded,
                    "precision = \"bf16\" needs an NVIDIA GPU or a CPU that multiplies tiles of \
                     bf16 (Intel AMX), and this run is on another device: train with --device \
                     cuda, or set precision=f32 (a run that was begun in bf16 can go on in f32)"
                );
                Ok(DType::F32)
            }
            Self::F32 => Ok(DType::F32),
        }
    }

    /// What the factors of products are rounded to where networks are f32.
    pub fn factors(self) -> Factors {
        match self {
            Self::F32 => Factors::F32,
            Self::Bf16 => Factors::Bf16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RunConfig, TrainConfig};
    use crate::run::Limits;
    use crate::transformer::{TransformerTrainConfig, train_transformer};
    use crate::vqgan::train_vqgan;

    #[test]
    fn it_is_a_key_with_two_values_that_a_run_may_change() -> Result<()> {
        let parse = |value: &str| TrainConfig::parse("", &[format!("precision={value}")]);
        assert_eq!(parse("bf16")?.precision, Precision::Bf16);
        assert_eq!(parse("f32")?, TrainConfig::default());
        let error = parse("fp8").err().map(|e| format!("{e:#}")).unwrap_or_default();
        assert!(error.contains("fp8") && error.contains("bf16"), "{error}");
        assert!(parse("f32")?.conflicts(&parse("bf16")?)?.is_empty());
        Ok(())
    }

    #[test]
    fn bf16_on_a_cpu_without_it_is_an_error_that_says_what_to_do() -> Result<()> {
        assert_eq!(Precision::F32.dtype(&Device::Cpu)?, DType::F32);
        assert_eq!(Precision::Bf16.dtype_where(&Device::Cpu, true)?, DType::F32);
        let error = Precision::Bf16.dtype_where(&Device::Cpu, false).err();
        let error = error.map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("--device cuda") && error.contains("precision=f32"), "{error}");
        if Precision::Bf16.factors().are_rounded() {
            eprintln!("skipped: a run where there is no bf16 (this CPU has it)");
            return Ok(());
        }

        // Before anything is looked at or written.
        let dir = tempfile::tempdir()?;
        let run = dir.path().join("run");
        let precision = Precision::Bf16;
        let first = TrainConfig { precision, run: run.clone(), ..TrainConfig::default() };
        let second = TransformerTrainConfig { precision, run: run.clone(), ..Default::default() };
        let limits = Limits::default();
        for result in [
            train_vqgan(&first, &Device::Cpu, limits, &mut ()),
            train_transformer(&second, &Device::Cpu, limits, &mut ()),
        ] {
            assert_eq!(result.err().map(|e| e.to_string()).unwrap_or_default(), error);
        }
        assert!(!run.exists());
        Ok(())
    }
}
