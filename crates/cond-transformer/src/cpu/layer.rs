//! A decoder block as the kernels see it.

use super::matrix::{Matrix, Numbers};

/// `x weight^T + bias`.
pub(crate) struct Affine<'a> {
    pub(crate) weight: Matrix<'a>,
    pub(crate) bias: Option<Numbers<'a>>,
}

/// A norm over the last dimension.
pub(crate) enum Norm<'a> {
    Layer { weight: Numbers<'a>, bias: Numbers<'a>, eps: f32 },
    Rms { weight: Numbers<'a>, eps: f32 },
}

/// What follows attention.
pub(crate) enum FeedForward<'a> {
    /// `contract(gelu(expand(x)))`.
    Gelu { expand: Affine<'a>, contract: Affine<'a> },
    /// `down(silu(gate(x)) * up(x))`.
    Gated { gate: Affine<'a>, up: Affine<'a>, down: Affine<'a> },
}

/// A pre-norm decoder block.
pub(crate) struct Layer<'a> {
    pub(crate) attention_norm: Norm<'a>,
    /// Side by side the queries `[H D]`, then keys and values `[H' D]` each.
    pub(crate) inputs: Vec<Affine<'a>>,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) output: Affine<'a>,
    pub(crate) feed_forward_norm: Norm<'a>,
    pub(crate) feed_forward: FeedForward<'a>,
}

impl Layer<'_> {
    /// Width of queries, keys and values side by side.
    pub(crate) fn inputs_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Width between the two halves of the feed-forward part.
    pub(crate) fn hidden_width(&self) -> usize {
        match &self.feed_forward {
            FeedForward::Gelu { expand, .. } => expand.weight.rows(),
            FeedForward::Gated { gate, .. } => gate.weight.rows(),
        }
    }

    /// Multiply-adds of a row.
    pub(crate) fn operations(&self) -> usize {
        let of = |affine: &Affine| affine.weight.rows() * affine.weight.columns();
        let feed_forward = match &self.feed_forward {
            FeedForward::Gelu { expand, contract } => of(expand) + of(contract),
            FeedForward::Gated { gate, up, down } => of(gate) + of(up) + of(down),
        };
        self.inputs.iter().map(of).sum::<usize>() + of(&self.output) + feed_forward
    }
}
