//! How far a score computed in f32 can be from the exact one.
//!
//! The score of code `e` for a vector `z` is `z.e - |e|^2 / 2`: half the squared
//! distance, negated, up to a constant of the vector. The nearest code has the
//! highest score. With unit roundoff `u`, a sum of `D` products in any order is
//! off by at most about `D u` times the sum of their magnitudes (Higham, Accuracy
//! and Stability of Numerical Algorithms, 3.1). For a score that is less than
//! `(D + 2) u (|z| |e| + |e|^2 / 2)`, and `|e|^2`, a sum in f32 as well, adds
//! less than `(D + 2) u |e|^2 / 2`; then there is what underflow loses.
//!
//! The distances that decide are sums in f64. Their own rounding, at most
//! `(D + 2) 2^-53 (|z| + |e|)^2`, is in the bound too: a code that rounding in f64
//! makes the nearest must not be missed either.

/// Beyond this dimension the bound no longer holds.
pub(super) const MAX_DIM: usize = 1 << 16;
/// Values beyond this could overflow f32 on the way.
const MAX_MAGNITUDE: f32 = 1e37;
/// Above 1: covers the roundings of the bound itself and higher orders of `u`.
const MARGIN: f32 = 1.1;

/// The bound on errors of scores, as a function of norms.
#[derive(Clone, Copy)]
pub(super) struct ErrorBound {
    f32_sums: f32,
    f64_sums: f32,
    underflow: f32,
}

impl ErrorBound {
    /// For rows of `dim` values.
    pub fn new(dim: usize) -> Self {
        // Six more than needed: for a few sums of a score and its bound.
        let terms = MARGIN * (dim + 8) as f32;
        Self {
            f32_sums: terms * f32::EPSILON / 2.0,
            f64_sums: terms * f64::EPSILON as f32 / 2.0,
            underflow: terms * f32::MIN_POSITIVE,
        }
    }

    /// Of a vector of norm `z` with codes of norm up to `e`, both from [`norm_limit`].
    pub fn of(self, z: f32, e: f32) -> f32 {
        self.f32_sums * (e * (z + e)) + self.f64_sums * ((z + e) * (z + e)) + self.underflow
    }
}

/// Whether scores of a vector of norm `z` with codes of norm up to `e` can be
/// computed in f32 at all.
pub(super) fn fits(z: f32, e: f32) -> bool {
    (z + e) * (z + e) < MAX_MAGNITUDE
}

/// A number that the norm of a row is not above, given its square summed in f32.
pub(super) fn norm_limit(squared_norm: f32, dim: usize) -> f32 {
    (MARGIN * (squared_norm + dim as f32 * f32::MIN_POSITIVE)).sqrt()
}

/// How much a product of `z` and `e` changes when both are rounded, given limits to
/// the norm of each and to the norm of what rounding takes from it.
pub(super) fn of_rounding((z, z_lost): (f32, f32), (e, e_lost): (f32, f32)) -> f32 {
    MARGIN * (z_lost * e + (z + z_lost) * e_lost)
}
