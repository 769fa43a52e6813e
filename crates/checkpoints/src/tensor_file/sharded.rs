//! Sharded checkpoints: an index names the file of every tensor.
//!
//! `{"metadata": {...}, "weight_map": {"NAME": "FILE", ...}}`, as
//! `save_pretrained` of transformers and diffusers writes it.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path};

use serde::Deserialize;

use super::{FileKind, TensorFile};
use crate::error::{Error, Result};
use crate::pickle::state_dict::Weights;
use crate::slab::MAX_TENSORS;

/// The largest index: [`MAX_TENSORS`] names of 256 bytes.
const MAX_INDEX_BYTES: u64 = 1 << 25;
/// The most shards; each is an open file.
const MAX_SHARDS: usize = 512;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Whether a file that begins with `head` is JSON at all: the length of a
/// safetensors header cannot begin so, it would be too large.
pub(super) fn may_be_index(head: &[u8]) -> bool {
    let text = head.trim_ascii_start();
    text.starts_with(b"{") && head.get(8) != Some(&b'{') && !head.contains(&0)
}

/// Opens the index at `path` and every shard that it names. Shards lie beside it.
pub(super) fn open(path: &Path, file: &File, weights: Weights) -> Result<TensorFile> {
    let bytes = file.metadata().map_err(Error::io(path))?.len();
    Error::check_limit(path, "the index (bytes)", bytes, MAX_INDEX_BYTES)?;
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_INDEX_BYTES).read_to_end(&mut text))
        .map_err(Error::io(path))?;
    let index: Index = serde_json::from_slice(&text).map_err(|_| {
        let reason = "is a configuration, or an index without a valid `weight_map`: pass a \
                      configuration with --config, and the weights as the model";
        Error::format(path, reason)
    })?;
    let tensors = index.weight_map.len() as u64;
    Error::check_limit(path, "the number of tensors", tensors, MAX_TENSORS as u64)?;

    let mut sharded = TensorFile {
        path: path.to_path_buf(),
        kind: FileKind::Sharded,
        section: None,
        files: Vec::new(),
        entries: BTreeMap::new(),
        metadata: BTreeMap::new(),
        skipped: Vec::new(),
    };
    let mut shards: HashMap<&str, TensorFile> = HashMap::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for (name, shard) in &index.weight_map {
        if !shards.contains_key(shard.as_str()) {
            if shards.len() >= MAX_SHARDS {
                return Err(Error::format(path, format!("names more than {MAX_SHARDS} shards")));
            }
            let mut opened = TensorFile::open_shard(&beside(path, shard)?, weights)?;
            places.insert(shard, sharded.files.len());
            sharded.files.append(&mut opened.files);
            shards.insert(shard, opened);
        }
        let entry = shards.get_mut(shard.as_str()).and_then(|opened| opened.entries.remove(name));
        let Some(mut entry) = entry else {
            let reason = format!("says that {name:.160?} is in {shard:?}, which does not have it");
            return Err(Error::format(path, reason));
        };
        for piece in &mut entry.pieces {
            piece.file = places.get(shard.as_str()).copied().unwrap_or_default();
        }
        sharded.entries.insert(name.clone(), entry);
    }
    // What the index does not name is not part of the checkpoint.
    sharded.skipped = shards.into_values().flat_map(|shard| shard.entries.into_keys()).collect();
    sharded.skipped.sort_unstable();
    Ok(sharded.unwrapped())
}

/// The file `name` beside the index: a bare name, so that no index reaches
/// another folder.
fn beside(index: &Path, name: &str) -> Result<std::path::PathBuf> {
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(part)), None) if part == name && !name.contains('\\') => {
            Ok(index.with_file_name(name))
        }
        _ => {
            let reason = format!("names the shard {name:.160?}, which is not a file beside it");
            Err(Error::format(index, reason))
        }
    }
}
