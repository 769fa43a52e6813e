//! The building blocks that every network here shares, on candle.
//!
//! | file | what |
//! |---|---|
//! | [`conv`] | convolution with any kernel, stride and (asymmetric) padding |
//! | [`mod@group_norm`] | group norm, alone or with SiLU behind it |
//! | [`mod@batch_norm`] | batch norm with leaky ReLU, for training |
//! | [`resample`] | nearest upsampling, the reference's strided downsampling |
//! | [`attention`] | single-head attention over a feature map |
//! | [`mod@tape`] | gradients of chains of these layers without candle's graph |
//! | [`mod@sequence`] | what transformers are made of, for training |
//! | [`activation`] | SiLU, ReLU, leaky ReLU, absolute value with right gradients at 0 |
//! | [`cuda`] | what NVIDIA GPUs (feature `cuda`) do differently |
//!
//! Every block takes a [`candle_nn::VarBuilder`] last; the checkpoint key is the
//! code path. Blocks know nothing of the network they are part of.

pub mod activation;
pub mod attention;
pub mod batch_norm;
pub mod conv;
mod cpu;
pub mod cuda;
mod device;
mod factors;
pub mod group_norm;
mod matrix;
mod reduce;
pub mod resample;
pub mod sequence;
mod softmax;
pub mod tape;
mod wide;

// What the kernels here are made of.
use simd::{elementary, isa, scratch, shared_mut, vector};

pub use activation::{abs, leaky_relu, relu, relu_taped, silu};
pub use attention::{AttnBlock, KeysValues, attn_block};
pub use batch_norm::{BatchNormLeaky, BatchStatistics};
pub use conv::{Conv2d, Conv2dConfig, Padding, conv2d, conv2d_no_bias};
pub use factors::Factors;
pub use group_norm::{GroupNorm, Moments, NormSilu, group_norm};
pub use resample::{
    Downsample, Upsample, downsample, max_pool2x2, max_pool2x2_taped, upsample, upsample_nearest2x,
    upsample_nearest2x_taped,
};
pub use tape::{Gradients, Tape, Taped};
