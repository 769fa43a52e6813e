//! Weights and inputs by a formula that Python has too (`peers/protocol.py`).
//!
//! Hashed numbers stand in for trained weights: dense, of the right size, and the
//! same everywhere without a file.

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use super::device::device;

/// Numbers in `[-scale, scale)`, a function of (name, index) alone.
pub fn pattern(name: &str, shape: impl Into<Shape>, scale: f64) -> Result<Tensor> {
    let shape = shape.into();
    // FNV-1a, 32 bits.
    let seed = name
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let values = (0..shape.elem_count() as u32).map(|index| {
        let mut x = index.wrapping_add(seed).wrapping_mul(2_654_435_761);
        x ^= x >> 15;
        x = x.wrapping_mul(2_246_822_519);
        x ^= x >> 13;
        // 24 bits, which f32 holds exactly.
        ((x >> 8) as f32 / (1 << 23) as f32 - 1.0) * scale as f32
    });
    Tensor::from_vec(values.collect::<Vec<_>>(), shape, device())
}

/// The value of the parameter `name`.
pub fn parameter(name: &str, shape: &Shape) -> Result<Tensor> {
    parameter_of(name, shape, 1.0)
}

/// The value of the parameter `name`; `matrices` is the scale of those.
fn parameter_of(name: &str, shape: &Shape, matrices: f64) -> Result<Tensor> {
    let last = name.rsplit('.').next().unwrap_or(name);
    match (shape.dims(), last) {
        (&[_, i, h, w], _) => pattern(name, shape, 1.0 / ((i * h * w) as f64).sqrt()),
        (&[_, _], _) => pattern(name, shape, matrices),
        (_, "weight" | "running_var") => Tensor::ones(shape, DType::F32, device()),
        (_, "running_mean") => Tensor::zeros(shape, DType::F32, device()),
        _ => pattern(name, shape, 0.1),
    }
}

/// A builder of models whose weights are [`parameter`]s.
pub fn builder(dtype: DType) -> VarBuilder<'static> {
    builder_of(dtype, 1.0)
}

/// The same with matrices of the scale `matrices`.
pub fn builder_of(dtype: DType, matrices: f64) -> VarBuilder<'static> {
    let parameters = Parameters { matrices, convolutions: None };
    VarBuilder::from_backend(Box::new(parameters), dtype, device().clone())
}

/// Those of a codec: of half precision on a CPU are its convolutions alone.
pub fn codec_builder(dtype: DType) -> VarBuilder<'static> {
    if !device().is_cpu() {
        return builder(dtype);
    }
    let parameters = Parameters { matrices: 1.0, convolutions: Some(dtype) };
    VarBuilder::from_backend(Box::new(parameters), DType::F32, device().clone())
}

struct Parameters {
    matrices: f64,
    /// The dtype of weights of convolutions, where it is another.
    convolutions: Option<DType>,
}

impl SimpleBackend for Parameters {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _hint: Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let dtype = self.convolutions.filter(|_| shape.rank() == 4).unwrap_or(dtype);
        parameter_of(name, &shape, self.matrices)?.to_dtype(dtype)?.to_device(device)
    }

    fn get_unchecked(&self, name: &str, _dtype: DType, _device: &Device) -> Result<Tensor> {
        candle_core::bail!("parameter {name} has no shape")
    }

    fn contains_tensor(&self, _name: &str) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers that `peers/protocol.py` gives.
    #[test]
    fn agrees_with_python() -> anyhow::Result<()> {
        let values = pattern("conv_in.weight", 4, 1.0)?.to_vec1::<f32>()?;
        assert_eq!(values, PYTHON);
        Ok(())
    }

    const PYTHON: [f32; 4] = [0.614_664_55, 0.485_047_94, 0.683_178_3, -0.756_652];
}
