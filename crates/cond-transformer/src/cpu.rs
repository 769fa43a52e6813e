//! Inference on the CPU: every weight read once a pass, at the speed of the memory.
//!
//! | file | what |
//! |---|---|
//! | `format` | f32, bf16, f16, GGML's 8 and 4 bits: how numbers are read into registers |
//! | `dot` | dot products of rows, many at a time, each one sum in one order |
//! | `matrix` | weights of any format, held in their place |
//! | `product` | linear layers and what becomes of their outputs, cut into tasks |
//! | `attention` | attention over the cache, without masks in memory |
//! | `pointwise` | norms, activations, soft-max |
//! | `team` | threads that stay together for a whole pass |
//! | `layer`, `pass` | a decoder block, and all of them |
//!
//! The plain twin is [`crate::decoder::Pass`] with candle's ops: other devices, f64, and
//! all that gradients pass through.

mod attention;
mod dot;
mod format;
mod layer;
mod matrix;
mod pass;
mod pointwise;
mod product;
mod team;

use candle_core::Tensor;

pub(crate) use attention::{Memory, Sight};
pub(crate) use layer::{Affine, FeedForward, Layer, Norm};
pub(crate) use matrix::{Kind, Matrix, Numbers};
pub(crate) use pass::{Pass, bytes, linear};

/// Whether the kernels may read `x`: on the CPU, of one of their dtypes, and nothing that
/// a gradient is wanted of.
pub(crate) fn reads(x: &Tensor) -> bool {
    x.device().is_cpu() && Kind::of(x.dtype()).is_some() && !x.track_op()
}
