//! What transformers over sequences are made of, for training: every layer on a
//! [`Tape`](crate::Tape), f32 on the CPU and what NVIDIA GPUs take by kernels of its own,
//! everything else by the formula in candle's graph, which is also what tests compare the
//! kernels with.
//!
//! | file | what |
//! |---|---|
//! | `linear` | `x W^T + b`, with a residual added on the way |
//! | `row_norm` | layer norm and RMS norm of rows |
//! | `gelu` | exact GELU, and SwiGLU's gate |
//! | `heads` | causal attention of many heads |
//! | `classify` | the last linear layer with soft-max and cross entropy |
//! | `rotary` | rotary positions |
//! | `embed` | rows of a table |
//! | `dropout` | dropout whose mask is a function of a key |

mod classify;
#[cfg(feature = "cuda")]
mod cuda;
mod dropout;
mod embed;
mod gelu;
mod heads;
mod linear;
mod rotary;
mod row_norm;
#[cfg(feature = "cuda")]
pub(crate) mod scores;

pub use classify::{Classified, classify};
pub use dropout::Dropout;
pub use embed::{add_positions_taped, embed_taped};
pub use gelu::{gate_taped, gelu_taped};
pub use heads::{Heads, HeadsGradients};
pub use linear::{Linear, input_gradient};
pub use rotary::rotate;
pub use row_norm::{RowNorm, row_norm_taped};
