//! Training of the LlamaGen-style model, behind a class.

use candle_core::{D, Tensor};
use layers::sequence::{
    Dropout, Heads, Linear, embed_taped, gate_taped, input_gradient, rotate, row_norm_taped,
};
use layers::{Factors, Gradients, Tape};

use super::Llama;
use super::block::Block;
use super::prefix::Prefix;
use crate::learn::{Dropouts, Place, learn_codes, residual};
use crate::{Error, Result};

/// Cosine and sine of every position.
type Angles = (Tensor, Tensor);

impl Llama {
    /// The mean negative log-likelihood, in nats, of `targets` `[B, L]` (u32) behind
    /// `classes` `[B]` (u32) and the codes `[B, L - 1]` (u32) that the model reads; the
    /// gradients of all parameters are added to `gradients`, if given. On a CPU products
    /// may be rounded to `factors`. Class number
    /// `classes` of the configuration stands for none.
    ///
    /// The result is a scalar, f64, on the model's device, which nobody waits for if
    /// `targets` are on the CPU.
    ///
    /// # Errors
    /// If the model takes captions, or classes or codes have no row.
    pub fn learn(
        &self,
        classes: &Tensor,
        codes: &Tensor,
        targets: &Tensor,
        dropouts: &Dropouts,
        factors: Factors,
        gradients: Option<&mut Gradients>,
    ) -> Result<Tensor> {
        let Prefix::Class { table, .. } = &self.prefix else {
            return Err(Error::ConditionKind { takes: "a caption", given: "a class" });
        };
        let len = codes.dim(1)? + 1;
        let limit = self.config.block_size;
        if len > limit {
            let what = "the model's context (block_size)";
            return Err(Error::ContextFull { what, positions: len, limit });
        }
        let (mut of_class, mut of_codes) = (Tape::from_data(), Tape::from_data());
        let class = embed_taped(&classes.unsqueeze(1)?, table.embeddings(), &mut of_class)?;
        let codes = embed_taped(codes, self.tok_embeddings.embeddings(), &mut of_codes)?;
        let x = Tensor::cat(&[class, codes], 1)?;
        let mut tape = Tape::from_data().with_factors(factors);
        tape.push(move |dy, _, gradients| {
            of_class.backward(&dy.narrow(1, 0, 1)?, gradients)?;
            of_codes.backward(&dy.narrow(1, 1, len - 1)?, gradients)?;
            Ok(None)
        });

        let mut x = dropouts.at(Place::Embedding).apply_taped(&x, &mut tape)?;
        let (cosine, sine) = &self.rotary;
        let angles = (cosine.narrow(0, 0, len)?, sine.narrow(0, 0, len)?);
        for (number, block) in self.layers.iter().enumerate() {
            x = block.forward_taped(&x, &angles, number, dropouts, &mut tape)?;
        }
        let x = row_norm_taped(&self.norm.trained(), &x, &mut tape)?;
        Ok(learn_codes(&x, &self.output.trained(&tape)?, targets, tape, gradients)?)
    }
}

impl Block {
    /// Block number `number` on a tape, `[B, T, C]` to the same shape.
    fn forward_taped(
        &self,
        x: &Tensor,
        angles: &Angles,
        number: usize,
        dropouts: &Dropouts,
        tape: &mut Tape,
    ) -> candle_core::Result<Tensor> {
        let after = dropouts.at(Place::AfterAttention(number));
        let x = residual(x, &self.wo.trained(tape)?, after, tape, |x, tape| {
            let x = row_norm_taped(&self.attention_norm.trained(), x, tape)?;
            self.read_taped(&x, angles, dropouts.at(Place::Attention(number)), tape)
        })?;
        let after = dropouts.at(Place::AfterFeedForward(number));
        residual(&x, &self.w2.trained(tape)?, after, tape, |x, tape| {
            let x = row_norm_taped(&self.ffn_norm.trained(), x, tape)?;
            gated(&x, self.w1.trained(tape)?, self.w3.trained(tape)?, tape)
        })
    }

    /// What the heads read of `x` `[B, T, C]`.
    fn read_taped(
        &self,
        x: &Tensor,
        angles: &Angles,
        dropout: Dropout,
        tape: &mut Tape,
    ) -> candle_core::Result<Tensor> {
        let heads = Heads {
            heads: self.heads,
            shared: self.kv_heads,
            unmasked: 0,
            factors: tape.factors(),
        };
        let (own, shared) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let layer = self.wqkv.trained(tape)?;
        let split = |qkv: &Tensor| -> candle_core::Result<[Tensor; 3]> {
            let part = |start, width| qkv.narrow(D::Minus1, start, width)?.contiguous();
            let turn = |x: &Tensor| rotate(x, &angles.0, &angles.1, false);
            let (q, k) = (part(0, own)?, part(own, shared)?);
            Ok([turn(&q)?, turn(&k)?, part(own + shared, shared)?])
        };
        if !Heads::fast(x) {
            return tape.record(x, |x| {
                let [q, k, v] = split(&layer.formula(x)?)?;
                heads.formula(&q, &k, &v, &dropout)
            });
        }
        let [q, k, v] = split(&layer.forward(x, None)?)?;
        let read = heads.attend(&q, &k, &v, &dropout)?;
        let ((layer, trained), x, angles) = (layer.trained(tape)?, x.detach(), angles.clone());
        tape.push(move |dy, plus, gradients| {
            let found = heads.gradients(&q, &k, &v, dy, &dropout)?;
            let back = |x: &Tensor| rotate(x, &angles.0, &angles.1, true);
            let dqkv = Tensor::cat(&[back(&found.queries)?, back(&found.keys)?, found.values], 2)?;
            layer.parameter_gradients(&x, &dqkv, trained, gradients)?;
            input_gradient(&[(&dqkv, &layer)], plus).map(Some)
        });
        Ok(read)
    }
}

/// `silu(w1 x) * w3 x` on a tape.
fn gated(x: &Tensor, w1: Linear, w3: Linear, tape: &mut Tape) -> candle_core::Result<Tensor> {
    if !Heads::fast(x) {
        return tape.record(x, |x| w1.formula(x)?.silu()? * w3.formula(x)?);
    }
    let (y, back) = gate_taped(&w1.forward(x, None)?, &w3.forward(x, None)?)?;
    let (w1, w3, x) = (w1.trained(tape)?, w3.trained(tape)?, x.detach());
    tape.push(move |dy, plus, gradients| {
        let (da, db) = back(dy)?;
        for ((layer, trained), dy) in [(&w1, &da), (&w3, &db)] {
            layer.parameter_gradients(&x, dy, *trained, gradients)?;
        }
        input_gradient(&[(&da, &w1.0), (&db, &w3.0)], plus).map(Some)
    });
    Ok(y)
}
