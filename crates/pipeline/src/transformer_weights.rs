//! The weights of a transformer out of whatever a [`GeneratorSpec`] finds.

use std::collections::BTreeMap;
use std::path::PathBuf;

use candle_core::Tensor;
use checkpoints::TensorFile;

use crate::error::Result;
use crate::generator::GeneratorSpec;
use crate::network;
use crate::transformer_config::TransformerConfig;

/// A transformer that is not built yet: what training goes on from.
#[derive(Debug)]
pub struct TransformerWeights {
    /// What it is.
    pub config: TransformerConfig,
    /// The weights, in f32 on the CPU, under the names of the network. What is stored in
    /// blocks of 8 or 4 bits is what these stand for.
    pub tensors: BTreeMap<String, Tensor>,
    /// The content of `tokenizer.json`, where there is one.
    pub tokenizer: Option<Vec<u8>>,
    /// The file of the weights, which may hold more.
    pub file: PathBuf,
}

impl TransformerWeights {
    /// Finds a model and reads its weights, checked against its configuration name by name.
    ///
    /// # Errors
    /// As [`Generator::load`](crate::Generator::load).
    pub fn load(spec: &GeneratorSpec) -> Result<Self> {
        let found = spec.find()?;
        let file = TensorFile::open(&found.weights)?;
        let (weights, _) = network::load(&file, found.prefix, &found.config)?;
        Ok(Self {
            tensors: weights.into_numbers()?,
            config: found.config,
            tokenizer: found.tokenizer,
            file: found.weights,
        })
    }
}
