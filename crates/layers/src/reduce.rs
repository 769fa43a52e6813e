//! Sums over long f32 slices that neither lose accuracy nor wait for each add.

/// Independent partial sums: as many as keep the vector units busy.
const LANES: usize = 16;
/// Elements that one lane adds up in f32 before the sums move to f64.
const BLOCK: usize = 64 * LANES;

/// The sum of `values`.
#[inline(always)]
pub(crate) fn sum(values: &[f32]) -> f64 {
    sum_of(values, values, |x, _| x)
}

/// The sum of `f(a, b)` over two slices of the same length.
#[inline(always)]
pub(crate) fn sum_of(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f64 {
    let mut total = 0.0_f64;
    for (a, b) in a.chunks(BLOCK).zip(b.chunks(BLOCK)) {
        let mut lanes = [0.0_f32; LANES];
        let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
        let (rest_a, rest_b) = (a.remainder(), b.remainder());
        for (a, b) in a.zip(b) {
            for i in 0..LANES {
                lanes[i] += f(a[i], b[i]);
            }
        }
        total += lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>();
        total += rest_a.iter().zip(rest_b).map(|(&a, &b)| f64::from(f(a, b))).sum::<f64>();
    }
    total
}
