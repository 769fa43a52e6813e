//! Linear layers, with results that do not depend on the batch.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Result, Tensor};
use candle_nn::{Init, Module, VarBuilder};
use layers::Tape;

use crate::{BlockMatrices, WeightFormat, cpu};

/// Both references start weights from N(0, 0.02).
pub(crate) const INIT: Init = Init::Randn { mean: 0.0, stdev: 0.02 };

/// `x weight^T + bias`.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
}

/// A matrix `[out, in]`.
#[derive(Clone, Debug)]
enum Weight {
    Dense(Tensor),
    /// In GGML's blocks, for inference.
    Blocks(Arc<QTensor>),
}

/// Where the matrices of linear layers come from, and what they are kept as.
#[derive(Clone, Copy)]
pub(crate) enum Matrices<'a> {
    /// From numbers.
    Made(WeightFormat),
    /// Those that are in blocks already, the others from numbers.
    Stored(&'a BlockMatrices),
    /// From numbers, as they are; what would be in blocks is noted, by name.
    Noted(WeightFormat, &'a RefCell<BTreeMap<String, GgmlDType>>),
}

impl Matrices<'_> {
    /// The same for the head.
    pub(crate) fn of_head(self) -> Self {
        match self {
            Self::Made(format) => Self::Made(format.of_head()),
            Self::Noted(format, names) => Self::Noted(format.of_head(), names),
            Self::Stored(_) => self,
        }
    }
}

/// Keys `weight [out, in]`, `bias [out]`.
pub(crate) fn linear(
    inputs: usize,
    outputs: usize,
    matrices: Matrices<'_>,
    vb: VarBuilder,
) -> Result<Linear> {
    let bias = vb.get_with_hints(outputs, "bias", Init::Const(0.0))?;
    Ok(Linear { bias: Some(bias), ..linear_no_bias(inputs, outputs, INIT, matrices, vb)? })
}

/// Key `weight [out, in]`.
pub(crate) fn linear_no_bias(
    inputs: usize,
    outputs: usize,
    init: Init,
    matrices: Matrices<'_>,
    vb: VarBuilder,
) -> Result<Linear> {
    let name = || vb.pp("weight").prefix();
    let numbers = || vb.get_with_hints((outputs, inputs), "weight", init);
    let weight = match matrices {
        Matrices::Made(format) => match format.blocks_of(inputs) {
            Some(blocks) => Weight::Blocks(Arc::new(QTensor::quantize(&numbers()?, blocks)?)),
            None => Weight::Dense(numbers()?),
        },
        Matrices::Stored(stored) => match stored.get(&name(), (outputs, inputs))? {
            Some(blocks) => Weight::Blocks(blocks),
            None => Weight::Dense(numbers()?),
        },
        Matrices::Noted(format, names) => {
            if let Some(blocks) = format.blocks_of(inputs) {
                names.borrow_mut().insert(name(), blocks);
            }
            Weight::Dense(numbers()?)
        }
    };
    Ok(Linear { weight, bias: None })
}

impl Linear {
    /// The same layer as training runs it on `tape`.
    ///
    /// # Errors
    /// If its weights are in blocks, which are for inference.
    pub(crate) fn trained(&self, tape: &Tape) -> Result<layers::sequence::Linear> {
        match &self.weight {
            Weight::Dense(weight) => Ok(layers::sequence::Linear {
                weight: weight.clone(),
                bias: self.bias.clone(),
                factors: tape.factors(),
            }),
            Weight::Blocks(blocks) => candle_core::bail!(
                "weights of {:?} are for inference; train in f32",
                blocks.dtype()
            ),
        }
    }

    /// What the kernels of [`crate::cuda`] read, if they can.
    #[cfg(feature = "cuda")]
    pub(crate) fn on_device(&self) -> Option<crate::cuda::Affine<'_>> {
        match &self.weight {
            Weight::Dense(weight) => Some(crate::cuda::Affine { weight, bias: self.bias.as_ref() }),
            Weight::Blocks(_) => None,
        }
    }

    /// `[B, T, in]` to `[B, T, out]`: by the kernels of this crate where they can, else
    /// by candle's.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self.affine() {
            Some(affine) if cpu::reads(x) => cpu::linear(x, &affine)?.to_dtype(x.dtype()),
            _ => self.plain(x),
        }
    }

    /// [`Self::forward`] by candle's ops.
    fn plain(&self, x: &Tensor) -> Result<Tensor> {
        let weight = match &self.weight {
            Weight::Dense(weight) => weight.clone(),
            Weight::Blocks(weight) => weight.dequantize(x.device())?.to_dtype(x.dtype())?,
        };
        candle_nn::Linear::new(weight, self.bias.clone()).forward(x)
    }

    /// What the kernels of this crate read, if they can.
    pub(crate) fn affine(&self) -> Option<cpu::Affine<'_>> {
        let weight = match &self.weight {
            Weight::Dense(weight) if cpu::reads(weight) => cpu::Matrix::of(weight)?,
            Weight::Dense(_) => return None,
            Weight::Blocks(weight) => cpu::Matrix::of_blocks(weight)?,
        };
        let bias = match &self.bias {
            Some(bias) if cpu::reads(bias) => Some(cpu::Numbers::of(bias).ok()?),
            Some(_) => return None,
            None => None,
        };
        Some(cpu::Affine { weight, bias })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::Stream;

    fn numbers(shape: &[usize], sample: u64) -> Result<Tensor> {
        let stream = Stream { seed: 1, sample };
        let count = shape.iter().product();
        let values = (0..count).map(|i| stream.uniform(i) as f32 - 0.5).collect();
        Tensor::from_vec::<_, f32>(values, shape, &Device::Cpu)
    }

    #[test]
    fn a_row_does_not_depend_on_the_others() -> anyhow::Result<()> {
        let layer = Linear { weight: Weight::Dense(numbers(&[70, 203], 0)?), bias: None };
        let x = numbers(&[11, 1, 203], 1)?;
        let all = layer.forward(&x)?.to_vec3::<f32>()?;
        for first in 0..11 {
            for count in 1..=11 - first {
                let part = layer.forward(&x.narrow(0, first, count)?)?.to_vec3::<f32>()?;
                assert_eq!(part, all[first..first + count], "rows {first}+{count}");
            }
        }
        Ok(())
    }
}
