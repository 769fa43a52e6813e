//! Captions as embeddings of a language model: computed by it, or out of a file.

use std::path::Path;

use candle_core::{DType, Device};
use checkpoints::TensorFile;
use text_encoder::{Embedded, TextEncoder, Wanted};

use super::{Front, Generator};
use crate::error::{Error, Result};
use crate::transformer_config::{Architecture, CaptionCondition, ConditionConfig};

impl Generator {
    /// What the model wants of captions, if it takes them as embeddings.
    fn wanted(&self) -> Option<Wanted> {
        match (&self.config.condition, &self.config.architecture) {
            (ConditionConfig::Caption(_), Architecture::Llama(network)) => match network.prefix {
                cond_transformer::PrefixConfig::Caption { dim, positions } => {
                    Some(Wanted { positions, dim })
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether a text must be read by a text encoder first.
    pub fn takes_captions(&self) -> bool {
        self.wanted().is_some()
    }

    /// Loads the T5 encoder in `folder`, which must be of the kind that the model was trained
    /// with. It is as large as the model itself, and only needed until all texts are read.
    ///
    /// # Errors
    /// When the model takes no captions, or there is no such encoder in the folder.
    pub fn text_encoder(&self, folder: &Path) -> Result<TextEncoder> {
        let Some(wanted) = self.wanted() else {
            return Err(self.wrong_kind("a text that an encoder reads (--text-encoder)"));
        };
        Ok(TextEncoder::load(folder, wanted, self.device())?)
    }

    /// The condition of a caption that `encoder` reads, and how many of its tokens were left
    /// out because it is longer than the model takes.
    ///
    /// # Errors
    /// When the model takes no captions, or the encoder is of another model.
    pub fn front_of_caption(&self, encoder: &TextEncoder, text: &str) -> Result<(Front, usize)> {
        let Some(Wanted { positions, dim }) = self.wanted() else {
            return Err(self.wrong_kind("a text that an encoder reads"));
        };
        let Embedded { embeddings, present, left_out } = encoder.embed(text)?;
        if (present.len(), embeddings.len()) != (positions, positions * dim) {
            return Err(Error::Condition(
                "the text encoder was loaded for a model with other captions".to_owned(),
            ));
        }
        Ok((Front::Caption { dim, embeddings, present }, left_out))
    }

    /// A caption without the encoder to read it.
    pub(super) fn no_text_encoder(&self, caption: &CaptionCondition) -> Error {
        let encoder = match caption.encoder.as_str() {
            "" => "DIR",
            encoder => encoder,
        };
        let width = self.wanted().map_or(0, |wanted| wanted.dim);
        Error::Condition(format!(
            "this model takes captions as embeddings of a T5 encoder with {width} numbers each: \
             name it with --text-encoder {encoder} (a folder, or a name on the hub), or give the \
             embeddings with --condition FILE.safetensors"
        ))
    }

    /// The condition of a caption whose embeddings are in the safetensors file `path`:
    /// `embeddings` `[N, D]` or `[1, N, D]`, padded on the left, and `mask` `[N]`, which
    /// is 0 where they are padding; none: all are there.
    ///
    /// # Errors
    /// When the model takes no captions, or these have another shape.
    pub fn front_of_captions(&self, path: &Path) -> Result<Front> {
        let Some(Wanted { positions, dim }) = self.wanted() else {
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
