//! Binary cross entropy with logits, in one pass each way.

use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::elementwise::{CHUNK, Zip3, source};

const OP: &str = "bce-with-logits";

/// The mean over all elements of `max(x, 0) - x y + log(1 + exp(-|x|))`, which is
/// `-y log σ(x) - (1 - y) log(1 - σ(x))` for logits x of any size: a scalar. `logits` and
/// `targets` (in `[0, 1]`) are f32 of one shape; the gradient is that of the logits.
///
/// Source: `F.binary_cross_entropy_with_logits` in `BCELossWithQuant` of
/// taming-transformers, `modules/losses/segmentation.py`.
///
/// # Errors
/// If the shapes differ or are empty, or a tensor is not f32.
pub(crate) fn binary_cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    if logits.shape() != targets.shape() || logits.elem_count() == 0 {
        bail!("{OP}: logits {:?} and targets {:?}", logits.dims(), targets.dims());
    }
    if !logits.device().is_cpu() {
        return by_formula(logits, targets);
    }
    logits.contiguous()?.apply_op2(&targets.contiguous()?, BceWithLogits)
}

/// The same from candle's ops, for other devices.
fn by_formula(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let softplus = (layers::abs(logits)?.neg()?.exp()? + 1.0)?.log()?;
    ((layers::relu(logits)? - (logits * targets)?)? + softplus)?.mean_all()
}

struct BceWithLogits;

impl CustomOp2 for BceWithLogits {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        logits: &CpuStorage,
        logits_layout: &Layout,
        targets: &CpuStorage,
        targets_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = source(OP, logits, logits_layout)?;
        let y = source(OP, targets, targets_layout)?;
        // Of fixed chunks, in order: the sum does not depend on the number of threads.
        let parts: Vec<f64> = x
            .par_chunks(CHUNK)
            .zip(y.par_chunks(CHUNK))
            .map(|(x, y)| x.iter().zip(y).map(|(&x, &y)| f64::from(loss(x, y))).sum())
            .collect();
        let mean = parts.iter().sum::<f64>() / x.len() as f64;
        Ok((CpuStorage::F32(vec![mean as f32]), Shape::from(())))
    }

    fn bwd(
        &self,
        logits: &Tensor,
        targets: &Tensor,
        _loss: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let scale = upstream.to_scalar::<f32>()? / logits.elem_count() as f32;
        let gradient = Tensor::zeros(logits.shape(), DType::F32, logits.device())?;
        let slope = move |_: f32, x: f32, y: f32| scale * slope(x, y);
        gradient.inplace_op3(&logits.detach(), &targets.detach(), &Zip3(OP, slope))?;
        Ok((Some(gradient), None))
    }
}

fn loss(x: f32, y: f32) -> f32 {
    x.max(0.0) - x * y + (-x.abs()).exp().ln_1p()
}

/// `σ(x) - y`, as `(1 - y) σ(x) - y σ(-x)`: without cancellation where the two are close.
fn slope(x: f32, y: f32) -> f32 {
    let e = (-x.abs()).exp();
    let (near, far) = (1.0 / (1.0 + e), e / (1.0 + e));
    let (yes, no) = if x >= 0.0 { (near, far) } else { (far, near) };
    (1.0 - y) * yes - y * no
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    /// Logits from tiny to huge, each with targets 0, 1 and between; more than a chunk.
    fn pairs() -> Vec<(f32, f32)> {
        let mut pairs = Vec::new();
        for size in [0.0f32, 1e-6, 0.3, 1.0, 4.0, 17.0, 40.0, 88.0, 89.5, 104.0, 1e4, 1e30] {
            for x in [size, -size] {
                pairs.extend([0.0, 1.0, 0.25].map(|y| (x, y)));
            }
        }
        let wave =
            |i: usize| (8.0 * (i as f32 * 0.37).sin(), f32::from(u8::from(i.is_multiple_of(3))));
        pairs.extend((0..CHUNK + 456).map(wave));
        pairs
    }

    /// The formula in f64.
    fn expected(x: f32, y: f32) -> (f64, f64) {
        let (x, y) = (f64::from(x), f64::from(y));
        let value = x.max(0.0) - x * y + (-x.abs()).exp().ln_1p();
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        (value, (1.0 - y) * sigmoid(x) - y * sigmoid(-x))
    }

    #[test]
    fn the_formula_is_the_same() -> anyhow::Result<()> {
        let x = Var::new(&[-30f32, -2.0, -0.5, 0.5, 3.0, 25.0], &Device::Cpu)?;
        let y = Tensor::new(&[0f32, 1.0, 0.25, 0.0, 1.0, 0.0], &Device::Cpu)?;
        let (fast, plain) = (binary_cross_entropy(&x, &y)?, by_formula(&x, &y)?);
        let apart = (fast.to_scalar::<f32>()? - plain.to_scalar::<f32>()?).abs();
        assert!(apart < 1e-5, "{apart}");
        let gradient = |loss: &Tensor| -> anyhow::Result<Vec<f32>> {
            let store = loss.backward()?;
            Ok(store.get(&x).expect("x is a variable").to_vec1()?)
        };
        for (a, b) in gradient(&fast)?.into_iter().zip(gradient(&plain)?) {
            assert!((a - b).abs() < 1e-6, "{a} {b}");
        }
        Ok(())
    }

    #[test]
    fn values_and_slopes_are_those_of_f64() {
        for (x, y) in pairs() {
            let (value, gradient) = expected(x, y);
            for (actual, expected) in [(loss(x, y), value), (slope(x, y), gradient)] {
                // What is below the smallest normal number may vanish.
                let tolerance = 1e-6 * expected.abs() + f64::from(f32::MIN_POSITIVE);
                let error = (f64::from(actual) - expected).abs();
                assert!(error <= tolerance, "{x} {y}: {actual} for {expected}");
            }
        }
    }

    #[test]
    fn the_loss_is_a_mean_with_its_gradient_in_any_layout() -> anyhow::Result<()> {
        // Sums of huge values say nothing of the rest.
        let pairs: Vec<_> = pairs().into_iter().filter(|(x, _)| x.abs() < 1e3).collect();
        let rows = pairs.len() / 2;
        let tensor = |values: Vec<f32>| {
            Tensor::from_vec(values, (rows, 2), &Device::Cpu).and_then(|tensor| tensor.t())
        };
        let (x, y): (Vec<_>, Vec<_>) = pairs.iter().take(2 * rows).copied().unzip();
        let x = Var::from_tensor(&tensor(x)?)?;
        let value = (binary_cross_entropy(&x, &tensor(y)?)? * 3.0)?;
        let n = 2 * rows;
        let mean = pairs[..n].iter().map(|&(x, y)| expected(x, y).0).sum::<f64>() / n as f64;
        let relative = f64::from(value.to_scalar::<f32>()?) / (3.0 * mean) - 1.0;
        assert!(relative.abs() < 1e-6, "{relative}");
        let store = value.backward()?;
        let gradient = store.get(&x).ok_or_else(|| anyhow::anyhow!("no gradient"))?;
        let gradient = gradient.t()?.flatten_all()?.to_vec1::<f32>()?;
        assert_eq!(gradient.len(), n);
        for (actual, &(x, y)) in gradient.iter().zip(&pairs) {
            let expected = 3.0 * expected(x, y).1 / n as f64;
            let tolerance = 1e-6 * expected.abs() + f64::from(f32::MIN_POSITIVE);
            assert!((f64::from(*actual) - expected).abs() <= tolerance, "{x} {y}: {actual}");
        }
        Ok(())
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() -> Result<()> {
        let zeros = |n| Tensor::zeros(n, DType::F32, &Device::Cpu);
        assert!(binary_cross_entropy(&zeros(3)?, &zeros(4)?).is_err());
        assert!(binary_cross_entropy(&zeros(0)?, &zeros(0)?).is_err());
        let ints = Tensor::zeros(3, DType::U32, &Device::Cpu)?;
        assert!(binary_cross_entropy(&zeros(3)?, &ints).is_err());
        Ok(())
    }
}
