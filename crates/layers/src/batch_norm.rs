//! Batch norm (Ioffe & Szegedy 2015) by the statistics of a batch, with the leaky ReLU
//! that follows it in a PatchGAN, on a tape: for f32 on the CPU and on NVIDIA GPUs.

use candle_core::{DType, Result, Tensor};

use crate::cpu;
use crate::tape::Tape;

#[cfg(feature = "cuda")]
mod cuda;
mod kernels;

/// A batch norm with its activation: `leaky(weight * (x - mean) / sqrt(variance + eps)
/// + bias)`.
#[derive(Clone, Debug)]
pub struct BatchNormLeaky {
    /// `[C]`.
    pub weight: Tensor,
    /// `[C]`.
    pub bias: Tensor,
    /// Added to the variance.
    pub eps: f64,
    /// What negative values are multiplied by; 1 for no activation.
    pub slope: f64,
}

/// The statistics of a batch.
pub struct BatchStatistics {
    /// Per channel, `[C]`.
    pub mean: Tensor,
    /// Per channel, `[C]`, by the number of values less one.
    pub unbiased_variance: Tensor,
}

impl BatchNormLeaky {
    /// Whether [`forward_taped`](Self::forward_taped) takes `x`.
    pub fn supports(&self, x: &Tensor) -> bool {
        let tensors = [x, &self.weight, &self.bias];
        crate::device::has_kernels(&tensors) && x.dtype() == DType::F32
    }

    /// `[B, C, H, W]` to the same shape, and the statistics of `x`.
    ///
    /// # Errors
    /// When `x` has other than `C` channels or fewer than two values in each, is not
    /// [supported](Self::supports), or a parameter was computed from variables.
    pub fn forward_taped(&self, x: &Tensor, tape: &mut Tape) -> Result<(Tensor, BatchStatistics)> {
        let (b, c, h, w) = x.dims4()?;
        let n = b * h * w;
        if self.weight.dims() != [c] || self.bias.dims() != [c] || n < 2 {
            candle_core::bail!(
                "batch_norm: {:?} for {} channels with at least two values each",
                x.shape(),
                self.weight.elem_count()
            )
        }
        let shape = kernels::Shape { batch: b, channels: c, pixels: h * w };
        #[cfg(feature = "cuda")]
        if self.supports(x) && x.device().is_cuda() {
            return self.on_gpu(shape, x, tape);
        }
        let found = cpu::with_slices([x], |[x]| kernels::moments(shape, x))?;
        let unbiased = n as f64 / (n - 1) as f64;
        let column = |of: &dyn Fn(&(f64, f64)) -> f64| {
            Tensor::from_iter(found.iter().map(|m| of(m) as f32), x.device())
        };
        let statistics = BatchStatistics {
            mean: column(&|&(mean, _)| mean)?,
            unbiased_variance: column(&|&(_, variance)| variance * unbiased)?,
        };
        // Mean and reciprocal of the standard deviation.
        let eps = self.eps;
        let scales =
            found.iter().map(|&(mean, var)| (mean as f32, (1.0 / (var + eps).sqrt()) as f32));
        let scales: Vec<(f32, f32)> = scales.collect();
        let slope = self.slope as f32;
        let tensors = [x, &self.weight, &self.bias];
        let y = cpu::with_slices(tensors, |[x, weight, bias]| {
            kernels::forward(shape, x, weight, bias, &scales, slope)
        })?;
        let y = Tensor::from_vec(y, x.shape(), x.device())?;

        let trains = (tape.wants(&self.weight)?, tape.wants(&self.bias)?);
        let (norm, x) = (self.clone(), x.detach());
        tape.push(move |dy, plus, gradients| {
            if dy.shape() != x.shape() {
                candle_core::bail!("batch_norm: a gradient {:?} for {:?}", dy.shape(), x.shape())
            }
            // `x` stands in for what is not there.
            let tensors = [&x, &norm.weight, &norm.bias, dy, plus.unwrap_or(&x)];
            let (dx, dweight, dbias) =
                cpu::with_slices(tensors, |[x, weight, bias, dy, other]| {
                    let plus = plus.is_some().then_some(other);
                    kernels::backward(shape, x, weight, bias, &scales, slope, dy, plus)
                })?;
            if trains.0 {
                gradients.add(&norm.weight, Tensor::from_vec(dweight, c, dy.device())?)?;
            }
            if trains.1 {
                gradients.add(&norm.bias, Tensor::from_vec(dbias, c, dy.device())?)?;
            }
            Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
        });
        Ok((y, statistics))
    }

    /// The same on an NVIDIA GPU.
    #[cfg(feature = "cuda")]
    fn on_gpu(
        &self,
        shape: kernels::Shape,
        x: &Tensor,
        tape: &mut Tape,
    ) -> Result<(Tensor, BatchStatistics)> {
        let (norm, x) = (self.clone(), x.detach());
        let (y, stats, statistics) = cuda::forward(shape, &norm, &x)?;
        let trains = (tape.wants(&self.weight)?, tape.wants(&self.bias)?);
        tape.push(move |dy, plus, gradients| {
            if [Some(dy), plus].into_iter().flatten().any(|t| t.shape() != x.shape()) {
                candle_core::bail!("batch_norm: a gradient {:?} for {:?}", dy.shape(), x.shape())
            }
            let [dx, dweight, dbias] = cuda::backward(shape, &norm, &x, &stats, dy, plus)?;
            if trains.0 {
                gradients.add(&norm.weight, dweight)?;
            }
            if trains.1 {
                gradients.add(&norm.bias, dbias)?;
            }
            Ok(Some(dx))
        });
        Ok((y, statistics))
    }
}
