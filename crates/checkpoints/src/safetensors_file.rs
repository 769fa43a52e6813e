//! The header of a safetensors file: an 8-byte length, then JSON, then data.
//!
//! The crate `safetensors` checks that the tensors tile the data exactly; its
//! own reader wants the whole file in memory, so the header is read here, and
//! the data stays on disk.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::error::{Error, Result};
use crate::slab::{MAX_RANK, MAX_TENSORS, Slab};

/// The format's own limit on the header.
pub(crate) const MAX_HEADER_BYTES: u64 = 100_000_000;
/// The most entries of the header's metadata.
const MAX_TEXTS: usize = 1 << 12;
/// The bytes of the header's length.
pub(crate) const LENGTH_BYTES: u64 = 8;

const METADATA_KEY: &str = "__metadata__";

/// What a header says.
pub(crate) struct Header {
    pub(crate) slabs: BTreeMap<String, Slab>,
    pub(crate) metadata: BTreeMap<String, String>,
}

/// Reads and checks the header of `file`, which is `file_bytes` long.
pub(crate) fn read_header(path: &Path, file: &mut File, file_bytes: u64) -> Result<Header> {
    let mut length = [0; LENGTH_BYTES as usize];
    file.seek(SeekFrom::Start(0)).map_err(Error::io(path))?;
    file.read_exact(&mut length).map_err(Error::io(path))?;
    let length = u64::from_le_bytes(length);
    Error::check_limit(path, "the safetensors header (bytes)", length, MAX_HEADER_BYTES)?;
    let data_start = LENGTH_BYTES + length;
    if data_start > file_bytes {
        let reason = format!(
            "the safetensors header needs {data_start} bytes and the file has {file_bytes}: \
             it is cut short, get it again"
        );
        return Err(Error::format(path, reason));
    }
    // At most MAX_HEADER_BYTES, and the file is known to have them.
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).map_err(Error::io(path))?;
    let (metadata, tensors) = serde_json::from_slice::<Entries>(&header)
        .map_err(|e| Error::format(path, format!("the safetensors header is invalid: {e}")))
        .map(|entries| (entries.metadata, entries.tensors))?;
    // Checks that the tensors tile the data.
    let header = Metadata::new(None, tensors)
        .map_err(|e| Error::format(path, format!("the safetensors header is invalid: {e}")))?;
    let expected = data_start.checked_add(header.data_len() as u64);
    if expected != Some(file_bytes) {
        let reason = format!(
            "the safetensors header describes {} bytes of data and the file has {}: \
             it is cut short or damaged, get it again",
            header.data_len(),
            file_bytes - data_start
        );
        return Err(Error::format(path, reason));
    }
    let mut slabs = BTreeMap::new();
    for (name, info) in header.tensors() {
        if info.shape.len() > MAX_RANK {
            let reason = format!("tensor {name:?} has more than {MAX_RANK} dimensions");
            return Err(Error::format(path, reason));
        }
        let start = data_start + info.data_offsets.0 as u64;
        slabs.insert(name, Slab::row_major(info.dtype, info.shape.clone(), start));
    }
    Ok(Header { slabs, metadata })
}

/// The header's JSON: tensors by offset, and text.
#[derive(Default)]
struct Entries {
    tensors: Vec<(String, TensorInfo)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

/// The header's text.
struct Texts(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(TextsVisitor)
    }
}

struct TextsVisitor;

impl<'de> Visitor<'de> for TextsVisitor {
    type Value = Texts;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Texts, A::Error> {
        let mut texts = BTreeMap::new();
        while let Some((key, text)) = map.next_entry()? {
            if texts.len() >= MAX_TEXTS {
                return Err(de::Error::custom(format!("more than {MAX_TEXTS} metadata entries")));
            }
            texts.insert(key, text);
        }
        Ok(Texts(texts))
    }
}

/// Reads entry by entry, so that the limit on them holds before they are made.
struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Entries, A::Error> {
        let mut entries = Entries::default();
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if names.len() >= MAX_TENSORS {
                return Err(de::Error::custom(format!("more than {MAX_TENSORS} tensors")));
            }
            if !names.insert(name.clone()) {
                return Err(de::Error::custom(format!("two tensors are named {name:?}")));
            }
            if name == METADATA_KEY {
                entries.metadata = map.next_value::<Texts>()?.0;
            } else {
                entries.tensors.push((name, map.next_value()?));
            }
        }
        entries.tensors.sort_by_key(|(_, info)| info.data_offsets);
        Ok(entries)
    }
}
