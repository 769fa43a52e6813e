//! How the numbers of a matrix's rows lie in memory.

use simd::elementary::{bf16_to_f32, f16_to_f32};
use simd::vector::Vector;

/// A format of rows of numbers, read as f32 without rounding.
pub(crate) trait Format: Copy + Send + Sync {
    /// Numbers that share a scale; 1 where each stands alone. Rows are whole blocks.
    const BLOCK: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// What the numbers of a block are multiplied with.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`; `at`, the start of a block,
    /// must lie within the row.
    #[inline(always)]
    unsafe fn scale<S: Vector>(row: *const u8, at: usize) -> S {
        let _ = (row, at);
        // SAFETY: the instruction set is there (contract).
        unsafe { S::splat(1.0) }
    }

    /// The numbers from `at + offset` on; `at` is the start of their block and `scale`
    /// its scale.
    ///
    /// # Safety
    /// As for [`Format::scale`], and `S::LANES` numbers must be within the row, and the
    /// block if that is longer than 1.
    unsafe fn load<S: Vector>(row: *const u8, at: usize, offset: usize, scale: S) -> S;

    /// Number `at`, where `BLOCK` is 1.
    ///
    /// # Safety
    /// `at` must be within the row.
    unsafe fn one(row: *const u8, at: usize) -> f32;
}

/// f32.
#[derive(Clone, Copy)]
pub(crate) struct Single;

impl Format for Single {
    const BLOCK: usize = 1;
    const BYTES: usize = 4;

    #[inline(always)]
    unsafe fn load<S: Vector>(row: *const u8, at: usize, offset: usize, _: S) -> S {
        // SAFETY: within the row (contract).
        unsafe { S::load(row.cast::<f32>().add(at + offset)) }
    }

    #[inline(always)]
    unsafe fn one(row: *const u8, at: usize) -> f32 {
        // SAFETY: within the row (contract).
        unsafe { row.cast::<f32>().add(at).read() }
    }
}

/// bf16.
#[derive(Clone, Copy)]
pub(crate) struct Brain;

impl Format for Brain {
    const BLOCK: usize = 1;
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<S: Vector>(row: *const u8, at: usize, offset: usize, _: S) -> S {
        // SAFETY: within the row (contract).
        unsafe { S::load_bf16(row.cast::<u16>().add(at + offset)) }
    }

    #[inline(always)]
    unsafe fn one(row: *const u8, at: usize) -> f32 {
        // SAFETY: within the row (contract).
        bf16_to_f32(unsafe { row.cast::<u16>().add(at).read() })
    }
}

/// f16.
#[derive(Clone, Copy)]
pub(crate) struct Half;

impl Format for Half {
    const BLOCK: usize = 1;
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<S: Vector>(row: *const u8, at: usize, offset: usize, _: S) -> S {
        // SAFETY: within the row (contract).
        unsafe { S::load_f16(row.cast::<u16>().add(at + offset)) }
    }

    #[inline(always)]
    unsafe fn one(row: *const u8, at: usize) -> f32 {
        // SAFETY: within the row (contract).
        f16_to_f32(unsafe { row.cast::<u16>().add(at).read() })
    }
}

/// GGML's `Q8_0`: an f16 scale, then 32 integers of 8 bits.
#[derive(Clone, Copy)]
pub(crate) struct Eight;

impl Format for Eight {
    const BLOCK: usize = 32;
    const BYTES: usize = 34;

    #[inline(always)]
    unsafe fn scale<S: Vector>(row: *const u8, at: usize) -> S {
        // SAFETY: within the row (contract).
        unsafe { S::splat_f16(row.add(at / 32 * 34).cast::<u16>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn load<S: Vector>(row: *const u8, at: usize, offset: usize, scale: S) -> S {
        // SAFETY: within the row (contract). A product of 11 and 8 bits is exact.
        unsafe { S::load_i8(row.add(at / 32 * 34 + 2 + offset).cast()).times(scale) }
    }

    unsafe fn one(_: *const u8, _: usize) -> f32 {
        unreachable!("rows of blocks have no rest")
    }
}

/// GGML's `Q4_0`: an f16 scale, then 16 bytes of which the lower four bits are the
/// first 16 numbers plus 8, the upper four bits the others.
#[derive(Clone, Copy)]
pub(crate) struct Four;

impl Format for Four {
    const BLOCK: usize = 32;
    const BYTES: usize = 18;

    #[inline(always)]
    unsafe fn scale<S: Vector>(row: *const u8, at: usize) -> S {
        // SAFETY: within the row (contract).
        unsafe { S::splat_f16(row.add(at / 32 * 18).cast::<u16>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn load<S: Vector>(row: *const u8, at: usize, offset: usize, scale: S) -> S {
        // SAFETY: within the row (contract). A product of 11 and 4 bits is exact.
        unsafe {
            let bytes = row.add(at / 32 * 18 + 2 + offset % 16);
            S::load_nibbles(bytes, offset >= 16).plus(S::splat(-8.0)).times(scale)
        }
    }

    unsafe fn one(_: *const u8, _: usize) -> f32 {
        unreachable!("rows of blocks have no rest")
    }
}
