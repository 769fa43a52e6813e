//! LeCam regularisation (Tseng et al. 2021, "Regularizing Generative Adversarial Networks
//! under Limited Data", eq. 5): a critic whose answers stay near its answers of late.

use candle_core::{DType, Result, Tensor};
use layers::relu;

/// Share of the old value in the averages; the paper's 0.99.
const DECAY: f64 = 0.99;

/// Running averages of a critic's logits, and the penalty for leaving them. They stay on the
/// critic's device, which nobody waits for.
#[derive(Clone, Debug, Default)]
pub struct LeCam {
    /// Averages of the logits of real and of made pictures, after the first batch: scalars,
    /// f64.
    pub anchors: Option<[Tensor; 2]>,
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
        let Some([on_real, on_fake]) = &self.anchors else { return Ok(None) };
        let real = real.broadcast_sub(&on_fake.to_dtype(real.dtype())?)?;
        let fake = on_real.to_dtype(fake.dtype())?.broadcast_sub(fake)?;
        let (real, fake) = (relu(&real)?.sqr()?.mean_all()?, relu(&fake)?.sqr()?.mean_all()?);
        Ok(Some((real + fake)?))
    }

    /// Moves the averages towards a batch's mean logits, which are scalars; the first batch
    /// sets them.
    ///
    /// # Errors
    /// When a tensor is not a float tensor, or on another device than those before.
    pub fn follow(&mut self, real: &Tensor, fake: &Tensor) -> Result<()> {
        let new = [real, fake].map(|mean| mean.detach().to_dtype(DType::F64));
        let [real, fake] = new;
        let new = [real?, fake?];
        let old = self.anchors.take().unwrap_or_else(|| new.clone());
        let blend = |i: usize| (&old[i] * DECAY)? + (&new[i] * (1.0 - DECAY))?;
        self.anchors = Some([blend(0)?, blend(1)?]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, Result};

    use super::*;
    use crate::support::noise_tensor;

    #[test]
    fn value_and_gradient_are_the_formulas() -> Result<()> {
        let device = candle_core::Device::Cpu;
        let anchors = [Tensor::new(0.5, &device)?, Tensor::new(-0.25, &device)?];
        let lecam = LeCam { anchors: Some(anchors) };
        let [real, fake] = [[1.0, -1.0], [1.5, -0.5]].map(|v| Tensor::new(&v, &device));
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
        let mut after = |real: f64, fake: f64| -> Result<[f64; 2]> {
            let mean = |value: f64| Tensor::new(value, logits.device());
            lecam.follow(&mean(real)?, &mean(fake)?)?;
            let [real, fake] = lecam.anchors.clone().context("averages")?;
            Ok([real.to_scalar()?, fake.to_scalar()?])
        };
        assert_eq!(after(2.0, -1.0)?, [2.0, -1.0]);
        let [real, fake] = after(3.0, -1.0)?;
        assert!((real - 2.01).abs() < 1e-12 && fake == -1.0);
        Ok(())
    }
}
