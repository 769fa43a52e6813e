//! Vectors of f32 for kernels that are written once for every instruction set.
//!
//! A kernel is a generic `#[inline(always)]` function over [`Vector`], called from
//! one `#[target_feature]` function per instruction set ([`run`]): inlined there,
//! its operations become single instructions.

use crate::isa::Isa;

pub mod functions;
mod portable;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use portable::Portable;

/// A register of `LANES` floats.
pub trait Vector: Copy {
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

    /// [`Vector::store`] past the caches, where the machine can: for what fills whole lines
    /// and is not read soon. [`Vector::fence`] must follow before another thread reads it.
    ///
    /// # Safety
    /// As for [`Vector::store`], and `to` must be a multiple of the vector's size.
    #[inline(always)]
    unsafe fn stream(self, to: *mut f32) {
        // SAFETY: this function's contract.
        unsafe { self.store(to) }
    }

    /// What was streamed is there for everybody.
    #[inline(always)]
    fn fence() {}

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

    /// `self * by`.
    ///
    /// # Safety
    /// As for [`Vector::splat`].
    unsafe fn times(self, by: Self) -> Self;

    /// `self * by + plus`, rounded once where the machine can.
    ///
    /// # Safety
    /// As for [`Vector::splat`].
    unsafe fn mul_add(self, by: Self, plus: Self) -> Self;

    /// `1 / self` within 1e-7 relative, for what is neither infinite nor subnormal, nor its
    /// reciprocal.
    ///
    /// # Safety
    /// As for [`Vector::splat`].
    unsafe fn reciprocal(self) -> Self;

    /// The greater of each lane; NaN where `self` is.
    ///
    /// # Safety
    /// As for [`Vector::splat`].
    unsafe fn at_least(self, least: Self) -> Self;

    /// The lesser of each lane; NaN where `self` is.
    ///
    /// # Safety
    /// As for [`Vector::splat`].
    unsafe fn at_most(self, most: Self) -> Self;

    /// `self * 2^n`, for whole numbers `n` from -126 to 127.
    ///
    /// # Safety
    /// As for [`Vector::splat`].
    unsafe fn times_power(self, n: Self) -> Self;

    /// The sum of the lanes: of their halves, of the halves of those, and so on.
    ///
    /// # Safety
    /// As for [`Vector::splat`].
    unsafe fn sum(self) -> f32;

    /// The `LANES` numbers at `from`, whose bits are the upper half of an f32's (bf16).
    ///
    /// # Safety
    /// As for [`Vector::splat`], and the numbers must be readable.
    unsafe fn load_bf16(from: *const u16) -> Self;

    /// The `LANES` half-precision numbers (f16) at `from`.
    ///
    /// # Safety
    /// As for [`Vector::splat`], and the numbers must be readable.
    unsafe fn load_f16(from: *const u16) -> Self;

    /// All lanes the half-precision number (f16) of these bits.
    ///
    /// # Safety
    /// As for [`Vector::splat`].
    unsafe fn splat_f16(bits: u16) -> Self;

    /// The `LANES` integers at `from`.
    ///
    /// # Safety
    /// As for [`Vector::splat`], and the integers must be readable.
    unsafe fn load_i8(from: *const i8) -> Self;

    /// Of the `LANES` bytes at `from` the lower or the upper four bits, 0 to 15.
    ///
    /// # Safety
    /// As for [`Vector::splat`], and the bytes must be readable.
    unsafe fn load_nibbles(from: *const u8, upper: bool) -> Self;

    /// Of each lane the number of `self` and that of `second` as a word of two bf16, see
    /// [`crate::tiles::bf16_pair`].
    ///
    /// # Safety
    /// As for [`Vector::splat`].
    unsafe fn bf16_pairs(self, second: Self) -> Self;

    /// The numbers of `self`, then those of `next`, each two neighbours a word of two bf16.
    ///
    /// # Safety
    /// As for [`Vector::splat`].
    unsafe fn bf16_row(self, next: Self) -> Self;

    /// Each lane with the lower half of its bits zero: a number of bf16, nearer to 0.
    ///
    /// # Safety
    /// As for [`Vector::splat`].
    unsafe fn upper(self) -> Self;

    /// Each lane as the nearest number of bf16, of two the one further from 0: half a unit is
    /// added to the bits, and the lower half cut off. What is larger than all of bf16 becomes
    /// infinite, and some NaN become 0 (but not what is left of them).
    ///
    /// # Safety
    /// As for [`Vector::splat`].
    unsafe fn nearest_upper(self) -> Self;

    /// [`Vector::bf16_pairs`] of numbers of bf16.
    ///
    /// # Safety
    /// As for [`Vector::splat`].
    unsafe fn upper_pairs(self, second: Self) -> Self;

    /// [`Vector::bf16_row`] of numbers of bf16.
    ///
    /// # Safety
    /// As for [`Vector::splat`].
    unsafe fn upper_row(self, next: Self) -> Self;

    /// Asks for the line of the cache that holds `address`, which may be anything.
    #[inline(always)]
    fn prefetch(address: *const f32) {
        let _ = address;
    }

    /// [`Vector::prefetch`] into the second-level cache alone, for what is read much later.
    #[inline(always)]
    fn prefetch_far(address: *const f32) {
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
pub const MAX_LANES: usize = 16;

/// Lanes of the vectors of an instruction set.
pub fn lanes(isa: Option<Isa>) -> usize {
    isa.map_or(Portable::LANES, Isa::lanes)
}

/// [`Vector::PAIRS`] of an instruction set.
pub fn pairs(isa: Option<Isa>) -> usize {
    isa.map_or(Portable::PAIRS, Isa::pairs)
}

/// A part of a computation, for one thread.
pub trait Kernel {
    /// Does it.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`.
    unsafe fn run<S: Vector>(self);
}

/// Runs `kernel` with the vectors of an instruction set that was detected.
pub fn run(isa: Option<Isa>, kernel: impl Kernel) {
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
