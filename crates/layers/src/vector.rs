//! Vectors of f32 for kernels that are written once for every instruction set.
//!
//! A kernel is a generic `#[inline(always)]` function over [`Vector`], called from
//! one `#[target_feature]` function per instruction set ([`run`]): inlined there,
//! its operations become single instructions.

use crate::isa::Isa;

/// A register of `LANES` floats.
pub(crate) trait Vector: Copy {
    /// Floats in it.
    const LANES: usize;
    /// How many pairs of such registers hold sums, next to those that a product needs.
    const PAIRS: usize;

    /// All lanes `value`.
    ///
    /// # Safety
    /// The machine must have the instruction set.
    unsafe fn splat(value: f32) -> Self;

    /// The `LANES` floats at `from`.
    ///
    /// # Safety
    /// As for [`Vector::splat`], and the floats must be readable.
    unsafe fn load(from: *const f32) -> Self;

    /// Writes the lanes to `to`.
    ///
    /// # Safety
    /// As for [`Vector::splat`], and the floats must be writable.
    unsafe fn store(self, to: *mut f32);

    /// `self + other`.
    ///
    /// # Safety
    /// As for [`Vector::splat`].
    unsafe fn plus(self, other: Self) -> Self;

    /// `self - other`.
    ///
    /// # Safety
    /// As for [`Vector::splat`].
    unsafe fn minus(self, other: Self) -> Self;

    /// `self * by + plus`, rounded once where the machine can.
    ///
    /// # Safety
    /// As for [`Vector::splat`].
    unsafe fn mul_add(self, by: Self, plus: Self) -> Self;

    /// Asks for the line of the cache that holds `address`, which may be anything.
    #[inline(always)]
    fn prefetch(address: *const f32) {
        let _ = address;
    }

    /// Transposes the `LANES` x `LANES` floats at `from`, rows `from_stride`
    /// apart, to `to`, rows `to_stride` apart.
    ///
    /// # Safety
    /// As for [`Vector::splat`]; all rows of `from` must be readable, those of `to`
    /// writable, and they must not overlap.
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize);
}

/// The most lanes of any vector.
pub(crate) const MAX_LANES: usize = 16;

/// Lanes of the vectors of an instruction set.
pub(crate) fn lanes(isa: Option<Isa>) -> usize {
    isa.map_or(Portable::LANES, Isa::lanes)
}

/// A part of a computation, for one thread.
pub(crate) trait Kernel {
    /// Does it.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`.
    unsafe fn run<S: Vector>(self);
}

/// Runs `kernel` with the vectors of an instruction set that was detected.
pub(crate) fn run(isa: Option<Isa>, kernel: impl Kernel) {
    match isa {
        // SAFETY: an `Isa` is only made where it was detected.
        #[cfg(target_arch = "x86_64")]
        Some(Isa::Avx512) => unsafe { x86::avx512(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Some(Isa::Avx2) => unsafe { x86::avx2(kernel) },
        // SAFETY: the portable vectors need no instruction set.
        _ => unsafe { kernel.run::<Portable>() },
    }
}

/// For machines without an instruction set of their own here: arrays that the
/// compiler puts into whatever registers there are.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; 8]);

impl Vector for Portable {
    const LANES: usize = 8;
    const PAIRS: usize = 6;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 8])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: readable by contract; arrays of floats need no more alignment than one.
        Self(unsafe { from.cast::<[f32; 8]>().read() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: writable by contract.
        unsafe { to.cast::<[f32; 8]>().write(self.0) }
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] + other.0[i]))
    }

    #[inline(always)]
    unsafe fn minus(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] - other.0[i]))
    }

    #[inline(always)]
    unsafe fn mul_add(self, by: Self, plus: Self) -> Self {
        // `f32::mul_add` is a call into libm where the machine has no such instruction.
        Self(std::array::from_fn(|i| self.0[i] * by.0[i] + plus.0[i]))
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        for row in 0..8 {
            for column in 0..8 {
                // SAFETY: within the rows (contract).
                unsafe { *to.add(column * to_stride + row) = *from.add(row * from_stride + column) }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Kernel, Vector};

    /// # Safety
    /// The machine must have AVX-512.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn avx512(kernel: impl Kernel) {
        // SAFETY: this function's contract.
        unsafe { kernel.run::<__m512>() }
    }

    /// # Safety
    /// The machine must have AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn avx2(kernel: impl Kernel) {
        // SAFETY: this function's contract.
        unsafe { kernel.run::<__m256>() }
    }

    impl Vector for __m512 {
        const LANES: usize = 16;
        const PAIRS: usize = 12;

        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: the machine has AVX-512 (contract).
            unsafe { _mm512_set1_ps(value) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: as above; readable by contract.
            unsafe { _mm512_loadu_ps(from) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as above; writable by contract.
            unsafe { _mm512_storeu_ps(to, self) }
        }

        #[inline(always)]
        unsafe fn plus(self, other: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm512_add_ps(self, other) }
        }

        #[inline(always)]
        unsafe fn minus(self, other: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm512_sub_ps(self, other) }
        }

        #[inline(always)]
        unsafe fn mul_add(self, by: Self, plus: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm512_fmadd_ps(self, by, plus) }
        }

        #[inline(always)]
        fn prefetch(address: *const f32) {
            // SAFETY: a hint, which reads nothing.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
        }

        #[inline(always)]
        unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
            // SAFETY: as above; all rows are readable and writable by contract. Four rows
            // become 4x4 blocks within 128-bit lanes, then the lanes change places.
            unsafe {
                let mut rows = [_mm512_setzero_ps(); 16];
                for (i, row) in rows.iter_mut().enumerate() {
                    *row = _mm512_loadu_ps(from.add(i * from_stride));
                }
                for four in rows.chunks_exact_mut(4) {
                    let a = _mm512_unpacklo_ps(four[0], four[1]);
                    let b = _mm512_unpackhi_ps(four[0], four[1]);
                    let c = _mm512_unpacklo_ps(four[2], four[3]);
                    let d = _mm512_unpackhi_ps(four[2], four[3]);
                    four[0] = _mm512_shuffle_ps::<0x44>(a, c);
                    four[1] = _mm512_shuffle_ps::<0xEE>(a, c);
                    four[2] = _mm512_shuffle_ps::<0x44>(b, d);
                    four[3] = _mm512_shuffle_ps::<0xEE>(b, d);
                }
                for i in 0..4 {
                    let a = _mm512_shuffle_f32x4::<0x88>(rows[i], rows[4 + i]);
                    let b = _mm512_shuffle_f32x4::<0xDD>(rows[i], rows[4 + i]);
                    let c = _mm512_shuffle_f32x4::<0x88>(rows[8 + i], rows[12 + i]);
                    let d = _mm512_shuffle_f32x4::<0xDD>(rows[8 + i], rows[12 + i]);
                    let columns = [
                        _mm512_shuffle_f32x4::<0x88>(a, c),
                        _mm512_shuffle_f32x4::<0x88>(b, d),
                        _mm512_shuffle_f32x4::<0xDD>(a, c),
                        _mm512_shuffle_f32x4::<0xDD>(b, d),
                    ];
                    for (lane, column) in columns.into_iter().enumerate() {
                        _mm512_storeu_ps(to.add((4 * lane + i) * to_stride), column);
                    }
                }
            }
        }
    }

    impl Vector for __m256 {
        const LANES: usize = 8;
        const PAIRS: usize = 6;

        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: the machine has AVX2 and FMA (contract).
            unsafe { _mm256_set1_ps(value) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: as above; readable by contract.
            unsafe { _mm256_loadu_ps(from) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as above; writable by contract.
            unsafe { _mm256_storeu_ps(to, self) }
        }

        #[inline(always)]
        unsafe fn plus(self, other: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm256_add_ps(self, other) }
        }

        #[inline(always)]
        unsafe fn minus(self, other: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm256_sub_ps(self, other) }
        }

        #[inline(always)]
        unsafe fn mul_add(self, by: Self, plus: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm256_fmadd_ps(self, by, plus) }
        }

        #[inline(always)]
        fn prefetch(address: *const f32) {
            // SAFETY: a hint, which reads nothing.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
        }

        #[inline(always)]
        unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
            // SAFETY: as above; all rows are readable and writable by contract. The same
            // scheme as with 16 lanes.
            unsafe {
                let mut rows = [_mm256_setzero_ps(); 8];
                for (i, row) in rows.iter_mut().enumerate() {
                    *row = _mm256_loadu_ps(from.add(i * from_stride));
                }
                for four in rows.chunks_exact_mut(4) {
                    let a = _mm256_unpacklo_ps(four[0], four[1]);
                    let b = _mm256_unpackhi_ps(four[0], four[1]);
                    let c = _mm256_unpacklo_ps(four[2], four[3]);
                    let d = _mm256_unpackhi_ps(four[2], four[3]);
                    four[0] = _mm256_shuffle_ps::<0x44>(a, c);
                    four[1] = _mm256_shuffle_ps::<0xEE>(a, c);
                    four[2] = _mm256_shuffle_ps::<0x44>(b, d);
                    four[3] = _mm256_shuffle_ps::<0xEE>(b, d);
                }
                for i in 0..4 {
                    let low = _mm256_permute2f128_ps::<0x20>(rows[i], rows[4 + i]);
                    let high = _mm256_permute2f128_ps::<0x31>(rows[i], rows[4 + i]);
                    _mm256_storeu_ps(to.add(i * to_stride), low);
                    _mm256_storeu_ps(to.add((4 + i) * to_stride), high);
                }
            }
        }
    }
}
