//! One piece of work that everybody is given.

use anyhow::Result;
use candle_core::{DType, Tensor};
use serde_json::Value;

/// Numbers compared per result.
const VALUES: usize = 64;

/// What is timed; it returns its results.
pub type Work = Box<dyn FnMut() -> Result<Vec<Tensor>>>;

/// A row of the table.
pub struct Case {
    /// What it is called.
    pub name: String,
    /// Floating-point operations of the direct method, where they say something.
    pub flops: Option<f64>,
    /// The same for Python.
    pub request: Value,
    /// Whether the results are codes, which are alike or not, or numbers.
    pub codes: bool,
    /// Makes inputs and weights; called when the row's turn comes.
    pub make: Box<dyn FnOnce() -> Result<Contestants>>,
}

/// Those of this process.
pub struct Contestants {
    /// Our way.
    pub ours: Work,
    /// candle's own ops.
    pub candle: Option<Work>,
}

/// Some numbers of every result, evenly spread: what [`difference`] compares.
pub fn values(results: &[Tensor]) -> Result<Vec<Vec<f64>>> {
    let mut all = Vec::new();
    for result in results {
        let flat = result.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        let count = VALUES.min(flat.len());
        all.push((0..count).map(|i| flat[i * flat.len() / count]).collect());
    }
    Ok(all)
}

/// How far two results are apart: for codes the share that is not the same; for
/// numbers the largest difference relative to the largest number.
pub fn difference(ours: &[Vec<f64>], theirs: &[Vec<f64>], codes: bool) -> f64 {
    if ours.len() != theirs.len() || ours.iter().zip(theirs).any(|(a, b)| a.len() != b.len()) {
        return f64::INFINITY;
    }
    let pairs = ours.iter().zip(theirs);
    let apart = |(a, b): (&Vec<f64>, &Vec<f64>)| {
        let pairs = || a.iter().zip(b);
        if codes {
            return pairs().filter(|(a, b)| a != b).count() as f64 / a.len().max(1) as f64;
        }
        let largest = pairs().map(|(a, b)| (a - b).abs()).fold(0.0, worst);
        largest / b.iter().map(|b| b.abs()).fold(f64::MIN_POSITIVE, worst)
    };
    pairs.map(apart).fold(0.0, worst)
}

/// The larger, where NaN is larger than all.
fn worst(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_relative_and_notice_what_is_missing() {
        let apart = |a: &[f64], b: &[f64], codes| difference(&[a.to_vec()], &[b.to_vec()], codes);
        assert_eq!(apart(&[1.0, 2.0], &[1.0, 4.0], false), 0.5);
        assert_eq!(apart(&[1.0, 2.0], &[1.0, 4.0], true), 0.5);
        assert_eq!(apart(&[1.0], &[1.0, 4.0], false), f64::INFINITY);
        assert!(apart(&[f64::NAN, 1.0], &[1.0, 1.0], false).is_nan());
    }
}
