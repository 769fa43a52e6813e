//! Transformers that draw code grids under a condition.
//!
//! A model implements [`NextCode`]: it reads [`Conditions`] and the codes so far, and
//! says how likely each code is to come next. Two are here:
//!
//! | model | positions | condition |
//! |---|---|---|
//! | [`Gpt`], minGPT-style (VQGAN) | learned | tokens of the codes' own vocabulary: a start token, a class, a code grid, [`Coordinates`], a layout ([`LayoutTokens`]) |
//! | [`Llama`], LLaMA-style (LlamaGen) | rotary, on a grid | a class, or text embeddings of a caption |
//!
//! What draws codes knows only the trait: [`generate`] and [`generate_grid`] up to the
//! model's size, with a [`KvCache`]; [`generate_raster`] and [`generate_wavefront`] at
//! any size, by a sliding [`Window`]. [`Sampling`] says how, [`Guidance`] how closely
//! to the condition, a [`Permuter`] in which order.
//!
//! Every random number belongs to a (seed, sample, position), see [`Stream`]: what is
//! drawn does not depend on the batch, the order of work, or a restart. (Logits of a
//! window computed whole and of one kept may differ in their last bits.)
//!
//! Training is [`Gpt::learn`] and [`Llama::learn`], on tapes of [`layers`]. The `forward`
//! methods have gradients by candle's graph, which tests compare with those; all else is
//! inference, with candle's fused ops (which have none).

mod attention;
mod condition;
mod coordinates;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod decoder;
mod error;
mod generate;
mod gpt;
mod kv_cache;
mod layout;
mod learn;
mod linear;
mod llama;
mod next_code;
mod norm;
mod permuter;
mod sampling;
mod score;
mod sliding;
mod weights;

pub use condition::Conditions;
pub use coordinates::Coordinates;
pub use error::{Error, NoCode, Result};
pub use generate::{Request, generate, generate_grid, keep_rows};
pub use gpt::{Gpt, GptConfig};
pub use kv_cache::{CacheShape, KvCache};
pub use layout::{Layout, LayoutTokens, Object, Places, Rect};
pub use learn::Dropouts;
pub use llama::{Llama, LlamaConfig, PrefixConfig};
pub use next_code::{Draw, NextCode};
pub use permuter::{Order, Permuter};
pub use sampling::{Chooser, Guidance, Sampling, Stream, filter_logits, probabilities};
pub use score::{code_nats, window_nats};
pub use sliding::{
    Middle, Progress, Scene, Scenes, Wavefront, Window, WindowConditions, WindowRequest,
    generate_raster, generate_wavefront,
};
pub use weights::{BlockMatrices, WeightFormat};
