//! What both models share in training: residuals, attention and dropout on tapes.

use candle_core::{Result, Tensor};
use layers::sequence::{Dropout, Heads, Linear, classify, input_gradient};
use layers::{Gradients, Tape};

/// Shares of activations that are left out in training, and the key of what is random
/// about it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Dropouts {
    /// Of the embedded sequence.
    pub embedding: f64,
    /// Of what attention and feed-forward part add.
    pub residual: f64,
    /// Of attention weights.
    pub attention: f64,
    /// Seed of the generator.
    pub seed: u64,
    /// Number of the forward pass: every pass has masks of its own.
    pub pass: u64,
}

/// A place in a network where something is left out.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    Embedding,
    Attention(usize),
    AfterAttention(usize),
    AfterFeedForward(usize),
}

impl Dropouts {
    /// The dropout at `place`.
    pub(crate) fn at(&self, place: Place) -> Dropout {
        let (share, number) = match place {
            Place::Embedding => (self.embedding, 0),
            Place::Attention(block) => (self.attention, 1 + 3 * block),
            Place::AfterAttention(block) => (self.residual, 2 + 3 * block),
            Place::AfterFeedForward(block) => (self.residual, 3 + 3 * block),
        };
        // Passes have 2^24 places each.
        let stream = (self.pass << 24).wrapping_add(number as u64).wrapping_add(1 << 63);
        Dropout { share, seed: self.seed, stream }
    }
}

/// `x + dropout(last(body(x)))` on a tape.
pub(crate) fn residual(
    x: &Tensor,
    last: &Linear,
    dropout: Dropout,
    tape: &mut Tape,
    body: impl FnOnce(&Tensor, &mut Tape) -> Result<Tensor>,
) -> Result<Tensor> {
    let mut branch = tape.branch();
    let hidden = body(x, &mut branch)?;
    let y = if dropout.is_on() {
        let made = last.forward_taped(&hidden, None, &mut branch)?;
        (x + dropout.apply_taped(&made, &mut branch)?)?
    } else {
        last.forward_taped(&hidden, Some(x), &mut branch)?
    };
    tape.push(move |dy, plus, gradients| {
        let sum = plus.map(|plus| dy + plus).transpose()?;
        branch.backward_add(dy, Some(sum.as_ref().unwrap_or(dy)), gradients)
    });
    Ok(y)
}

/// What heads read, `[B, T, H D]`, for queries, keys and values made of `x`
/// `[B, T, C]`, on a tape.
pub(crate) fn attention(
    x: &Tensor,
    layers: [Linear; 3],
    heads: Heads,
    dropout: Dropout,
    tape: &mut Tape,
) -> Result<Tensor> {
    if !Heads::fast(x) {
        return tape.record(x, |x| {
            let [query, key, value] = &layers;
            heads.formula(&query.formula(x)?, &key.formula(x)?, &value.formula(x)?, &dropout)
        });
    }
    let [query, key, value] = &layers;
    let (q, k, v) = (query.forward(x, None)?, key.forward(x, None)?, value.forward(x, None)?);
    let read = heads.attend(&q, &k, &v, &dropout)?;
    let [query, key, value] = [query.trained(tape)?, key.trained(tape)?, value.trained(tape)?];
    let x = x.detach();
    tape.push(move |dy, plus, gradients| {
        let found = heads.gradients(&q, &k, &v, dy, &dropout)?;
        let (dq, dk, dv) = (found.queries, found.keys, found.values);
        for ((layer, trained), dy) in [(&query, &dq), (&key, &dk), (&value, &dv)] {
            layer.parameter_gradients(&x, dy, *trained, gradients)?;
        }
        input_gradient(&[(&dq, &query.0), (&dk, &key.0), (&dv, &value.0)], plus).map(Some)
    });
    Ok(read)
}

/// The mean negative log-likelihood of `targets` `[B, L]` (u32, on the CPU) at the last L
/// positions of `x` `[B, T, C]` under `head`: a scalar, f64, on the device of `x`; with
/// `gradients`, goes back through `tape` too.
pub(crate) fn learn_codes(
    x: &Tensor,
    head: &Linear,
    targets: &Tensor,
    tape: Tape,
    gradients: Option<&mut Gradients>,
) -> Result<Tensor> {
    let ((batch, len, width), (_, count)) = (x.dims3()?, targets.dims2()?);
    if count > len || targets.dim(0)? != batch {
        candle_core::bail!("targets {:?} for positions {:?}", targets.shape(), x.shape())
    }
    let wanted = x.narrow(1, len - count, count)?.contiguous()?.reshape((batch * count, width))?;
    let targets = targets.flatten_all()?.to_vec1::<u32>()?;
    let found = classify(&wanted, head, &targets, gradients.is_some())?;
    if let (Some(gradients), Some((dx, dw))) = (gradients, found.gradients) {
        gradients.add(&head.weight, dw)?;
        let dx = dx.reshape((batch, count, width))?.pad_with_zeros(1, len - count, 0)?;
        tape.backward(&dx, gradients)?;
    }
    Ok(found.nll)
}
