//! Sequences longer than the model's context.

use candle_core::Tensor;

use super::Gpt;
use crate::sampling::Chooser;
use crate::{Conditions, NextCode, Result, Stream};

impl Gpt {
    /// Appends `steps` codes to `tokens: [B, T]` (u32); `[B, T + steps]`.
    ///
    /// Once the context is full, every step sees the last `block_size` tokens,
    /// with positions from 0 (the reference's `mingpt.sample`). `streams` has one
    /// entry a sequence; positions are counted from the start of `tokens`.
    ///
    /// # Errors
    /// If there is nothing to continue, or a logit is NaN.
    pub fn continue_tokens(
        &self,
        tokens: &Tensor,
        steps: usize,
        chooser: &Chooser,
        streams: &[Stream],
    ) -> Result<Tensor> {
        let block = self.config.block_size;
        let (batch, _) = tokens.dims2()?;
        let mut tokens = tokens.clone();
        let mut cache = self.cache(batch, block)?;
        for step in 0..steps {
            let len = tokens.dim(1)?;
            let logits = if step > 0 && len <= block {
                self.step(&tokens.narrow(1, len - 1, 1)?, &mut cache)?
            } else {
                let seen = len.min(block);
                let tail = tokens.narrow(1, len - seen, seen)?;
                self.prefill(&Conditions::Tokens(tail), None, &mut cache)?
            };
            let codes = chooser.choose_batch(&logits, streams, len)?;
            let codes = Tensor::from_vec(codes, (batch, 1), &self.device)?;
            tokens = Tensor::cat(&[&tokens, &codes], 1)?;
        }
        Ok(tokens)
    }
}
