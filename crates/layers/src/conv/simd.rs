//! The two inner loops of the direct convolution, per instruction set.
//!
//! Both walk over a zero-padded plane as one long row ("positions"): tap `(ky, kx)`
//! of position `p` is at `p + ky * pitch + kx`, so that every load is contiguous
//! and no patch matrix is written. Positions beyond the right edge of the output
//! compute nonsense that is left out, or multiplied by zeros.

use crate::isa::Isa;

impl Isa {
    /// Positions of one call of [`Isa::block`]: two vectors.
    pub fn block_positions(self) -> usize {
        2 * self.lanes()
    }

    /// Output channels of one call of [`Isa::block`], at most.
    pub fn block_channels(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => 12,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => 4,
        }
    }

    /// Output channels of one call of [`Isa::taps`], at most.
    pub fn tap_channels(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => 8,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => 4,
        }
    }

    /// `out[m][i] = Σ_k weights[k][m] * input[offsets[k] + i]` for `m` in
    /// `0..channels` and `i` in `0..block_positions()`; `out` has rows of
    /// `block_positions()`.
    ///
    /// # Safety
    /// `input + offsets[k] .. + block_positions()` must be readable for every `k`;
    /// `weights` must hold `offsets.len() * channels` floats, `out` `channels` rows;
    /// `channels` is 1 to `block_channels()`.
    pub unsafe fn block(
        self,
        channels: usize,
        input: *const f32,
        offsets: &[usize],
        weights: &[f32],
        out: &mut [f32],
    ) {
        debug_assert!(weights.len() >= offsets.len() * channels);
        debug_assert!(out.len() >= channels * self.block_positions());
        // SAFETY: the features were detected when `self` was made; the rest is this
        // function's contract.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Self::Avx512 => match channels {
                    12 => avx512::block::<12>(input, offsets, weights, out),
                    11 => avx512::block::<11>(input, offsets, weights, out),
                    10 => avx512::block::<10>(input, offsets, weights, out),
                    9 => avx512::block::<9>(input, offsets, weights, out),
                    8 => avx512::block::<8>(input, offsets, weights, out),
                    7 => avx512::block::<7>(input, offsets, weights, out),
                    6 => avx512::block::<6>(input, offsets, weights, out),
                    5 => avx512::block::<5>(input, offsets, weights, out),
                    4 => avx512::block::<4>(input, offsets, weights, out),
                    3 => avx512::block::<3>(input, offsets, weights, out),
                    2 => avx512::block::<2>(input, offsets, weights, out),
                    _ => avx512::block::<1>(input, offsets, weights, out),
                },
                #[cfg(target_arch = "x86_64")]
                Self::Avx2 => match channels {
                    4 => avx2::block::<4>(input, offsets, weights, out),
                    3 => avx2::block::<3>(input, offsets, weights, out),
                    2 => avx2::block::<2>(input, offsets, weights, out),
                    _ => avx2::block::<1>(input, offsets, weights, out),
                },
            }
        }
    }

    /// `sums[m][t] = Σ_i grad[m * grad_stride + i] * input[t + i]` for `m` in
    /// `0..channels`, `t` in `0..3` and `i` in `0..len`.
    ///
    /// # Safety
    /// `input .. + len + 2` and `grad + m * grad_stride .. + len` must be readable;
    /// `len` is a multiple of `lanes()`; `channels` is 1 to `tap_channels()`.
    pub unsafe fn taps(
        self,
        channels: usize,
        input: *const f32,
        grad: *const f32,
        grad_stride: usize,
        len: usize,
        sums: &mut [[f32; 3]],
    ) {
        debug_assert!(sums.len() >= channels && len.is_multiple_of(self.lanes()));
        // SAFETY: as in `block`.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Self::Avx512 => match channels {
                    8 => avx512::taps::<8>(input, grad, grad_stride, len, sums),
                    7 => avx512::taps::<7>(input, grad, grad_stride, len, sums),
                    6 => avx512::taps::<6>(input, grad, grad_stride, len, sums),
                    5 => avx512::taps::<5>(input, grad, grad_stride, len, sums),
                    4 => avx512::taps::<4>(input, grad, grad_stride, len, sums),
                    3 => avx512::taps::<3>(input, grad, grad_stride, len, sums),
                    2 => avx512::taps::<2>(input, grad, grad_stride, len, sums),
                    _ => avx512::taps::<1>(input, grad, grad_stride, len, sums),
                },
                #[cfg(target_arch = "x86_64")]
                Self::Avx2 => match channels {
                    4 => avx2::taps::<4>(input, grad, grad_stride, len, sums),
                    3 => avx2::taps::<3>(input, grad, grad_stride, len, sums),
                    2 => avx2::taps::<2>(input, grad, grad_stride, len, sums),
                    _ => avx2::taps::<1>(input, grad, grad_stride, len, sums),
                },
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
macro_rules! kernels {
    ($set:ident, $feature:literal, $lanes:literal, $zero:ident, $load:ident, $store:ident,
     $splat:ident, $fma:ident) => {
        mod $set {
            use std::arch::x86_64::*;

            /// See [`super::Isa::block`].
            ///
            /// # Safety
            /// As there, and the machine must have the instruction set.
            #[target_feature(enable = $feature)]
            pub unsafe fn block<const M: usize>(
                input: *const f32,
                offsets: &[usize],
                weights: &[f32],
                out: &mut [f32],
            ) {
                let mut sums = [[$zero(); 2]; M];
                for (&offset, weights) in offsets.iter().zip(weights.chunks_exact(M)) {
                    // SAFETY: two vectors at `input + offset` are readable (contract).
                    let a = unsafe { $load(input.add(offset)) };
                    // SAFETY: as above.
                    let b = unsafe { $load(input.add(offset + $lanes)) };
                    for m in 0..M {
                        let weight = $splat(weights[m]);
                        sums[m][0] = $fma(weight, a, sums[m][0]);
                        sums[m][1] = $fma(weight, b, sums[m][1]);
                    }
                }
                for (row, sums) in out.chunks_exact_mut(2 * $lanes).zip(&sums) {
                    // SAFETY: the row has two vectors.
                    unsafe {
                        $store(row.as_mut_ptr(), sums[0]);
                        $store(row.as_mut_ptr().add($lanes), sums[1]);
                    }
                }
            }

            /// See [`super::Isa::taps`].
            ///
            /// # Safety
            /// As there, and the machine must have the instruction set.
            #[target_feature(enable = $feature)]
            pub unsafe fn taps<const M: usize>(
                input: *const f32,
                grad: *const f32,
                grad_stride: usize,
                len: usize,
                out: &mut [[f32; 3]],
            ) {
                let mut sums = [[$zero(); 3]; M];
                for i in (0..len).step_by($lanes) {
                    // SAFETY: `len + 2` floats at `input` are readable (contract).
                    let (a, b, c) = unsafe {
                        ($load(input.add(i)), $load(input.add(i + 1)), $load(input.add(i + 2)))
                    };
                    for m in 0..M {
                        // SAFETY: `len` floats of row `m` are readable (contract).
                        let grad = unsafe { $load(grad.add(m * grad_stride + i)) };
                        sums[m][0] = $fma(grad, a, sums[m][0]);
                        sums[m][1] = $fma(grad, b, sums[m][1]);
                        sums[m][2] = $fma(grad, c, sums[m][2]);
                    }
                }
                for (out, sums) in out.iter_mut().zip(&sums) {
                    for (out, sum) in out.iter_mut().zip(sums) {
                        let mut lanes = [0.0_f32; $lanes];
                        // SAFETY: `lanes` has room for one vector.
                        unsafe { $store(lanes.as_mut_ptr(), *sum) };
                        *out = lanes.iter().sum();
                    }
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
kernels!(
    avx512,
    "avx512f",
    16,
    _mm512_setzero_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_set1_ps,
    _mm512_fmadd_ps
);
#[cfg(target_arch = "x86_64")]
kernels!(
    avx2,
    "avx2,fma",
    8,
    _mm256_setzero_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_set1_ps,
    _mm256_fmadd_ps
);
