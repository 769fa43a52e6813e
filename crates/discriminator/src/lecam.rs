//! LeCam regularisation (Tseng et al. 2021, "Regularizing Generative Adversarial Networks
//! under Limited Data", eq. 5): a critic whose answers stay near its answers of late.

use candle_core::{Result, Tensor};
use layers::relu;

/// Share of the old value in the averages; the paper's 0.99.
const DECAY: f64 = 0.99;

/// Running averages of a critic's logits, and the penalty for leaving them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LeCam {
    /// Averages of the logits of real and of made pictures, after the first batch.
    pub anchors: Option<[f64; 2]>,
}

impl LeCam {
    /// `mean max(0, real - a_fake)² + mean max(0, a_real - fake)²`, a scalar, with the
    /// averages a of the batches before; `None` before there are any.
    ///
    /// The paper has no `max`; its authors' code does, and everyone's since: where a
    /// critic has the two the wrong way round nothing holds it there.
    ///
    /// # Errors
    /// When a tensor is empty or not a float tensor.
    pub fn penalty(&self, real: &Tensor, fake: &Tensor) -> Result<Option<Tensor>> {
        let Some([on_real, on_fake]) = self.anchors else { return Ok(None) };
        let real = relu(&(real - on_fake)?)?.sqr()?.mean_all()?;
        let fake = relu(&fake.affine(-1.0, on_real)?)?.sqr()?.mean_all()?;
        Ok(Some((real + fake)?))
    }

    /// Moves the averages towards a batch's mean logits; the first batch sets them.
    pub fn follow(&mut self, real: f64, fake: f64) {
        let old = self.anchors.unwrap_or([real, fake]);
        let blend = |old: f64, new: f64| DECAY * old + (1.0 - DECAY) * new;
        self.anchors = Some([blend(old[0], real), blend(old[1], fake)]);
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, Result};

    use super::*;
    use crate::support::noise_tensor;

    #[test]
    fn value_and_gradient_are_the_formulas() -> Result<()> {
        let lecam = LeCam { anchors: Some([0.5, -0.25]) };
        let [real, fake] =
            [[1.0, -1.0], [1.5, -0.5]].map(|v| Tensor::new(&v, &candle_core::Device::Cpu));
        let value = lecam.penalty(&real?, &fake?)?.context("a penalty")?;
        // Real: 1.25², 0; fake: 0, 1².
        assert!((value.to_scalar::<f64>()? - (1.25f64.powi(2) / 2.0 + 0.5)).abs() < 1e-12);

        let logits = [noise_tensor(1, (2, 1, 3, 3))?, noise_tensor(2, (2, 1, 3, 3))?];
        golden::gradients::check("lecam", &logits, 1e-8, |p| match lecam.penalty(&p[0], &p[1])? {
            Some(penalty) => Ok(penalty),
            None => candle_core::bail!("no penalty"),
        })
    }

    #[test]
    fn the_first_batch_sets_the_averages() -> Result<()> {
        let mut lecam = LeCam::default();
        let logits = noise_tensor(1, 3)?;
        assert!(lecam.penalty(&logits, &logits)?.is_none());
        lecam.follow(2.0, -1.0);
        assert_eq!(lecam.anchors, Some([2.0, -1.0]));
        lecam.follow(3.0, -1.0);
        let [real, fake] = lecam.anchors.context("averages")?;
        assert!((real - 2.01).abs() < 1e-12 && fake == -1.0);
        Ok(())
    }
}
