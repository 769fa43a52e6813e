//! Every layer on an NVIDIA GPU against itself on the CPU: outputs and gradients, in
//! candle's graph and on tapes. One binary, to be carried to where there is a GPU; where
//! there is none, every test says so and passes.
#![cfg(feature = "cuda")]

mod chain;
mod convolution;
mod elsewhere;
mod foreach;
mod harness;
mod heads;
mod norms;
mod sequence;
