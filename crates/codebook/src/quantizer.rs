//! The seam between autoencoders and quantizers.

use candle_core::Tensor;

use crate::{CodeGrid, Losses, Result};

/// What quantizing a feature map gives.
#[derive(Clone, Debug)]
pub struct Quantized {
    /// The vectors of the codes, `[B, D, H, W]`, with the straight-through gradient.
    pub embeddings: Tensor,
    /// The codes, `[B, H, W]`.
    pub codes: CodeGrid,
    /// The losses.
    pub losses: Losses,
}

/// Feature maps to codes and back.
///
/// [`quantize`](Self::quantize) is the pass for training, with losses and
/// gradients; [`codes`](Self::codes) and [`embed`](Self::embed) are all that
/// inference needs. What only some quantizers do in training (temperature,
/// moving averages) is on their own types.
pub trait Quantizer: Send + Sync {
    /// Quantizes `z` `[B, D, H, W]`, with losses and the gradients to `z` and
    /// the codebook.
    ///
    /// # Errors
    /// If the shape does not fit, the batch is empty (its mean losses do not
    /// exist), or a value is NaN or infinite.
    fn quantize(&self, z: &Tensor) -> Result<Quantized>;

    /// [`quantize`](Self::quantize) for callers who find out for themselves whether all values
    /// are finite: on a GPU nobody waits to see it, and vectors whose distances are not finite
    /// have the code `u32::MAX`, which no codebook has, and embeddings that mean nothing.
    /// Elsewhere it is the same.
    ///
    /// # Errors
    /// As [`quantize`](Self::quantize), but for values on a GPU.
    fn quantize_without_waiting(&self, z: &Tensor) -> Result<Quantized> {
        self.quantize(z)
    }

    /// The codes of `z` `[B, D, H, W]`, without losses or gradients.
    ///
    /// # Errors
    /// If the shape does not fit, or a value is NaN or infinite.
    fn codes(&self, z: &Tensor) -> Result<CodeGrid>;

    /// The vectors `[B, D, H, W]` of `codes`, in the dtype of the codebook.
    ///
    /// # Errors
    /// If a code is not below [`len`](Self::len).
    fn embed(&self, codes: &CodeGrid) -> Result<Tensor>;

    /// The number of codes.
    fn len(&self) -> usize;

    /// The length of the vectors that codes stand for.
    fn dim(&self) -> usize;

    /// Whether there are no codes; never true of a quantizer that was built.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
