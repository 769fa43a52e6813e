//! Reading and writing weights and configurations.
//!
//! A network here is built from a map of named tensors, and this crate is where
//! that map comes from and goes to. It knows names, shapes and element types,
//! and nothing of what the tensors mean.
//!
//! - [`TensorFile`]: the weights of a checkpoint: safetensors, torch zip, legacy
//!   torch, or the index of a sharded one, found out by content. Opening reads
//!   names and shapes only; a tensor's bytes are read when it is asked for, so
//!   the optimiser state that is two thirds of a published checkpoint is never
//!   touched. Pickles are parsed as data: nothing in them is ever called.
//! - [`expected_tensors`] and [`load_checked`]: what a network needs, and one
//!   message for everything in a file that does not fit it.
//! - [`model_folder`], [`reference_config`] and [`codes_file`]: our model
//!   folder, the reference's run folder with its YAML, and codes on disk.
//! - [`atomic_write`], [`save_safetensors`], [`sha256_file`]: whole files or
//!   nothing, the same bytes for the same content.
//!
//! Every file is taken to be hostile: lengths are checked before they are used
//! and each limit is a named constant beside the code that it guards.

pub mod codes_file;
pub mod model_folder;
pub mod reference_config;

mod atomic;
mod blocks;
mod copies;
mod element;
mod error;
mod expected;
mod hash;
mod key_use;
mod legacy_torch;
mod load;
mod pickle;
mod read_limited;
mod safetensors_file;
mod slab;
mod tensor_file;
mod torch_write;
mod torch_zip;
mod write;
mod zip_directory;

pub use atomic::atomic_write;
pub use blocks::BlockMatrix;
pub use copies::{Copies, copy_safetensors};
pub use error::{Error, Result};
pub use expected::expected_tensors;
pub use hash::{sha256_bytes, sha256_file};
pub use key_use::{KeyUse, reference_key_use};
pub use load::{LoadReport, Mismatch, check_names, load_checked};
pub use pickle::state_dict::Weights;
pub use read_limited::read_limited;
pub use safetensors::Dtype as StoredDType;
pub use tensor_file::{Derived, FileKind, TensorFile};
pub use torch_write::copy_torch;
pub use write::save_safetensors;
