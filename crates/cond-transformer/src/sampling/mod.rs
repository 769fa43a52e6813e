//! From logits to a code.

mod choose;
mod config;
mod filter;
mod guidance;
mod stream;

pub use choose::Chooser;
pub use config::Sampling;
pub use filter::{filter_logits, probabilities};
pub use guidance::Guidance;
pub use stream::Stream;
