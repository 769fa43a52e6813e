//! A T5 encoder with its tokenizer.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use checkpoints::{KeyUse, TensorFile, expected_tensors, load_checked, read_limited};
use text_tokens::{MAX_TOKENIZER_BYTES, TextTokenizer};

use crate::caption::clean_caption;
use crate::config::EncoderConfig;
use crate::error::{Error, Result};
use crate::t5::T5Encoder;

/// Where the weights of a folder are, best first.
const WEIGHTS: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];
/// The token embeddings, by the name they have in every published file, and by another.
const SHARED: &str = "shared.weight";
const SHARED_TOO: &str = "encoder.embed_tokens.weight";
/// A weight that tells in which element type a file keeps its weights.
const TYPICAL: &str = "encoder.block.0.layer.0.SelfAttention.q.weight";

/// What a model wants of its captions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Length of the sequence.
    pub positions: usize,
    /// Numbers of an embedding.
    pub dim: usize,
}

/// The embeddings of a caption.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedded {
    /// `[positions, dim]`, row by row: the caption at the end, zeros before.
    pub embeddings: Vec<f32>,
    /// Where the caption is.
    pub present: Vec<bool>,
    /// Tokens that were left out because the caption has more than there are positions.
    pub left_out: usize,
}

/// A T5 encoder with its tokenizer.
///
/// Weights stay in the element type of their file, so that bf16 and f16 take half the
/// memory; what is computed is computed in f32. (The reference computes in the type of the
/// weights, usually bf16: its embeddings have three digits of these.)
pub struct TextEncoder {
    folder: PathBuf,
    tokenizer: TextTokenizer,
    model: T5Encoder,
    vocabulary: usize,
    /// The id that ends a caption.
    end: u32,
    wanted: Wanted,
}

impl TextEncoder {
    /// Loads the encoder in `folder`: `config.json`, `tokenizer.json`, and
    /// `model.safetensors` or an index of several (`pytorch_model.bin` too).
    ///
    /// # Errors
    /// When a part is missing, it is no T5, its embeddings are not of the wanted width, or
    /// its weights do not fit its configuration.
    pub fn load(folder: &Path, wanted: Wanted, device: &Device) -> Result<Self> {
        let config = folder.join("config.json");
        if !config.is_file() {
            return Err(Error::folder(
                folder,
                "no text encoder in this folder: it has no config.json; give the folder of a T5 \
                 encoder (config.json, tokenizer.json, model.safetensors), or its name on the \
                 hub, such as google/flan-t5-xl",
            ));
        }
        if wanted.positions == 0 {
            return Err(Error::folder(folder, "the model has no positions for a caption"));
        }
        let config = EncoderConfig::read(&config)?;
        if config.d_model != wanted.dim {
            return Err(Error::folder(
                folder,
                format!(
                    "the embeddings of this text encoder have {} numbers, and the model takes {}: \
                     it is another T5 than the model was trained with (T5 large has 1024, XL \
                     2048, XXL 4096)",
                    config.d_model, wanted.dim
                ),
            ));
        }
        let tokenizer = tokenizer(folder)?;
        let model = network(folder, &config, device)?;
        let (vocabulary, end) = (config.vocab_size, config.eos_token_id);
        Ok(Self { folder: folder.to_path_buf(), tokenizer, model, vocabulary, end, wanted })
    }

    /// The embeddings of a caption, cleaned first.
    ///
    /// # Errors
    /// When the tokenizer has no ids for it, or computing fails.
    pub fn embed(&self, caption: &str) -> Result<Embedded> {
        let mut ids = self.tokenizer.encode(&clean_caption(caption))?;
        let Wanted { positions, dim } = self.wanted;
        let left_out = ids.len().saturating_sub(positions.saturating_sub(1));
        ids.truncate(ids.len() - left_out);
        ids.push(self.end);
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.vocabulary) {
            return Err(Error::folder(
                self.folder.join("tokenizer.json"),
                format!(
                    "it gives token {id}, and the encoder has {}: it is the tokenizer of another \
                     model",
                    self.vocabulary
                ),
            ));
        }
        let tokens = Tensor::new(ids.as_slice(), self.model.device())?;
        // No filling, no mask: the crate's documentation says why this is the same.
        let states = self.model.forward(&tokens)?;
        let states = states.flatten_all()?.to_vec1::<f32>()?;
        let filled = positions - ids.len();
        let mut embeddings = vec![0.0; filled * dim];
        embeddings.extend(states);
        let present = (0..positions).map(|position| position >= filled).collect();
        Ok(Embedded { embeddings, present, left_out })
    }
}

fn tokenizer(folder: &Path) -> Result<TextTokenizer> {
    let path = folder.join("tokenizer.json");
    if path.symlink_metadata().is_err() {
        return Err(Error::folder(
            folder,
            "this text encoder has no tokenizer.json: get it from where the encoder is from, or, \
             where there is a spiece.model, make it with Python's transformers: \
             AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)",
        ));
    }
    let bytes = read_limited(&path, "the tokenizer (bytes)", MAX_TOKENIZER_BYTES)?;
    Ok(TextTokenizer::new(&bytes, &path)?)
}

fn network(folder: &Path, config: &EncoderConfig, device: &Device) -> Result<T5Encoder> {
    let place = WEIGHTS.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    let place = place.ok_or_else(|| {
        Error::folder(
            folder,
            format!("this text encoder has no weights: none of {} is there", WEIGHTS.join(", ")),
        )
    })?;
    let file = TensorFile::open(&place)?;
    let dtype = match file.dtype(TYPICAL) {
        Some(half @ (DType::BF16 | DType::F16)) => half,
        _ => DType::F32,
    };
    let feed_forward = config
        .feed_forward()
        .map_err(|reason| Error::folder(folder.join("config.json"), reason))?;
    let build = |vb: VarBuilder<'_>| T5Encoder::new(config, feed_forward, vb);
    let mut expected = expected_tensors(build)?;
    if file.shape(SHARED).is_none()
        && file.shape(SHARED_TOO).is_some()
        && let Some(shape) = expected.remove(SHARED)
    {
        expected.insert(SHARED_TOO.to_owned(), shape);
    }
    // A whole T5 has a decoder beside.
    let key_use = |name: &str| match name.starts_with("encoder.") && name != SHARED_TOO {
        true => KeyUse::Unexpected,
        false => KeyUse::IgnorePart,
    };
    let (mut tensors, _) = load_checked(&file, &expected, dtype, device, &key_use)?;
    if let Some(shared) = tensors.remove(SHARED_TOO) {
        tensors.insert(SHARED.to_owned(), shared);
    }
    Ok(build(VarBuilder::from_tensors(tensors, dtype, device))?)
}
