//! What a file of weights is, found out from the names in it.

mod diffusers;
mod mindalle;
mod project;
mod shapes;

use checkpoints::TensorFile;
use cond_transformer::{GptConfig, LlamaConfig};
use serde::Serialize;
use vq_autoencoder::{Layout, VqConfig};

pub(crate) use diffusers::{
    check_config as check_diffusers, config_of as diffusers_config, from_ours as diffusers_name,
};
pub(crate) use project::{MAX_PICTURE_CHANNELS, codec_node, indented, project_file};

/// Whose names the weights of a model have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// CompVis/taming-transformers' `VQModel` and its kin, latent diffusion's,
    /// and minDALL-E's first stage: one set of names. Ours are the same.
    TamingVq,
    /// LlamaGen's `VQModel`.
    LlamaGenVq,
    /// diffusers' `VQModel`.
    DiffusersVq,
    /// taming-transformers' minGPT-style transformer.
    TamingGpt,
    /// LlamaGen's GPT.
    LlamaGenGpt,
    /// minDALL-E's second stage.
    MinDalleGpt,
}

impl Family {
    /// What it is called, for people.
    pub fn about(self) -> &'static str {
        match self {
            Self::TamingVq => {
                "VQGAN (names of taming-transformers, latent diffusion, minDALL-E stage 1)"
            }
            Self::LlamaGenVq => "VQ tokenizer of LlamaGen",
            Self::DiffusersVq => "VQModel of diffusers",
            Self::TamingGpt => "transformer of taming-transformers",
            Self::LlamaGenGpt => "GPT of LlamaGen",
            Self::MinDalleGpt => "transformer of minDALL-E",
        }
    }

    /// The family whose names the network of `config` has.
    pub(crate) fn of(config: &VqConfig) -> Self {
        match config.layout {
            Layout::Taming => Self::TamingVq,
            Layout::LlamaGen => Self::LlamaGenVq,
        }
    }

    /// What a codec of this family always has.
    fn codec_mark(self) -> Option<&'static str> {
        match self {
            Self::TamingVq => Some("encoder.down.0.block.0.norm1.weight"),
            Self::LlamaGenVq => Some("encoder.conv_blocks.0.res.0.norm1.weight"),
            Self::DiffusersVq => Some("encoder.down_blocks.0.resnets.0.norm1.weight"),
            _ => None,
        }
    }
}

/// A codec in a file of weights: its names are those that [`VqConfig`]'s network
/// has, behind `prefix`.
#[derive(Debug)]
pub(crate) struct CodecWeights {
    pub(crate) family: Family,
    pub(crate) file: TensorFile,
    pub(crate) prefix: String,
}

/// Where codecs are in the files of larger models, best first.
const PLACES: [&str; 5] = ["", "first_stage_model.", "stage1.", "vqvae.", "vq_model."];

/// Where there are codecs in `file`, by the marks of their families.
pub(crate) fn codec_places(file: &TensorFile) -> impl Iterator<Item = (String, Family)> {
    [Family::TamingVq, Family::LlamaGenVq, Family::DiffusersVq].into_iter().flat_map(|family| {
        let mark = family.codec_mark().unwrap_or_default();
        file.names()
            .filter_map(move |name| name.strip_suffix(mark))
            .filter(|prefix| prefix.is_empty() || prefix.ends_with('.'))
            .map(move |prefix| (prefix.to_owned(), family))
    })
}

/// Finds the codec in `file`: below `place` if that is given, else at the top,
/// else the first stage of a larger model.
///
/// # Errors
/// The reason: there is none, or several and none is the obvious one.
pub(crate) fn codec(file: TensorFile, place: Option<&str>) -> Result<CodecWeights, String> {
    let found: Vec<_> = codec_places(&file).collect();
    let wanted: Vec<&str> = match place {
        Some(place) => vec![place],
        None => PLACES.to_vec(),
    };
    let obvious = wanted
        .iter()
        .find_map(|place| found.iter().find(|(prefix, _)| prefix == place).cloned())
        .or_else(|| (place.is_none() && found.len() == 1).then(|| found[0].clone()));
    let Some((prefix, family)) = obvious else {
        return Err(match found.as_slice() {
            [] => no_codec(&file),
            several => {
                let names: Vec<_> = several.iter().map(|(prefix, _)| prefix.as_str()).collect();
                format!("it holds autoencoders at {}, and none at the top", names.join(", "))
            }
        });
    };
    let file = match family {
        Family::DiffusersVq => {
            let renamed = diffusers::to_ours(&file, &prefix)?;
            file.derive(renamed).map_err(|e| e.to_string())?
        }
        _ => file,
    };
    Ok(CodecWeights { family, file, prefix })
}

/// What a file is that has no codec.
fn no_codec(file: &TensorFile) -> String {
    let has = |name: &str| file.dims(name).is_some();
    let kin = if transformer_family(file).is_some() {
        "a transformer without its first stage: it makes codes, and a codec makes pictures of \
         them; name the codec here"
    } else if has("lin0.model.1.weight") {
        "the heads of LPIPS, a measure, and no model"
    } else if file.names().any(|name| name.starts_with("model.diffusion_model.")) {
        "a diffusion model without a VQ first stage"
    } else if has("main.0.weight") {
        "a discriminator"
    } else if file.is_empty() {
        "empty"
    } else {
        "no autoencoder whose names are known (those of taming-transformers, latent diffusion, \
         LlamaGen, diffusers, minDALL-E)"
    };
    format!("it is {kin}")
}

impl CodecWeights {
    /// The architecture, from shapes alone: everything that decides what the
    /// network computes. What they do not say is as in the published models.
    ///
    /// # Errors
    /// The reason, when they are those of no network that is known here.
    pub(crate) fn infer(&self) -> Result<VqConfig, String> {
        shapes::vq_config(self)
    }
}

/// A transformer in a file of weights, its names being the network's behind
/// `prefix`.
pub(crate) struct TransformerWeights {
    pub(crate) family: Family,
    pub(crate) file: TensorFile,
    pub(crate) prefix: String,
}

/// The sizes of a transformer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum TransformerSizes {
    /// minGPT-style.
    Gpt(GptConfig),
    /// LlamaGen-style.
    Llama(LlamaConfig),
}

/// The family and the prefix of the transformer in `file`, if there is one.
pub(crate) fn transformer_family(file: &TensorFile) -> Option<(Family, &'static str)> {
    let has = |prefix: &str, name: &str| file.dims(&format!("{prefix}{name}")).is_some();
    for prefix in ["", "transformer.", "stage2."] {
        if has(prefix, "tok_emb.weight") && has(prefix, "blocks.0.attn.key.weight") {
            return Some((Family::TamingGpt, prefix));
        }
        if has(prefix, "tok_emb_img.weight") && has(prefix, "blocks.0.attn.key.weight") {
            return Some((Family::MinDalleGpt, prefix));
        }
        if has(prefix, "tok_embeddings.weight") && has(prefix, "layers.0.attention.wqkv.weight") {
            return Some((Family::LlamaGenGpt, prefix));
        }
    }
    None
}

/// Finds the transformer in `file`.
///
/// # Errors
/// The reason: there is none, or not one of a known form.
pub(crate) fn transformer(file: TensorFile) -> Result<TransformerWeights, String> {
    let Some((family, prefix)) = transformer_family(&file) else {
        return Err(
            "it holds no transformer whose names are known (those of taming-transformers, \
                    LlamaGen, minDALL-E)"
                .to_owned(),
        );
    };
    let file = match family {
        Family::MinDalleGpt => {
            let joined = mindalle::to_ours(&file, prefix)?;
            file.derive(joined).map_err(|e| e.to_string())?
        }
        _ => file,
    };
    Ok(TransformerWeights { family, file, prefix: prefix.to_owned() })
}

impl TransformerWeights {
    /// The sizes, from shapes; heads, and positions of LlamaGen's, leave no trace
    /// in them and are those of the published model of this width, unless given.
    ///
    /// # Errors
    /// The reason, when no published model has this width.
    pub(crate) fn infer(
        &self,
        heads: Option<usize>,
        positions: Option<usize>,
    ) -> Result<TransformerSizes, String> {
        shapes::transformer(self, heads, positions)
    }
}

#[cfg(test)]
mod tests;
