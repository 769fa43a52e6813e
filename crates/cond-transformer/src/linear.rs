//! Linear layers, with results that do not depend on the batch.

use std::sync::Arc;

use candle_core::quantized::QTensor;
use candle_core::{Result, Tensor};
use candle_nn::{Init, Module, VarBuilder};

use crate::{WeightFormat, cpu};

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

/// Keys `weight [out, in]`, `bias [out]`.
pub(crate) fn linear(
    inputs: usize,
    outputs: usize,
    format: WeightFormat,
    vb: VarBuilder,
) -> Result<Linear> {
    let bias = vb.get_with_hints(outputs, "bias", Init::Const(0.0))?;
    Ok(Linear { bias: Some(bias), ..linear_no_bias(inputs, outputs, INIT, format, vb)? })
}

/// Key `weight [out, in]`.
pub(crate) fn linear_no_bias(
    inputs: usize,
    outputs: usize,
    init: Init,
    format: WeightFormat,
    vb: VarBuilder,
) -> Result<Linear> {
    let weight = vb.get_with_hints((outputs, inputs), "weight", init)?;
    let weight = match format.blocks().filter(|blocks| inputs.is_multiple_of(blocks.block_size())) {
        Some(blocks) => Weight::Blocks(Arc::new(QTensor::quantize(&weight, blocks)?)),
        None => Weight::Dense(weight),
    };
    Ok(Linear { weight, bias: None })
}

impl Linear {
    /// The same layer as training runs it.
    ///
    /// # Errors
    /// If its weights are in blocks, which are for inference.
    pub(crate) fn trained(&self) -> Result<layers::sequence::Linear> {
        match &self.weight {
            Weight::Dense(weight) => {
                Ok(layers::sequence::Linear { weight: weight.clone(), bias: self.bias.clone() })
            }
            Weight::Blocks(blocks) => candle_core::bail!(
                "weights of {:?} are for inference; train in f32",
                blocks.dtype()
            ),
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
