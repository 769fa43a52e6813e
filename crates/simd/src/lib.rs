//! What kernels that run at the speed of the processor are made of.
//!
//! | file | what |
//! |---|---|
//! | [`isa`] | which instruction sets this machine has |
//! | [`vector`] | registers of f32: a kernel is written once over [`vector::Vector`] |
//! | [`elementary`] | `e^x`, the logistic function and the error function without calls or branches |
//! | [`shared_mut`] | a buffer that parallel tasks write disjoint parts of |
//! | [`tiles`] | registers that hold tiles of bf16 matrices |
//! | [`scratch`] | working memory that is reused |
//!
//! Knows nothing of tensors or networks.

pub mod elementary;
pub mod isa;
pub mod scratch;
pub mod shared_mut;
pub mod tiles;
pub mod vector;
