//! Captions as embeddings of a language model, out of a file.

use std::path::Path;

use candle_core::{DType, Device};
use checkpoints::TensorFile;

use super::{Front, Generator};
use crate::error::{Error, Result};
use crate::transformer_config::{Architecture, ConditionConfig};

impl Generator {
    /// The condition of a caption whose embeddings are in the safetensors file `path`:
    /// `embeddings` `[N, D]` or `[1, N, D]`, padded on the left, and `mask` `[N]`, which
    /// is 0 where they are padding; none: all are there.
    ///
    /// # Errors
    /// When the model takes no captions, or these have another shape.
    pub fn front_of_captions(&self, path: &Path) -> Result<Front> {
        let (ConditionConfig::Caption(_), Architecture::Llama(network)) =
            (&self.config.condition, &self.config.architecture)
        else {
            return Err(self.wrong_kind("a caption's embeddings"));
        };
        let cond_transformer::PrefixConfig::Caption { dim, positions } = network.prefix else {
            return Err(self.wrong_kind("a caption's embeddings"));
        };
        let file = TensorFile::open(path)?;
        let numbers = |name: &str| -> Result<Vec<f32>> {
            let tensor = file.tensor(name, &Device::Cpu)?;
            Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
        };
        let refuse = |what: String| Err(Error::Condition(format!("{}: {what}", path.display())));
        let shape = file.shape("embeddings");
        let Some(dims) = shape.as_ref().map(|shape| shape.dims()) else {
            return refuse("it has no tensor `embeddings`".to_owned());
        };
        if dims != [positions, dim] && dims != [1, positions, dim] {
            return refuse(format!(
                "`embeddings` is {dims:?}; this model takes [{positions}, {dim}]"
            ));
        }
        let embeddings = numbers("embeddings")?;
        if embeddings.iter().any(|value| !value.is_finite()) {
            return refuse("an embedding is NaN or infinite".to_owned());
        }
        let present = match file.shape("mask") {
            None => vec![true; positions],
            Some(shape) if shape.elem_count() == positions => {
                numbers("mask")?.into_iter().map(|flag| flag != 0.0).collect()
            }
            Some(shape) => {
                return refuse(format!("`mask` is {:?}; give it {positions} flags", shape.dims()));
            }
        };
        Ok(Front::Caption { dim, embeddings, present })
    }
}
