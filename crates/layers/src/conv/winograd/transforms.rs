//! The linear maps of F(4x4, 3x3) and of its gradient to the weight, on tiles whose elements are vectors of
//! channels.
//!
//! With the points 0, ±a, ±b and infinity, a = 1/√2 and b = √2 (Cook-Toom). The
//! usual points 0, ±1, ±2 give larger constants and about four times the largest
//! error; these give five times that of the direct sum.

use std::f32::consts::{FRAC_1_SQRT_2 as A, SQRT_2 as B};

use crate::vector::Vector;

/// Elements of a transformed tile: 6 x 6.
pub const FREQUENCIES: usize = 36;

/// Bᵀ d: six input pixels.
#[inline(always)]
unsafe fn input_line<S: Vector>(d: [S; 6]) -> [S; 6] {
    // SAFETY: the machine has the instruction set (contract of the callers).
    unsafe {
        let (minus_two, minus_half, minus_five_halves) =
            (S::splat(-2.0), S::splat(-0.5), S::splat(-2.5));
        let even_a = d[2].mul_add(minus_two, d[4]);
        let odd_a = d[1].mul_add(minus_two, d[3]);
        let even_b = d[2].mul_add(minus_half, d[4]);
        let odd_b = d[1].mul_add(minus_half, d[3]);
        [
            d[2].mul_add(minus_five_halves, d[0].plus(d[4])),
            odd_a.mul_add(S::splat(A), even_a),
            odd_a.mul_add(S::splat(-A), even_a),
            odd_b.mul_add(S::splat(B), even_b),
            odd_b.mul_add(S::splat(-B), even_b),
            d[3].mul_add(minus_five_halves, d[1].plus(d[5])),
        ]
    }
}

/// G g: three weights.
#[inline(always)]
unsafe fn weight_line<S: Vector>(g: [S; 3]) -> [S; 6] {
    // SAFETY: as above. The constants are those of the points over the products of
    // their distances: -3/2 for ±a, 6 for ±b.
    unsafe {
        let zero = S::splat(0.0);
        let even_a = g[0].mul_add(S::splat(-2.0 / 3.0), g[2].mul_add(S::splat(-1.0 / 3.0), zero));
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

/// Aᵀ m: four output pixels.
#[inline(always)]
unsafe fn output_line<S: Vector>(m: [S; 6]) -> [S; 4] {
    // SAFETY: as above.
    unsafe {
        let (sum_a, difference_a) = (m[1].plus(m[2]), m[1].minus(m[2]));
        let (sum_b, difference_b) = (m[3].plus(m[4]), m[3].minus(m[4]));
        let zero = S::splat(0.0);
        let (a, b) = (S::splat(A), S::splat(B));
        let (half, two) = (S::splat(0.5), S::splat(2.0));
        let (half_a, two_b) = (S::splat(0.5 * A), S::splat(2.0 * B));
        [
            m[0].plus(sum_a.plus(sum_b)),
            difference_a.mul_add(a, difference_b.mul_add(b, zero)),
            sum_a.mul_add(half, sum_b.mul_add(two, zero)),
            difference_a.mul_add(half_a, difference_b.mul_add(two_b, m[5])),
        ]
    }
}

/// A y: four pixels of the output's gradient.
#[inline(always)]
unsafe fn gradient_line<S: Vector>(y: [S; 4]) -> [S; 6] {
    // SAFETY: as above.
    unsafe {
        let (half, two) = (S::splat(0.5), S::splat(2.0));
        let (even_a, odd_a) = (y[2].mul_add(half, y[0]), y[3].mul_add(half, y[1]));
        let (even_b, odd_b) = (y[2].mul_add(two, y[0]), y[3].mul_add(two, y[1]));
        [
            y[0],
            odd_a.mul_add(S::splat(A), even_a),
            odd_a.mul_add(S::splat(-A), even_a),
            odd_b.mul_add(S::splat(B), even_b),
            odd_b.mul_add(S::splat(-B), even_b),
            y[3],
        ]
    }
}

/// Gᵀ u: the gradient to three weights.
#[inline(always)]
unsafe fn weight_gradient_line<S: Vector>(u: [S; 6]) -> [S; 3] {
    // SAFETY: as above.
    unsafe {
        let (sum_a, difference_a) = (u[1].plus(u[2]), u[1].minus(u[2]));
        let (sum_b, difference_b) = (u[3].plus(u[4]), u[3].minus(u[4]));
        let (third, sixth) = (S::splat(1.0 / 3.0), S::splat(1.0 / 6.0));
        let zero = S::splat(0.0);
        [
            sum_a.mul_add(S::splat(-2.0 / 3.0), sum_b.mul_add(sixth, u[0])),
            difference_a
                .mul_add(S::splat(-A * 2.0 / 3.0), difference_b.mul_add(S::splat(B / 6.0), zero)),
            sum_b.minus(sum_a).mul_add(third, u[5]),
        ]
    }
}

/// Bᵀ d B of a tile of 6 x 6 pixels, rows `pitch` floats apart, pixels one vector
/// apart; element `f` of the result goes to `to + f * stride`.
///
/// # Safety
/// The machine must have the instruction set; all that is named must be readable
/// and writable.
#[inline(always)]
pub unsafe fn input_tile<S: Vector>(from: *const f32, pitch: usize, to: *mut f32, stride: usize) {
    // SAFETY: within the tile and its result (contract).
    unsafe {
        let mut columns = [[S::splat(0.0); 6]; 6];
        for (x, column) in columns.iter_mut().enumerate() {
            let pixel = |y: usize| S::load(from.add(y * pitch + x * S::LANES));
            *column = input_line([pixel(0), pixel(1), pixel(2), pixel(3), pixel(4), pixel(5)]);
        }
        for y in 0..6 {
            let row = input_line(columns.map(|column| column[y]));
            for (x, value) in row.into_iter().enumerate() {
                value.store(to.add((6 * y + x) * stride));
            }
        }
    }
}

/// G g Gᵀ of a kernel of 3 x 3 weights, one vector apart; element `f` of the
/// result goes to `to + f * stride`.
///
/// # Safety
/// As for [`input_tile`].
#[inline(always)]
pub unsafe fn weight_tile<S: Vector>(from: *const f32, to: *mut f32, stride: usize) {
    // SAFETY: within the kernel and its result (contract).
    unsafe {
        let mut columns = [[S::splat(0.0); 6]; 3];
        for (x, column) in columns.iter_mut().enumerate() {
            let weight = |y: usize| S::load(from.add((3 * y + x) * S::LANES));
            *column = weight_line([weight(0), weight(1), weight(2)]);
        }
        for y in 0..6 {
            let row = weight_line(columns.map(|column| column[y]));
            for (x, value) in row.into_iter().enumerate() {
                value.store(to.add((6 * y + x) * stride));
            }
        }
    }
}

/// Aᵀ m A of a transformed tile, elements `stride` floats apart, plus `bias`: 4 x 4
/// pixels, rows `pitch` floats apart, pixels one vector apart.
///
/// # Safety
/// As for [`input_tile`].
#[inline(always)]
pub unsafe fn output_tile<S: Vector>(
    from: *const f32,
    stride: usize,
    bias: S,
    to: *mut f32,
    pitch: usize,
) {
    // SAFETY: within the transformed tile and its pixels (contract).
    unsafe {
        let mut columns = [[S::splat(0.0); 4]; 6];
        for (x, column) in columns.iter_mut().enumerate() {
            let element = |y: usize| S::load(from.add((6 * y + x) * stride));
            *column = output_line([
                element(0),
                element(1),
                element(2),
                element(3),
                element(4),
                element(5),
            ]);
        }
        for y in 0..4 {
            let row = output_line(columns.map(|column| column[y]));
            for (x, value) in row.into_iter().enumerate() {
                value.plus(bias).store(to.add(y * pitch + x * S::LANES));
            }
        }
    }
}

/// A y Aᵀ of a tile of 4 x 4 pixels of the output's gradient, rows `pitch` floats
/// apart, pixels one vector apart; element `f` of the result goes to
/// `to + f * stride`.
///
/// # Safety
/// As for [`input_tile`].
#[inline(always)]
pub unsafe fn gradient_tile<S: Vector>(
    from: *const f32,
    pitch: usize,
    to: *mut f32,
    stride: usize,
) {
    // SAFETY: within the tile and its result (contract).
    unsafe {
        let mut columns = [[S::splat(0.0); 6]; 4];
        for (x, column) in columns.iter_mut().enumerate() {
            let pixel = |y: usize| S::load(from.add(y * pitch + x * S::LANES));
            *column = gradient_line([pixel(0), pixel(1), pixel(2), pixel(3)]);
        }
        for y in 0..6 {
            let row = gradient_line(columns.map(|column| column[y]));
            for (x, value) in row.into_iter().enumerate() {
                value.store(to.add((6 * y + x) * stride));
            }
        }
    }
}

/// Gᵀ u G of the gradient to a transformed kernel, elements `stride` floats apart:
/// the gradient to its 3 x 3 weights, one vector apart.
///
/// # Safety
/// As for [`input_tile`].
#[inline(always)]
pub unsafe fn weight_gradient_tile<S: Vector>(from: *const f32, stride: usize, to: *mut f32) {
    // SAFETY: within the transformed kernel and its weights (contract).
    unsafe {
        let mut columns = [[S::splat(0.0); 3]; 6];
        for (x, column) in columns.iter_mut().enumerate() {
            let element = |y: usize| S::load(from.add((6 * y + x) * stride));
            *column = weight_gradient_line([
                element(0),
                element(1),
                element(2),
                element(3),
                element(4),
                element(5),
            ]);
        }
        for y in 0..3 {
            let row = weight_gradient_line(columns.map(|column| column[y]));
            for (x, value) in row.into_iter().enumerate() {
                value.store(to.add((3 * y + x) * S::LANES));
            }
        }
    }
}
