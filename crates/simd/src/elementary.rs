//! Functions in a form that compilers vectorise: no calls, no branches.

/// `1 / (1 + e^-x)`, within 2e-7 of the true value; NaN for NaN.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `e^x` within 2e-7 relative, `x` taken as at least -87 and at most 88.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding and taking away 1.5 * 2^23 rounds to the nearest integer, which then
    // also stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts (Cephes): the first is exact times any integer used here.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    let power = rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    p * f32::from_bits(power)
}

/// The error function, within 5e-7 of the true value; NaN for NaN.
///
/// An odd rational function of x, which is all but 1 at 4 (the coefficients that Eigen
/// and XLA use for f32).
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let x = if x < -4.0 { -4.0 } else { x };
    let x = if x > 4.0 { 4.0 } else { x };
    let square = x * x;
    let p = -2.726_142_3e-10;
    let p = p * square + 2.770_681_4e-8;
    let p = p * square - 2.101_024e-6;
    let p = p * square - 5.692_506_6e-5;
    let p = p * square - 7.349_906e-4;
    let p = p * square - 2.954_6e-3;
    let p = p * square - 1.609_603_3e-2;
    let q = -1.456_607_2e-5;
    let q = q * square - 2.133_740_6e-4;
    let q = q * square - 1.682_827e-3;
    let q = q * square - 7.373_329_3e-3;
    let q = q * square - 1.426_473_9e-2;
    x * p / q
}

/// The f16 of these bits.
#[inline(always)]
pub fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let rest = u32::from(bits & 0x7fff);
    let value = match rest {
        // Subnormal numbers are multiples of 2^-24.
        0..0x400 => rest as f32 * f32::from_bits(0x3380_0000),
        0x400..0x7c00 => f32::from_bits((rest << 13) + 0x3800_0000),
        // Infinity and NaN.
        _ => f32::from_bits((rest << 13) | 0x7f80_0000),
    };
    f32::from_bits(value.to_bits() | sign)
}

/// The bf16 of these bits: the upper half of an f32's.
#[inline(always)]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[cfg(test)]
mod tests {
    use super::{erf, exp, sigmoid};

    /// The integral of the density by Simpson's rule.
    fn erf_by_integration(x: f64) -> f64 {
        let steps = 2000;
        let h = x / f64::from(steps);
        let density = |i: i32| (-(h * f64::from(i)).powi(2)).exp();
        let inner: f64 = (1..steps).map(|i| density(i) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
        (density(0) + inner + density(steps)) * h / 3.0 * std::f64::consts::FRAC_2_SQRT_PI
    }

    #[test]
    fn erf_agrees_with_the_integral() {
        for i in -600..=600 {
            let x = i as f32 * 1e-2;
            let expected = erf_by_integration(f64::from(x));
            let error = (f64::from(erf(x)) - expected).abs();
            assert!(error < 5e-7 && error <= 1e-6 * expected.abs(), "erf({x}): {error:e}");
        }
        assert!(erf(f32::NAN).is_nan());
    }

    #[test]
    fn agrees_with_f64() {
        for i in -86_900..=87_900 {
            let x = i as f32 * 1e-3;
            let expected = f64::from(x).exp();
            let relative = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(relative < 2e-7, "exp({x}): relative error {relative:e}");
            let expected = 1.0 / (1.0 + (-f64::from(x)).exp());
            assert!((f64::from(sigmoid(x)) - expected).abs() < 2e-7, "sigmoid({x})");
        }
    }

    #[test]
    fn extremes_and_nan() {
        assert_eq!(sigmoid(f32::INFINITY), 1.0);
        assert!(sigmoid(f32::NEG_INFINITY) < 1e-37);
        assert!(sigmoid(f32::NAN).is_nan());
    }
}
