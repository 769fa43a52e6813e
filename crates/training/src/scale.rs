//! What an update multiplies gradients by, and whether it happens at all.

use candle_core::Tensor;

/// The factor of gradients, by clipping; NaN where the batch is broken, and then an update
/// changes nothing.
///
/// On a GPU it is on the device, so that an update can be asked for before anybody knows
/// whether it will happen.
#[derive(Clone, Debug)]
pub enum Scale {
    /// A number that the host knows.
    Known(f64),
    /// `[1]`, f32.
    OnDevice(Tensor),
}

impl Scale {
    /// What all gradients are multiplied by so that their norm is at most `limit`
    /// (0: no limit), as `torch.nn.utils.clip_grad_norm_` computes it.
    pub(crate) fn clipping(norm: f64, limit: f64) -> Self {
        Self::Known(if limit > 0.0 { (limit / (norm + 1e-6)).min(1.0) } else { 1.0 })
    }

    /// That of a broken batch.
    pub(crate) fn broken() -> Self {
        Self::Known(f64::NAN)
    }

    /// Whether the host knows that the batch is broken.
    pub(crate) fn is_known_broken(&self) -> bool {
        matches!(self, Self::Known(scale) if scale.is_nan())
    }
}

impl From<f64> for Scale {
    fn from(scale: f64) -> Self {
        Self::Known(scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clipping_follows_torch() {
        let factor = |norm, limit| match Scale::clipping(norm, limit) {
            Scale::Known(factor) => factor,
            Scale::OnDevice(_) => f64::NAN,
        };
        assert_eq!(factor(5.0, 0.0), 1.0);
        assert_eq!(factor(0.5, 1.0), 1.0);
        assert!((factor(4.0, 1.0) - 0.25).abs() < 1e-6);
    }
}
