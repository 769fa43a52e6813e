//! The seam between models and whatever draws codes from them.

use candle_core::{Device, Tensor};

use crate::{Chooser, Conditions, Guidance, KvCache, Result, Stream};

/// What [`NextCode::draw`] is to draw: codes `first..length` of every sequence.
pub struct Draw<'a> {
    /// Logits of the first of them, `[B, V]` (f32), or `[2 B, V]` under guidance,
    /// conditional rows first. Nobody else's: they may be overwritten.
    pub logits: Tensor,
    /// The first position.
    pub first: usize,
    /// Codes of a sequence, those before `first` included.
    pub length: usize,
    /// How a code is drawn.
    pub chooser: &'a Chooser,
    /// The random numbers of each sequence, B of them.
    pub streams: &'a [Stream],
    /// Guidance, if any.
    pub guidance: Option<&'a Guidance>,
    /// Codes that are given, `length` for each sequence; empty: none.
    pub forced: &'a [Vec<Option<u32>>],
    /// Is told the number of positions done.
    pub progress: &'a mut dyn FnMut(usize),
}

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

    /// Draws the codes that are left, without the host in between: those of every sequence,
    /// `length - first` each. The cache has read all that comes before the first.
    ///
    /// Provided: `None`, for a model that cannot; the caller draws one by one then.
    fn draw(&self, draw: &mut Draw<'_>, cache: &mut KvCache) -> Result<Option<Vec<Vec<u32>>>> {
        let _ = (draw, cache);
        Ok(None)
    }
}
