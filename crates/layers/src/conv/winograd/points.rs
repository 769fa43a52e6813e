//! The points ±a and ±b, a = 1/√2 and b = √2, at which both forms evaluate.

use std::f32::consts::{FRAC_1_SQRT_2 as A, SQRT_2 as B};

use crate::vector::Vector;

/// Four input pixels at the points a, -a, b, -b.
///
/// # Safety
/// The machine must have the instruction set.
#[inline(always)]
pub unsafe fn input<S: Vector>(d: [S; 4]) -> [S; 4] {
    // SAFETY: this function's contract.
    unsafe {
        let (minus_two, minus_half) = (S::splat(-2.0), S::splat(-0.5));
        let (even_a, odd_a) = (d[1].mul_add(minus_two, d[3]), d[0].mul_add(minus_two, d[2]));
        let (even_b, odd_b) = (d[1].mul_add(minus_half, d[3]), d[0].mul_add(minus_half, d[2]));
        both([even_a, odd_a], [even_b, odd_b])
    }
}

/// Four pixels of the output's gradient at the points a, -a, b, -b.
///
/// # Safety
/// As for [`input`].
#[inline(always)]
pub unsafe fn gradient<S: Vector>(y: [S; 4]) -> [S; 4] {
    // SAFETY: this function's contract.
    unsafe {
        let (half, two) = (S::splat(0.5), S::splat(2.0));
        let (even_a, odd_a) = (y[2].mul_add(half, y[0]), y[3].mul_add(half, y[1]));
        let (even_b, odd_b) = (y[2].mul_add(two, y[0]), y[3].mul_add(two, y[1]));
        both([even_a, odd_a], [even_b, odd_b])
    }
}

/// From their even and odd parts what is at the points a, -a, b, -b.
#[inline(always)]
unsafe fn both<S: Vector>(at_a: [S; 2], at_b: [S; 2]) -> [S; 4] {
    // SAFETY: as above.
    unsafe {
        [
            at_a[1].mul_add(S::splat(A), at_a[0]),
            at_a[1].mul_add(S::splat(-A), at_a[0]),
            at_b[1].mul_add(S::splat(B), at_b[0]),
            at_b[1].mul_add(S::splat(-B), at_b[0]),
        ]
    }
}

/// Four output pixels from what is at the points a, -a, b, -b, and at infinity.
///
/// # Safety
/// As for [`input`].
#[inline(always)]
pub unsafe fn output<S: Vector>(m: [S; 4], infinite: S) -> [S; 4] {
    // SAFETY: this function's contract.
    unsafe {
        let (sum_a, difference_a) = (m[0].plus(m[1]), m[0].minus(m[1]));
        let (sum_b, difference_b) = (m[2].plus(m[3]), m[2].minus(m[3]));
        let zero = S::splat(0.0);
        let (a, b) = (S::splat(A), S::splat(B));
        let (half, two) = (S::splat(0.5), S::splat(2.0));
        let (half_a, two_b) = (S::splat(0.5 * A), S::splat(2.0 * B));
        [
            sum_a.plus(sum_b),
            difference_a.mul_add(a, difference_b.mul_add(b, zero)),
            sum_a.mul_add(half, sum_b.mul_add(two, zero)),
            difference_a.mul_add(half_a, difference_b.mul_add(two_b, infinite)),
        ]
    }
}
