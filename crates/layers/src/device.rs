//! Which tensors have kernels here.

use candle_core::Tensor;

/// Whether kernels can take these tensors together: those of the CPU, or those of NVIDIA
/// GPUs.
pub(crate) fn has_kernels(tensors: &[&Tensor]) -> bool {
    #[cfg(feature = "cuda")]
    if crate::cuda::supports(tensors) {
        return true;
    }
    tensors.iter().all(|t| crate::cpu::supports(t))
}
