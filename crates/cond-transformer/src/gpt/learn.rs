//! Training of the minGPT-style model.

use candle_core::Tensor;
use layers::sequence::{Heads, add_positions_taped, embed_taped, gelu_taped, row_norm_taped};
use layers::{Factors, Gradients, Tape};

use super::Gpt;
use super::block::Block;
use crate::learn::{Dropouts, Place, attention, learn_codes, residual};
use crate::{Error, Result};

impl Gpt {
    /// The mean negative log-likelihood, in nats, of `targets` `[B, L]` (u32) at the
    /// last L positions of `tokens` `[B, T]` (u32); the gradients of all parameters are
    /// added to `gradients`, if given. On a CPU products may be rounded to `factors`.
    ///
    /// The result is a scalar, f64, on the model's device, which nobody waits for if
    /// `targets` are on the CPU.
    ///
    /// For a condition c of N tokens and codes z, `tokens` is `cat(c, z)` without its
    /// last token, and `targets` is z (`Net2NetTransformer.shared_step`).
    ///
    /// # Errors
    /// If there are more positions than `block_size`, or tokens without a row.
    pub fn learn(
        &self,
        tokens: &Tensor,
        targets: &Tensor,
        dropouts: &Dropouts,
        factors: Factors,
        gradients: Option<&mut Gradients>,
    ) -> Result<Tensor> {
        let (_, len) = tokens.dims2()?;
        if len > self.config.block_size {
            return Err(Error::ContextFull {
                what: "the model's context (block_size)",
                positions: len,
                limit: self.config.block_size,
            });
        }
        let mut tape = Tape::from_data().with_factors(factors);
        let x = embed_taped(tokens, self.tok_emb.embeddings(), &mut tape)?;
        let x = add_positions_taped(&x, &self.pos_emb, &mut tape)?;
        let mut x = dropouts.at(Place::Embedding).apply_taped(&x, &mut tape)?;
        let heads = self.config.n_head;
        let unmasked = self.config.n_unmasked;
        let heads = Heads { heads, shared: heads, unmasked, factors };
        for (number, block) in self.blocks.iter().enumerate() {
            x = block.forward_taped(&x, heads, number, dropouts, &mut tape)?;
        }
        let x = row_norm_taped(&self.ln_f.trained(), &x, &mut tape)?;
        Ok(learn_codes(&x, &self.head.trained(&tape)?, targets, tape, gradients)?)
    }
}

impl Block {
    /// Block number `number` on a tape, `[B, T, C]` to the same shape.
    fn forward_taped(
        &self,
        x: &Tensor,
        heads: Heads,
        number: usize,
        dropouts: &Dropouts,
        tape: &mut Tape,
    ) -> candle_core::Result<Tensor> {
        let layers =
            [self.query.trained(tape)?, self.key.trained(tape)?, self.value.trained(tape)?];
        let after = dropouts.at(Place::AfterAttention(number));
        let x = residual(x, &self.proj.trained(tape)?, after, tape, |x, tape| {
            let x = row_norm_taped(&self.ln1.trained(), x, tape)?;
            attention(&x, layers, heads, dropouts.at(Place::Attention(number)), tape)
        })?;
        let after = dropouts.at(Place::AfterFeedForward(number));
        residual(&x, &self.contract.trained(tape)?, after, tape, |x, tape| {
            let x = row_norm_taped(&self.ln2.trained(), x, tape)?;
            let hidden = self.expand.trained(tape)?.forward_taped(&x, None, tape)?;
            gelu_taped(&hidden, tape)
        })
    }
}
