//! The seam between models and whatever draws codes from them.

use candle_core::{Device, Tensor};

use crate::{Conditions, KvCache, Result};

/// A model of code sequences under a condition: it says how likely each code is
/// to come next.
///
/// Cut here because the sampler and the sliding window need no more: they never
/// learn whether positions are learned or rotary, or how a condition is embedded.
/// The cache is apart from the model, so one model serves many batches at once.
pub trait NextCode: Send + Sync {
    /// The number of codes a logit is given for, condition tokens included where
    /// they share the table.
    fn vocabulary(&self) -> usize;

    /// The most positions a sequence may have, condition included. The code that
    /// is drawn last needs no position of its own.
    fn context(&self) -> usize;

    /// Where the model is.
    fn device(&self) -> &Device;

    /// An empty cache for `batch` sequences of `positions`, condition included.
    fn cache(&self, batch: usize, positions: usize) -> Result<KvCache>;

    /// Reads the conditions and the codes `[B, T]` (u32) that are known already,
    /// in one pass, into an empty or used cache (which is cleared).
    /// Logits `[B, V]` (f32) of the code that follows.
    fn prefill(
        &self,
        conditions: &Conditions,
        codes: Option<&Tensor>,
        cache: &mut KvCache,
    ) -> Result<Tensor>;

    /// Reads one or more further codes a sequence, `[B, T]` (u32). Logits `[B, V]` (f32)
    /// of the next.
    fn step(&self, codes: &Tensor, cache: &mut KvCache) -> Result<Tensor>;

    /// Logits `[B, V]` (f32) of the code after the first `known[b]` of sample b's
    /// codes `[B, T]` (u32), in one pass without a cache. Later codes are not seen.
    fn logits_after(
        &self,
        conditions: &Conditions,
        codes: &Tensor,
        known: &[usize],
    ) -> Result<Tensor>;

    /// Logits `[B, T, V]` (f32) of each of the codes `[B, T]` (u32), given the
    /// conditions and the codes before it: to score codes that are there.
    ///
    /// Provided: one pass a code.
    fn logits_of_all(&self, conditions: &Conditions, codes: &Tensor) -> Result<Tensor> {
        let (batch, length) = codes.dims2()?;
        let each = (0..length)
            .map(|known| self.logits_after(conditions, codes, &vec![known; batch]))
            .collect::<Result<Vec<_>>>()?;
        Ok(Tensor::stack(&each, 1)?)
    }
}
