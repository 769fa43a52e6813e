//! Gradients against central differences, in f64.

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Tensor, Var};

/// Distance of the two points of a difference from the middle.
const STEP: f64 = 1e-5;

/// Checks the gradient of `f`, a scalar, with respect to every element of every
/// input: `|analytic - numeric| <= tolerance * max(1, largest |analytic|)`.
///
/// `f` gets variables of the inputs' values in f64. It is called twice an element,
/// so inputs are small. Points where `f` has a kink are no place for differences.
pub fn check(
    name: &str,
    inputs: &[Tensor],
    tolerance: f64,
    f: impl Fn(&[Tensor]) -> candle_core::Result<Tensor>,
) -> Result<()> {
    let mut points: Vec<Tensor> = Vec::with_capacity(inputs.len());
    for input in inputs {
        points.push(Var::from_tensor(&input.to_dtype(DType::F64)?.copy()?)?.into_inner());
    }
    let grads = f(&points)?.backward()?;
    for i in 0..points.len() {
        let analytic = grads.get(&points[i]).with_context(|| format!("{name}: no gradient {i}"))?;
        let analytic = analytic.flatten_all()?.to_vec1::<f64>()?;
        let largest = analytic.iter().fold(1.0_f64, |m, g| m.max(g.abs()));
        let middle = points[i].flatten_all()?.to_vec1::<f64>()?;
        for (j, analytic) in analytic.iter().enumerate() {
            let at = |delta: f64| -> Result<f64> {
                let mut values = middle.clone();
                values[j] += delta;
                let moved = Tensor::from_vec(values, points[i].shape(), points[i].device())?;
                let mut moved_points = points.clone();
                moved_points[i] = moved;
                Ok(f(&moved_points)?.to_scalar::<f64>()?)
            };
            let numeric = (at(STEP)? - at(-STEP)?) / (2.0 * STEP);
            ensure!(
                (analytic - numeric).abs() <= tolerance * largest,
                "{name}: gradient of input {i}, element {j} is {analytic}, differences say {numeric}"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn a_right_gradient_passes_and_a_wrong_one_does_not() -> Result<()> {
        let x = Tensor::new(&[0.3_f64, -2.0], &Device::Cpu)?;
        check("right", std::slice::from_ref(&x), 1e-9, |p| p[0].sqr()?.sum_all())?;
        // The graph sees only one of the two factors.
        assert!(check("wrong", &[x], 1e-3, |p| (&p[0] * p[0].detach())?.sum_all()).is_err());
        Ok(())
    }
}
