//! Vectors for every machine.

use super::Vector;
use crate::elementary::{bf16_to_f32, f16_to_f32};
use crate::tiles::bf16_pair;

/// For machines without an instruction set of their own here: arrays that the
/// compiler puts into whatever registers there are.
#[derive(Clone, Copy)]
pub struct Portable([f32; 8]);

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
    unsafe fn times(self, by: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] * by.0[i]))
    }

    #[inline(always)]
    unsafe fn reciprocal(self) -> Self {
        Self(self.0.map(f32::recip))
    }

    #[inline(always)]
    unsafe fn at_least(self, least: Self) -> Self {
        Self(std::array::from_fn(|i| if self.0[i] < least.0[i] { least.0[i] } else { self.0[i] }))
    }

    #[inline(always)]
    unsafe fn at_most(self, most: Self) -> Self {
        Self(std::array::from_fn(|i| if self.0[i] > most.0[i] { most.0[i] } else { self.0[i] }))
    }

    #[inline(always)]
    unsafe fn times_power(self, n: Self) -> Self {
        let power = |n: f32| f32::from_bits(((n as i32 + 127) as u32) << 23);
        Self(std::array::from_fn(|i| self.0[i] * power(n.0[i])))
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let [a, b, c, d, e, f, g, h] = self.0;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        // SAFETY: readable by contract.
        let bits = unsafe { from.cast::<[u16; 8]>().read_unaligned() };
        Self(bits.map(bf16_to_f32))
    }

    #[inline(always)]
    unsafe fn bf16_pairs(self, second: Self) -> Self {
        Self(std::array::from_fn(|i| bf16_pair(self.0[i], second.0[i])))
    }

    #[inline(always)]
    unsafe fn bf16_row(self, next: Self) -> Self {
        let number = |i: usize| if i < 8 { self.0[i] } else { next.0[i - 8] };
        Self(std::array::from_fn(|i| bf16_pair(number(2 * i), number(2 * i + 1))))
    }

    #[inline(always)]
    unsafe fn upper(self) -> Self {
        Self(self.0.map(|x| f32::from_bits(x.to_bits() & 0xffff_0000)))
    }

    #[inline(always)]
    unsafe fn nearest_upper(self) -> Self {
        Self(self.0.map(nearest_upper))
    }

    #[inline(always)]
    unsafe fn upper_pairs(self, second: Self) -> Self {
        Self(std::array::from_fn(|i| upper_pair(self.0[i], second.0[i])))
    }

    #[inline(always)]
    unsafe fn upper_row(self, next: Self) -> Self {
        let number = |i: usize| if i < 8 { self.0[i] } else { next.0[i - 8] };
        Self(std::array::from_fn(|i| upper_pair(number(2 * i), number(2 * i + 1))))
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        // SAFETY: readable by contract.
        Self(unsafe { from.cast::<[u16; 8]>().read_unaligned() }.map(f16_to_f32))
    }

    #[inline(always)]
    unsafe fn splat_f16(bits: u16) -> Self {
        Self([f16_to_f32(bits); 8])
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: readable by contract.
        Self(unsafe { from.cast::<[i8; 8]>().read() }.map(f32::from))
    }

    #[inline(always)]
    unsafe fn load_nibbles(from: *const u8, upper: bool) -> Self {
        // SAFETY: readable by contract.
        let bytes = unsafe { from.cast::<[u8; 8]>().read() };
        Self(bytes.map(|byte| f32::from(if upper { byte >> 4 } else { byte & 15 })))
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

/// The upper halves of two numbers as a word.
#[inline(always)]
fn upper_pair(first: f32, second: f32) -> f32 {
    f32::from_bits(first.to_bits() >> 16 | second.to_bits() & 0xffff_0000)
}

/// See [`Vector::nearest_upper`].
#[inline(always)]
fn nearest_upper(x: f32) -> f32 {
    f32::from_bits(x.to_bits().wrapping_add(0x8000) & 0xffff_0000)
}
