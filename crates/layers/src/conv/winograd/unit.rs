//! F(4x4, 3x3), for stride 1: 36 products for 16 outputs instead of 144.
//!
//! With the points 0, ±a, ±b and infinity, a = 1/√2 and b = √2 (Cook-Toom). The
//! usual points 0, ±1, ±2 give larger constants and about four times the largest
//! error; these give five times that of the direct sum.

use std::f32::consts::{FRAC_1_SQRT_2 as A, SQRT_2 as B};

use super::form::{Line, Lines, Squares};
use super::points;
use crate::vector::Vector;

/// F(4x4, 3x3).
pub const UNIT: Squares<Unit, 6, 6> = Squares(Unit);

/// F(4, 3).
#[derive(Clone, Copy)]
pub struct Unit;

impl Lines<6, 6> for Unit {
    const STRIDE: usize = 1;

    type Input = Input;
    type Weight = Weight;
    type Output = Output;
    type Gradient = Gradient;
    type WeightGradient = WeightGradient;
}

/// Bᵀ d: six input pixels.
pub struct Input;

impl Line<6, 6> for Input {
    #[inline(always)]
    unsafe fn map<S: Vector>(d: [S; 6]) -> [S; 6] {
        // SAFETY: the machine has the instruction set (contract of the callers).
        unsafe {
            let minus_five_halves = S::splat(-2.5);
            let [a, minus_a, b, minus_b] = points::input([d[1], d[2], d[3], d[4]]);
            let zero = d[2].mul_add(minus_five_halves, d[0].plus(d[4]));
            let infinite = d[3].mul_add(minus_five_halves, d[1].plus(d[5]));
            [zero, a, minus_a, b, minus_b, infinite]
        }
    }
}

/// G g: three weights.
pub struct Weight;

impl Line<3, 6> for Weight {
    #[inline(always)]
    unsafe fn map<S: Vector>(g: [S; 3]) -> [S; 6] {
        // SAFETY: as above. The constants are those of the points over the products of
        // their distances: -3/2 for ±a, 6 for ±b.
        unsafe {
            let zero = S::splat(0.0);
            let even_a =
                g[0].mul_add(S::splat(-2.0 / 3.0), g[2].mul_add(S::splat(-1.0 / 3.0), zero));
            let even_b = g[0].mul_add(S::splat(1.0 / 6.0), g[2].mul_add(S::splat(1.0 / 3.0), zero));
            [
                g[0],
                g[1].mul_add(S::splat(-A * 2.0 / 3.0), even_a),
                g[1].mul_add(S::splat(A * 2.0 / 3.0), even_a),
                g[1].mul_add(S::splat(B / 6.0), even_b),
                g[1].mul_add(S::splat(-B / 6.0), even_b),
                g[2],
            ]
        }
    }
}

/// Aᵀ m: four output pixels.
pub struct Output;

impl Line<6, 4> for Output {
    #[inline(always)]
    unsafe fn map<S: Vector>(m: [S; 6]) -> [S; 4] {
        // SAFETY: as above.
        unsafe {
            let [first, second, third, fourth] = points::output([m[1], m[2], m[3], m[4]], m[5]);
            [m[0].plus(first), second, third, fourth]
        }
    }
}

/// A y: four pixels of the output's gradient.
pub struct Gradient;

impl Line<4, 6> for Gradient {
    #[inline(always)]
    unsafe fn map<S: Vector>(y: [S; 4]) -> [S; 6] {
        // SAFETY: as above.
        unsafe {
            let [a, minus_a, b, minus_b] = points::gradient(y);
            [y[0], a, minus_a, b, minus_b, y[3]]
        }
    }
}

/// Gᵀ u: the gradient to three weights.
pub struct WeightGradient;

impl Line<6, 3> for WeightGradient {
    #[inline(always)]
    unsafe fn map<S: Vector>(u: [S; 6]) -> [S; 3] {
        // SAFETY: as above.
        unsafe {
            let (sum_a, difference_a) = (u[1].plus(u[2]), u[1].minus(u[2]));
            let (sum_b, difference_b) = (u[3].plus(u[4]), u[3].minus(u[4]));
            let (third, sixth) = (S::splat(1.0 / 3.0), S::splat(1.0 / 6.0));
            let zero = S::splat(0.0);
            [
                sum_a.mul_add(S::splat(-2.0 / 3.0), sum_b.mul_add(sixth, u[0])),
                difference_a.mul_add(
                    S::splat(-A * 2.0 / 3.0),
                    difference_b.mul_add(S::splat(B / 6.0), zero),
                ),
                sum_b.minus(sum_a).mul_add(third, u[5]),
            ]
        }
    }
}
