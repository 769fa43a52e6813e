//! Linear layers, with results that do not depend on the batch.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{Init, Module, VarBuilder};

use crate::norm::fusable;

/// Both references start weights from N(0, 0.02).
pub(crate) const INIT: Init = Init::Randn { mean: 0.0, stdev: 0.02 };

/// `x weight^T + bias`.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

/// Keys `weight [out, in]`, `bias [out]`.
pub(crate) fn linear(inputs: usize, outputs: usize, vb: VarBuilder) -> Result<Linear> {
    let weight = vb.get_with_hints((outputs, inputs), "weight", INIT)?;
    Ok(Linear { weight, bias: Some(vb.get_with_hints(outputs, "bias", Init::Const(0.0))?) })
}

/// Key `weight [out, in]`.
pub(crate) fn linear_no_bias(
    inputs: usize,
    outputs: usize,
    init: Init,
    vb: VarBuilder,
) -> Result<Linear> {
    Ok(Linear { weight: vb.get_with_hints((outputs, inputs), "weight", init)?, bias: None })
}

impl Linear {
    /// The same layer as training runs it.
    pub(crate) fn trained(&self) -> layers::sequence::Linear {
        layers::sequence::Linear { weight: self.weight.clone(), bias: self.bias.clone() }
    }

    /// `[B, T, in]` to `[B, T, out]`.
    ///
    /// On the CPU, sequences of one position are multiplied one by one: candle's
    /// product of a matrix with one row adds up in another order than that with many,
    /// and for up to some 14 rows it is the faster of the two (16384x768, f32: 3.3 ms
    /// for one row, 46 ms for eight together).
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let plain = candle_nn::Linear::new(self.weight.clone(), self.bias.clone());
        let (batch, len) = (x.dim(0)?, x.dim(1)?);
        let here = matches!(x.device(), Device::Cpu) && x.dtype() == DType::F32;
        if len != 1 || batch < 2 || !here || !fusable(x, &[&self.weight]) {
            return plain.forward(x);
        }
        let rows = (0..batch)
            .map(|row| plain.forward(&x.narrow(0, row, 1)?.contiguous()?))
            .collect::<Result<Vec<_>>>()?;
        Tensor::cat(&rows, 0)
    }
}

#[cfg(test)]
mod tests {
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
        let layer = Linear { weight: numbers(&[70, 203], 0)?, bias: None };
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
