//! The adversary of a VQGAN: a patch critic, its losses, and its weight.
//!
//! | file | what |
//! |---|---|
//! | [`patchgan`] | the PatchGAN of pix2pix (Isola et al. 2017), keys `main.{i}.*` |
//! | [`batch_norm`], [`act_norm`] | its norms, whose statistics live in variables |
//! | [`losses`] | hinge, vanilla and non-saturating losses of both players |
//! | [`lecam`] | LeCam regularisation (Tseng et al. 2021) |
//! | [`r1`](mod@r1) | the R1 gradient penalty (Mescheder et al. 2018), exactly |
//! | `spectral` | spectral norm (Miyato et al. 2018) |
//! | [`adaptive_weight`](mod@adaptive_weight) | eq. 7 of the VQGAN paper, and the start step |
//!
//! The seam is [`Critic`]: images to logits. Trainers know only this.
//!
//! # Who owns the statistics
//! A norm's statistics (`running_mean`, `running_var`, `num_batches_tracked`;
//! ActNorm's `loc`, `scale`, `initialized`; spectral
//! norm's `weight_u`, `weight_v`) are taken from the `VarBuilder` like
//! any weight. If it hands out *variables* (a trainer's parameter store), a
//! training forward writes the new statistics into those very variables, so the
//! store sees and saves them. If it hands out plain tensors (a loaded file), the
//! network keeps private copies. [`is_buffer`] tells an optimiser which keys have
//! no gradient. `num_batches_tracked` (i64) and `initialized` (u8) are integers:
//! a store must keep the dtype that they are asked for in.

pub mod act_norm;
pub mod adaptive_weight;
pub mod batch_norm;
mod dual;
pub mod lecam;
pub mod losses;
mod norm_layer;
pub mod patchgan;
pub mod r1;
mod spectral;

pub use act_norm::ActNorm;
pub use adaptive_weight::{adaptive_weight, ramp};
pub use batch_norm::BatchNorm;
pub use lecam::LeCam;
pub use losses::{
    DiscriminatorLoss, GeneratorLoss, generator_loss, hinge_d_loss, llamagen_d_loss,
    llamagen_g_loss, non_saturating_g_loss, vanilla_d_loss,
};
pub use patchgan::{Norm, PatchGan, PatchGanConfig};
pub use r1::{R1, r1};

use candle_core::{Result, Tensor};
use layers::Tape;

/// Judges images patch by patch.
pub trait Critic: Send + Sync {
    /// Images `[B, C, H, W]` in `[-1, 1]` to one logit a patch, `[B, 1, h, w]`;
    /// higher means more real.
    ///
    /// With `train`, norms use (and update) the statistics of this batch: real
    /// and reconstructed images are separate calls, as in the reference.
    ///
    /// # Errors
    /// When the images do not fit the network.
    fn logits(&self, images: &Tensor, train: bool) -> Result<Tensor>;

    /// [`logits`](Self::logits) in training, without candle's graph: the way back is
    /// put on `tape`.
    ///
    /// # Errors
    /// As [`logits`](Self::logits).
    fn logits_taped(&self, images: &Tensor, tape: &mut Tape) -> Result<Tensor>;

    /// The derivative of [`logits`](Self::logits) in training, `[B, 1, h, w]`, as
    /// `images` move along `direction`, `[B, C, H, W]`: with candle's graph to the
    /// direction and to parameters, and without a change to statistics. It is linear in
    /// `direction`.
    ///
    /// # Errors
    /// As [`logits`](Self::logits), and when the shapes differ.
    fn tangent(&self, images: &Tensor, direction: &Tensor) -> Result<Tensor>;
}

/// Whether the tensor `key` of a discriminator is a buffer: written by training
/// forwards, never by an optimiser.
pub fn is_buffer(key: &str) -> bool {
    let name = key.rsplit('.').next().unwrap_or(key);
    matches!(
        name,
        "running_mean"
            | "running_var"
            | "num_batches_tracked"
            | "initialized"
            | "weight_u"
            | "weight_v"
    )
}

#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod support;
