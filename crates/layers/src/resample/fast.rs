//! Nearest upsampling as a candle custom op, for f32 on the CPU and for what NVIDIA GPUs
//! take.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::cpu;
use crate::tape::sum;

/// [`super::plain::upsample_nearest2x`] where there are kernels, with gradient.
pub(super) struct UpsampleOp;

impl CustomOp1 for UpsampleOp {
    fn name(&self) -> &'static str {
        "upsample_nearest2x"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (b, c, h, w) = layout.shape().dims4()?;
        let x = cpu::slice(x, layout)?;
        let mut y = vec![0.0_f32; 4 * x.len()];
        if !x.is_empty() {
            y.par_chunks_exact_mut(4 * h * w).zip(x.par_chunks_exact(h * w)).for_each(|(y, x)| {
                for (y, x) in y.chunks_exact_mut(4 * w).zip(x.chunks_exact(w)) {
                    let (above, below) = y.split_at_mut(2 * w);
                    above.chunks_exact_mut(2).zip(x).for_each(|(y, x)| y.fill(*x));
                    below.copy_from_slice(above);
                }
            });
        }
        Ok((CpuStorage::F32(y), Shape::from((b, c, 2 * h, 2 * w))))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        super::cuda::forward(x, layout)
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        gradient(grad, None).map(Some)
    }
}

/// The sums of 2x2 blocks, and `plus`: `[B, C, 2H, 2W]` to `[B, C, H, W]`.
pub(super) fn gradient(grad: &Tensor, plus: Option<&Tensor>) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if grad.device().is_cuda() {
        return super::cuda::gradient(grad, plus);
    }
    let (b, c, h2, w2) = grad.dims4()?;
    let (h, w) = (h2 / 2, w2 / 2);
    let mut dx = vec![0.0_f32; b * c * h * w];
    if !dx.is_empty() {
        cpu::with_slices([grad], |[dy]| {
            let planes = dx.par_chunks_exact_mut(h * w).zip(dy.par_chunks_exact(4 * h * w));
            planes.for_each(|(dx, dy)| {
                for (dx, dy) in dx.chunks_exact_mut(w).zip(dy.chunks_exact(4 * w)) {
                    let (above, below) = dy.split_at(2 * w);
                    let pairs = above.chunks_exact(2).zip(below.chunks_exact(2));
                    for (dx, (a, b)) in dx.iter_mut().zip(pairs) {
                        *dx = (a[0] + a[1]) + (b[0] + b[1]);
                    }
                }
            });
        })?;
    }
    sum(Tensor::from_vec(dx, (b, c, h, w), grad.device())?, plus)
}
