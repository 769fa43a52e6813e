//! Stride 2: 81 products for 16 outputs instead of 144.
//!
//! Along an axis a kernel of three meets even pixels with its first and last weight and odd
//! ones with its middle one: output `k` is `g0 e[k] + g2 e[k + 1] + g1 o[k]`. Both are F(4, 2),
//! with the points ±a, ±b of [`super::points`] and infinity; the kernel `(g1, 0)` is nothing at
//! infinity. So there are five elements of the even pixels, four of the odd ones, and what
//! stands for the same point adds up before the way back: five frequencies.

use std::f32::consts::{FRAC_1_SQRT_2 as A, SQRT_2 as B};

use super::form::{Line, Lines, Squares};
use super::points;
use crate::vector::Vector;

/// Elements of an axis that are of even pixels, and frequencies.
const EVEN: usize = 5;
/// Elements of an axis: those of odd pixels come last.
const ALL: usize = 9;

/// F(4x4, 3x3) of stride 2.
pub const HALVING: Squares<Halving, ALL, EVEN> = Squares(Halving);

/// Twice F(4, 2).
#[derive(Clone, Copy)]
pub struct Halving;

impl Lines<ALL, EVEN> for Halving {
    const STRIDE: usize = 2;

    type Input = Input;
    type Weight = Weight;
    type Output = Output;
    type Gradient = Gradient;
    type WeightGradient = WeightGradient;
}

/// Bᵀ d: nine input pixels.
pub struct Input;

impl Line<ALL, ALL> for Input {
    #[inline(always)]
    unsafe fn map<S: Vector>(d: [S; ALL]) -> [S; ALL] {
        // SAFETY: the machine has the instruction set (contract of the callers).
        unsafe {
            let [a, minus_a, b, minus_b] = points::input([d[0], d[2], d[4], d[6]]);
            let infinite = d[4].mul_add(S::splat(-2.5), d[0].plus(d[8]));
            let [odd_a, odd_minus_a, odd_b, odd_minus_b] = points::input([d[1], d[3], d[5], d[7]]);
            [a, minus_a, b, minus_b, infinite, odd_a, odd_minus_a, odd_b, odd_minus_b]
        }
    }
}

/// G g: three weights.
pub struct Weight;

impl Line<3, ALL> for Weight {
    #[inline(always)]
    unsafe fn map<S: Vector>(g: [S; 3]) -> [S; ALL] {
        // SAFETY: as above. The constants are those of the points over the products of their
        // distances: ∓3a for ±a, ±3b for ±b.
        unsafe {
            let (by_a, by_b) = (S::splat(B / 3.0), S::splat(A / 3.0));
            let last = g[2].times(S::splat(1.0 / 3.0));
            let (first_a, first_b) = (g[0].times(by_a), g[0].times(by_b));
            let (middle_a, middle_b) = (g[1].times(by_a), g[1].times(by_b));
            let zero = S::splat(0.0);
            [
                zero.minus(first_a.plus(last)),
                first_a.minus(last),
                last.plus(first_b),
                last.minus(first_b),
                g[2],
                zero.minus(middle_a),
                middle_a,
                middle_b,
                zero.minus(middle_b),
            ]
        }
    }
}

/// Aᵀ m: four output pixels.
pub struct Output;

impl Line<EVEN, 4> for Output {
    #[inline(always)]
    unsafe fn map<S: Vector>(m: [S; EVEN]) -> [S; 4] {
        // SAFETY: as above.
        unsafe { points::output([m[0], m[1], m[2], m[3]], m[4]) }
    }
}

/// A y: four pixels of the output's gradient.
pub struct Gradient;

impl Line<4, EVEN> for Gradient {
    #[inline(always)]
    unsafe fn map<S: Vector>(y: [S; 4]) -> [S; EVEN] {
        // SAFETY: as above.
        unsafe {
            let [a, minus_a, b, minus_b] = points::gradient(y);
            [a, minus_a, b, minus_b, y[3]]
        }
    }
}

/// Gᵀ u: the gradient to three weights.
pub struct WeightGradient;

impl Line<ALL, 3> for WeightGradient {
    #[inline(always)]
    unsafe fn map<S: Vector>(u: [S; ALL]) -> [S; 3] {
        // SAFETY: as above.
        unsafe {
            let (by_a, by_b) = (S::splat(B / 3.0), S::splat(A / 3.0));
            let sums = u[2].plus(u[3]).minus(u[0].plus(u[1]));
            [
                u[1].minus(u[0]).mul_add(by_a, u[2].minus(u[3]).times(by_b)),
                u[6].minus(u[5]).mul_add(by_a, u[7].minus(u[8]).times(by_b)),
                sums.mul_add(S::splat(1.0 / 3.0), u[4]),
            ]
        }
    }
}
