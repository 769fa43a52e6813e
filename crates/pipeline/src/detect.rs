//! What a file of weights holds, as far as names and shapes tell.

use std::collections::BTreeSet;
use std::path::Path;

use checkpoints::{KeyUse, TensorFile, Weights, reference_key_use};
use serde::Serialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::families::{self, Family, TransformerSizes};

/// A file of weights in words and numbers.
#[derive(Debug, Clone, Serialize)]
pub struct Detected {
    /// The format of the file.
    pub format: &'static str,
    /// The part of a torch checkpoint that the weights are in.
    pub section: Option<String>,
    /// All tensors, those of no part too.
    pub tensors: usize,
    /// Their elements.
    pub elements: u64,
    /// Tensors of the training loss (LPIPS, discriminator).
    pub loss_tensors: usize,
    /// Buffers that networks compute themselves.
    pub buffers: usize,
    /// The models in it.
    pub parts: Vec<Part>,
}

/// A model in a file.
#[derive(Debug, Clone, Serialize)]
pub struct Part {
    /// What stands before its names; nothing for a model alone.
    pub place: String,
    /// Whose names it has.
    pub family: Family,
    /// Its architecture, where shapes tell it.
    pub architecture: Option<Value>,
    /// Why not, where they do not.
    pub unclear: Option<String>,
}

/// Looks at the names and shapes in the file `path`.
///
/// # Errors
/// When it is no file of weights.
pub fn detect(path: &Path, weights: Weights) -> Result<Detected> {
    let open = || Ok::<_, Error>(TensorFile::open_weights(path, weights)?);
    let file = open()?;
    let uses = |kind: KeyUse| file.names().filter(|name| reference_key_use(name) == kind).count();
    let elements = file.names().filter_map(|name| file.dims(name));
    let mut detected = Detected {
        format: file.kind().name(),
        section: file.section().map(str::to_owned),
        tensors: file.len(),
        elements: elements.map(|dims| dims.iter().product::<usize>() as u64).sum(),
        loss_tensors: uses(KeyUse::IgnoreLoss),
        buffers: uses(KeyUse::IgnoreBuffer),
        parts: Vec::new(),
    };
    if let Some((family, place)) = families::transformer_family(&file) {
        let sizes = families::transformer(open()?).and_then(|found| found.infer(None, None));
        let json = sizes.and_then(|sizes| {
            match sizes {
                TransformerSizes::Gpt(config) => serde_json::to_value(config),
                TransformerSizes::Llama(config) => serde_json::to_value(config),
            }
            .map_err(|e| e.to_string())
        });
        detected.parts.push(Part::new(place.to_owned(), family, json));
    }
    let places: BTreeSet<String> = families::codec_places(&file).map(|(place, _)| place).collect();
    for place in places {
        let found = families::codec(open()?, Some(&place));
        let (family, json) = match found {
            Ok(found) => {
                let config = found.infer();
                let json = config.and_then(|c| serde_json::to_value(c).map_err(|e| e.to_string()));
                (found.family, json)
            }
            Err(reason) => (Family::TamingVq, Err(reason)),
        };
        detected.parts.push(Part::new(place, family, json));
    }
    Ok(detected)
}

impl Part {
    fn new(place: String, family: Family, json: std::result::Result<Value, String>) -> Self {
        let (architecture, unclear) = match json {
            Ok(json) => (Some(json), None),
            Err(reason) => (None, Some(reason)),
        };
        Self { place, family, architecture, unclear }
    }
}
