//! The registers of AVX-512 and AVX2.

use std::arch::x86_64::{__m256, __m512};

use super::Kernel;

mod avx2;
mod avx512;

/// # Safety
/// The machine must have AVX-512.
#[target_feature(enable = "avx512f")]
pub unsafe fn avx512(kernel: impl Kernel) {
    // SAFETY: this function's contract.
    unsafe { kernel.run::<__m512>() }
}

/// # Safety
/// The machine must have AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn avx2(kernel: impl Kernel) {
    // SAFETY: this function's contract.
    unsafe { kernel.run::<__m256>() }
}
