//! Nearest upsampling as a candle custom op, for f32 on the CPU and for what NVIDIA GPUs
//! take.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::cpu;
use crate::shared_mut::SharedMut;

/// [`super::plain::upsample_nearest2x`] where there are kernels, with gradient.
pub(super) struct UpsampleOp;

impl CustomOp1 for UpsampleOp {
    fn name(&self) -> &'static str {
        "upsample_nearest2x"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (b, c, h, w) = layout.shape().dims4()?;
        let x = cpu::slice(x, layout)?;
        let mut y = Vec::with_capacity(4 * x.len());
        let target = SharedMut::new_spare(&mut y);
        x.par_chunks_exact((h * w).max(1)).enumerate().for_each(|(plane, x)| {
            for (row, x) in x.chunks_exact(w).enumerate() {
                let at = 4 * plane * h * w + 4 * row * w;
                // SAFETY: two rows of this plane, which no other task has.
                unsafe { twice(x, target.range(at, 4 * w)) }
            }
        });
        // SAFETY: every row was written.
        unsafe { y.set_len(4 * x.len()) }
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
    if let Some(plus) = plus.filter(|plus| plus.dims() != [b, c, h, w]) {
        candle_core::bail!("upsample: {:?} and the gradient of {:?}", plus.shape(), grad.shape())
    }
    let len = b * c * h * w;
    let mut dx = Vec::with_capacity(len);
    let target = SharedMut::new_spare(&mut dx);
    // `grad` stands in for what is not there.
    cpu::with_slices([grad, plus.unwrap_or(grad)], |[dy, other]| {
        dy.par_chunks_exact((4 * h * w).max(1)).enumerate().for_each(|(plane, dy)| {
            for (row, dy) in dy.chunks_exact(4 * w).enumerate() {
                let (above, below) = dy.split_at(2 * w);
                let pairs = above.chunks_exact(2).zip(below.chunks_exact(2));
                let sums = pairs.map(|(a, b)| (a[0] + a[1]) + (b[0] + b[1]));
                let at = (plane * h + row) * w;
                // SAFETY: a row of this plane, which no other task has.
                unsafe {
                    match plus {
                        None => target.write(at, w, sums),
                        Some(_) => {
                            let sums = sums.zip(&other[at..at + w]);
                            target.write(at, w, sums.map(|(sum, other)| sum + other));
                        }
                    }
                }
            }
        });
    })?;
    // SAFETY: every row was written.
    unsafe { dx.set_len(len) }
    Tensor::from_vec(dx, (b, c, h, w), grad.device())
}

/// Writes every pixel of a row twice, and the row so made twice.
///
/// # Safety
/// There must be room for both at `to`, which nothing else uses.
unsafe fn twice(row: &[f32], to: *mut f32) {
    for (i, &pixel) in row.iter().enumerate() {
        // SAFETY: two pixels of the first row (contract).
        unsafe {
            to.add(2 * i).write(pixel);
            to.add(2 * i + 1).write(pixel);
        }
    }
    // SAFETY: the second row is behind the first (contract), which was written.
    unsafe { to.add(2 * row.len()).copy_from_nonoverlapping(to, 2 * row.len()) }
}
