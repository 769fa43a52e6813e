//! What each player minimises, given patch logits of any shape; all return a scalar.
//!
//! Sources: taming/modules/losses/vqperceptual.py and LlamaGen's vq_loss.py.

use candle_core::{Result, Tensor};
use layers::relu;
use serde::{Deserialize, Serialize};

/// The discriminator's loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiscriminatorLoss {
    /// [`hinge_d_loss`], the reference's default.
    #[default]
    Hinge,
    /// [`vanilla_d_loss`].
    Vanilla,
    /// [`llamagen_d_loss`]: what LlamaGen calls non-saturating, arguments swapped.
    #[serde(rename = "llamagen_non_saturating")]
    LlamaGenNonSaturating,
}

impl DiscriminatorLoss {
    /// The loss of the logits of real and of made images.
    ///
    /// # Errors
    /// When a tensor is empty or not a float tensor.
    pub fn loss(self, real: &Tensor, fake: &Tensor) -> Result<Tensor> {
        match self {
            Self::Hinge => hinge_d_loss(real, fake),
            Self::Vanilla => vanilla_d_loss(real, fake),
            Self::LlamaGenNonSaturating => llamagen_d_loss(real, fake),
        }
    }
}

/// The generator's adversarial loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GeneratorLoss {
    /// [`generator_loss`]: of the hinge and the vanilla game in both references.
    #[default]
    Hinge,
    /// [`non_saturating_g_loss`], of the game whose discriminator has the vanilla loss.
    NonSaturating,
    /// [`llamagen_g_loss`]: what LlamaGen calls non-saturating, arguments swapped.
    #[serde(rename = "llamagen_non_saturating")]
    LlamaGenNonSaturating,
}

impl GeneratorLoss {
    /// The loss of the logits of made images.
    ///
    /// # Errors
    /// When the tensor is empty or not a float tensor.
    pub fn loss(self, fake: &Tensor) -> Result<Tensor> {
        match self {
            Self::Hinge => generator_loss(fake),
            Self::NonSaturating => non_saturating_g_loss(fake),
            Self::LlamaGenNonSaturating => llamagen_g_loss(fake),
        }
    }
}

/// `½ (mean max(0, 1 - real) + mean max(0, 1 + fake))`.
///
/// # Errors
/// When a tensor is empty or not a float tensor.
pub fn hinge_d_loss(real: &Tensor, fake: &Tensor) -> Result<Tensor> {
    let real = relu(&real.affine(-1.0, 1.0)?)?.mean_all()?;
    let fake = relu(&fake.affine(1.0, 1.0)?)?.mean_all()?;
    (real + fake)? * 0.5
}

/// `½ (mean softplus(-real) + mean softplus(fake))`: binary cross entropy.
///
/// # Errors
/// When a tensor is empty or not a float tensor.
pub fn vanilla_d_loss(real: &Tensor, fake: &Tensor) -> Result<Tensor> {
    let real = softplus(&real.neg()?)?.mean_all()?;
    let fake = softplus(fake)?.mean_all()?;
    (real + fake)? * 0.5
}

/// `-mean fake`.
///
/// # Errors
/// When the tensor is empty or not a float tensor.
pub fn generator_loss(fake: &Tensor) -> Result<Tensor> {
    fake.mean_all()?.neg()
}

/// `mean softplus(-fake)`, that is `-mean ln D` with the discriminator's probability D: the
/// generator's loss of Goodfellow et al. 2014 (section 3) that does not saturate where the
/// discriminator is sure.
///
/// # Errors
/// When the tensor is empty or not a float tensor.
pub fn non_saturating_g_loss(fake: &Tensor) -> Result<Tensor> {
    softplus(&fake.neg()?)?.mean_all()
}

/// LlamaGen's non-saturating discriminator loss, kept as it is: it calls
/// `binary_cross_entropy_with_logits(ones, real)` and `(zeros, fake)`, so the
/// constants are the logits and the logits the targets. It is linear in `real`
/// and constant in `fake`: the discriminator learns nothing from made images.
/// [`vanilla_d_loss`] is what was meant.
///
/// # Errors
/// When a tensor is empty or not a float tensor.
pub fn llamagen_d_loss(real: &Tensor, fake: &Tensor) -> Result<Tensor> {
    let real = cross_entropy_of_constant(1.0, real)?;
    let fake = cross_entropy_of_constant(0.0, fake)?;
    (real + fake)? * 0.5
}

/// LlamaGen's non-saturating generator loss, kept as it is (arguments swapped,
/// see [`llamagen_d_loss`]): `softplus(-1) + 1 - mean fake`, whose gradient
/// is that of [`generator_loss`].
///
/// # Errors
/// When the tensor is empty or not a float tensor.
pub fn llamagen_g_loss(fake: &Tensor) -> Result<Tensor> {
    cross_entropy_of_constant(1.0, fake)
}

/// Mean binary cross entropy of the constant logit `logit` against `targets`:
/// `max(l, 0) - l * target + ln(1 + e^-|l|)`.
fn cross_entropy_of_constant(logit: f64, targets: &Tensor) -> Result<Tensor> {
    let constant = logit.max(0.0) + (-logit.abs()).exp().ln_1p();
    targets.mean_all()?.affine(-logit, constant)
}

/// `ln(1 + e^x)` without overflow, its gradient `sigmoid(x)` everywhere.
///
/// The shift is a constant to the graph: any shift gives the same value, so none
/// carries gradient.
fn softplus(x: &Tensor) -> Result<Tensor> {
    let shift = relu(&x.detach())?;
    let sum = (x.sub(&shift)?.exp()? + shift.neg()?.exp()?)?;
    sum.log()? + shift
}

#[cfg(test)]
mod tests;
