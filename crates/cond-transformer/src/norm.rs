//! Layer norm and RMS norm: fused for inference, composed where gradients are needed.

use candle_core::{D, DType, Result, Tensor};
use candle_nn::{Init, VarBuilder};
use layers::sequence::RowNorm;

use crate::cpu;

/// Whether candle's fused norms and soft-max will do for `x` under `parameters`: they
/// have no gradient and, the RMS norm, no f64.
pub(crate) fn fusable(x: &Tensor, parameters: &[&Tensor]) -> bool {
    let tracked = x.track_op() || parameters.iter().any(|parameter| parameter.track_op());
    !tracked && x.dtype() != DType::F64
}

/// f32 for half precision, else the dtype itself.
pub(crate) fn wide(dtype: DType) -> DType {
    if matches!(dtype, DType::F16 | DType::BF16) { DType::F32 } else { dtype }
}

/// Layer norm over the last dimension, `(x - mean) / sqrt(var + eps) * weight + bias`.
#[derive(Clone, Debug)]
pub(crate) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

/// Keys `weight`, `bias`.
pub(crate) fn layer_norm(size: usize, eps: f64, vb: VarBuilder) -> Result<LayerNorm> {
    Ok(LayerNorm {
        weight: vb.get_with_hints(size, "weight", Init::Const(1.0))?,
        bias: vb.get_with_hints(size, "bias", Init::Const(0.0))?,
        eps,
    })
}

impl LayerNorm {
    /// The same norm as training runs it.
    pub(crate) fn trained(&self) -> RowNorm {
        let (weight, bias) = (self.weight.clone(), Some(self.bias.clone()));
        RowNorm { weight, bias, eps: self.eps }
    }

    /// `[.., C]` to `[.., C]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if fusable(x, &[&self.weight, &self.bias]) {
            candle_nn::ops::layer_norm(&x.contiguous()?, &self.weight, &self.bias, self.eps as f32)
        } else {
            self.composed(x)
        }
    }

    /// What the kernels of this crate read, if they can.
    pub(crate) fn view(&self) -> Option<cpu::Norm<'_>> {
        if !(cpu::reads(&self.weight) && cpu::reads(&self.bias)) {
            return None;
        }
        Some(cpu::Norm::Layer {
            weight: cpu::Numbers::of(&self.weight).ok()?,
            bias: cpu::Numbers::of(&self.bias).ok()?,
            eps: self.eps as f32,
        })
    }

    /// What the kernels of [`crate::cuda`] read.
    #[cfg(feature = "cuda")]
    pub(crate) fn on_device(&self) -> crate::cuda::Norm<'_> {
        let kind = crate::cuda::NormKind::Layer;
        crate::cuda::Norm { kind, weight: &self.weight, bias: Some(&self.bias), eps: self.eps }
    }

    /// The formula, op by op.
    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let dtype = x.dtype();
        let x = x.to_dtype(wide(dtype))?;
        let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = x.sqr()?.mean_keepdim(D::Minus1)?;
        let x = x.broadcast_div(&(variance + self.eps)?.sqrt()?)?.to_dtype(dtype)?;
        x.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)
    }
}

/// RMS norm over the last dimension, `x / sqrt(mean(x^2) + eps) * weight`, in f32
/// for half-precision inputs (LlamaGen `RMSNorm`).
#[derive(Clone, Debug)]
pub(crate) struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

/// Key `weight`.
pub(crate) fn rms_norm(size: usize, eps: f64, vb: VarBuilder) -> Result<RmsNorm> {
    Ok(RmsNorm { weight: vb.get_with_hints(size, "weight", Init::Const(1.0))?, eps })
}

impl RmsNorm {
    /// The same norm as training runs it.
    pub(crate) fn trained(&self) -> RowNorm {
        RowNorm { weight: self.weight.clone(), bias: None, eps: self.eps }
    }

    /// `[.., C]` to `[.., C]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if fusable(x, &[&self.weight]) {
            candle_nn::ops::rms_norm(&x.contiguous()?, &self.weight, self.eps as f32)
        } else {
            self.composed(x)
        }
    }

    /// What the kernels of this crate read, if they can.
    pub(crate) fn view(&self) -> Option<cpu::Norm<'_>> {
        if !cpu::reads(&self.weight) {
            return None;
        }
        let weight = cpu::Numbers::of(&self.weight).ok()?;
        Some(cpu::Norm::Rms { weight, eps: self.eps as f32 })
    }

    /// What the kernels of [`crate::cuda`] read.
    #[cfg(feature = "cuda")]
    pub(crate) fn on_device(&self) -> crate::cuda::Norm<'_> {
        let kind = crate::cuda::NormKind::Rms;
        crate::cuda::Norm { kind, weight: &self.weight, bias: None, eps: self.eps }
    }

    /// The formula, op by op.
    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let dtype = x.dtype();
        let x = x.to_dtype(wide(dtype))?;
        let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
        let x = x.broadcast_div(&(mean + self.eps)?.sqrt()?)?.to_dtype(dtype)?;
        x.broadcast_mul(&self.weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn ramp(shape: (usize, usize)) -> candle_core::Result<Tensor> {
        let n = shape.0 * shape.1;
        let values = (0..n).map(|i| ((i * 37 % 23) as f32 - 9.0) / 5.0).collect();
        Tensor::from_vec::<_, f32>(values, shape, &Device::Cpu)
    }

    #[test]
    fn fused_norms_are_the_composed_ones() -> anyhow::Result<()> {
        let x = ramp((5, 16))?;
        let (weight, bias) = (ramp((1, 16))?.flatten_all()?, ramp((16, 1))?.flatten_all()?);
        let layer = LayerNorm { weight: weight.clone(), bias, eps: 1e-5 };
        golden::close("layer norm", &layer.forward(&x)?, &layer.composed(&x)?, 1e-6)?;
        let rms = RmsNorm { weight, eps: 1e-5 };
        golden::close("rms norm", &rms.forward(&x)?, &rms.composed(&x)?, 1e-6)
    }

    #[test]
    fn gradients_are_those_of_differences() -> anyhow::Result<()> {
        let inputs = [ramp((3, 8))?, ramp((1, 8))?.flatten_all()?, ramp((8, 1))?.flatten_all()?];
        golden::gradients::check("layer norm", &inputs, 1e-7, |p| {
            let norm = LayerNorm { weight: p[1].clone(), bias: p[2].clone(), eps: 1e-5 };
            norm.forward(&p[0])?.sqr()?.sum_all()
        })?;
        golden::gradients::check("rms norm", &inputs[..2], 1e-7, |p| {
            let norm = RmsNorm { weight: p[1].clone(), eps: 1e-5 };
            norm.forward(&p[0])?.powf(3.0)?.sum_all()
        })
    }
}
