//! Who competes with us.

/// A rival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// candle's own ops.
    Candle,
    /// torch in its default layout.
    Torch,
    /// torch with everything in its channels-last format.
    TorchChannelsLast,
    /// torch in channels-last and in the half precision that was asked for; in training by
    /// autocast.
    TorchHalf,
    /// FAISS, exhaustive search.
    Faiss,
    /// VQGAN's transformer in torch, with its samplers.
    MinGpt,
    /// LlamaGen's transformer in torch, with its `generate`.
    LlamaGen,
    /// The same, its decoding step compiled, on a GPU.
    LlamaGenCompiled,
}

impl Tool {
    /// The name in tables, JSON and requests to Python.
    pub fn name(self) -> &'static str {
        match self {
            Self::Candle => "candle",
            Self::Torch => "torch",
            Self::TorchChannelsLast => "torch channels-last",
            Self::TorchHalf => "torch half",
            Self::Faiss => "faiss",
            Self::MinGpt => "minGPT",
            Self::LlamaGen => "LlamaGen",
            Self::LlamaGenCompiled => "LlamaGen compiled",
        }
    }
}
