//! One piece of work that everybody is given.

use anyhow::Result;
use candle_core::{DType, Tensor};
use serde_json::Value;

use super::Tool;

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
    /// The same for Python. Of cases that ask for the same, the first is measured.
    pub request: Value,
    /// What the results are.
    pub results: Results,
    /// Makes inputs and weights; called when the row's turn comes.
    pub make: Box<dyn FnOnce() -> Result<Contestants>>,
}

/// What results are, and with it how they are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Results {
    /// Numbers computed in f32.
    Numbers,
    /// Numbers that we compute in bf16 and the others in f32.
    HalfNumbers,
    /// Codes, which are the same or not.
    Codes,
    /// Codes that one of the others has too.
    CodesOf(Tool),
    /// Nothing that others have.
    Unlike,
}

impl Results {
    /// The [`difference`] that needs no other reason than rounding: of f32 sums in
    /// another order, of bf16, and of a choice between equally near codes.
    pub fn tolerance(self) -> f64 {
        match self {
            Self::Numbers => 1e-3,
            Self::HalfNumbers => 0.1,
            Self::Codes | Self::CodesOf(_) | Self::Unlike => 0.02,
        }
    }

    /// Whether those of `tool` should be the same.
    pub fn comparable(self, tool: Tool) -> bool {
        match self {
            Self::Numbers | Self::HalfNumbers | Self::Codes => true,
            Self::CodesOf(only) => tool == only,
            Self::Unlike => false,
        }
    }
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

/// How far the results of two are apart: for codes the share that is not the same;
/// for numbers the largest difference relative to the largest number of that
/// result, or to a thousandth of the largest of all where a result is (all but) 0.
pub fn difference(ours: &[Vec<f64>], theirs: &[Vec<f64>], results: Results) -> f64 {
    if ours.len() != theirs.len() || ours.iter().zip(theirs).any(|(a, b)| a.len() != b.len()) {
        return f64::INFINITY;
    }
    let largest = |values: &[f64]| values.iter().map(|value| value.abs()).fold(0.0, worst);
    let of_all = theirs.iter().map(|values| largest(values)).fold(0.0, worst);
    let apart = |(a, b): (&Vec<f64>, &Vec<f64>)| {
        let pairs = a.iter().zip(b);
        if matches!(results, Results::Codes | Results::CodesOf(_)) {
            return pairs.filter(|(a, b)| a != b).count() as f64 / a.len().max(1) as f64;
        }
        let scale = largest(b).max(1e-3 * of_all).max(f64::MIN_POSITIVE);
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, worst) / scale
    };
    ours.iter().zip(theirs).map(apart).fold(0.0, worst)
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
        use Results::{Codes, Numbers};
        let apart = |a: &[f64], b: &[f64], results| {
            difference(&[vec![1.0], a.to_vec()], &[vec![1.0], b.to_vec()], results)
        };
        assert_eq!(apart(&[1.0, 2.0], &[1.0, 4.0], Numbers), 0.5);
        assert_eq!(apart(&[1.0, 2.0], &[1.0, 4.0], Codes), 0.5);
        assert_eq!(apart(&[1.0], &[1.0, 4.0], Numbers), f64::INFINITY);
        assert!(apart(&[f64::NAN, 1.0], &[1.0, 1.0], Numbers).is_nan());
        // A gradient that is 0 but for rounding.
        assert!(apart(&[1e-9], &[-1e-9], Numbers) < 1e-5);
    }
}
