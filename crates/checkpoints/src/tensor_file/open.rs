//! Finding out what a file is, and opening it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Mutex;

use super::{Entry, FileKind, OpenFile, Piece, TensorFile, sharded};
use crate::error::{Error, Result};
use crate::pickle::state_dict::Weights;
use crate::slab::Slab;
use crate::{legacy_torch, safetensors_file, torch_zip};

/// How many bytes of a file's beginning tell its kind.
const SNIFF_BYTES: u64 = 512;
/// What wrappers of a network put before every name: `DistributedDataParallel`,
/// `torch.compile`.
const WRAPPERS: [&str; 2] = ["module.", "_orig_mod."];

/// Formats fill this in.
pub(crate) struct Contents {
    pub(crate) kind: FileKind,
    /// The entry of the top-level dict that the tensors are from.
    pub(crate) section: Option<String>,
    pub(crate) slabs: BTreeMap<String, Slab>,
    pub(crate) metadata: BTreeMap<String, String>,
    /// Entries that are not tensors.
    pub(crate) skipped: Vec<String>,
}

impl TensorFile {
    /// Opens a safetensors file, a torch checkpoint (zip or legacy), or the
    /// index of a sharded one; which is found out by content, not by name. Of a
    /// checkpoint that is a dict of dicts the tensors are those of `state_dict`,
    /// else `model`, else `module`, else `ema`. Where wrappers of a network put
    /// `module.` or `_orig_mod.` before every name, that is taken off.
    ///
    /// # Errors
    /// When the file is of another kind, damaged, or beyond a limit; the
    /// message says which.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_weights(path, Weights::Trained)
    }

    /// [`open`](Self::open), where a checkpoint also holds a moving average of
    /// its weights: with [`Weights::Averaged`], `ema` comes before the others.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_weights(path: impl AsRef<Path>, weights: Weights) -> Result<Self> {
        let path = path.as_ref();
        let (mut file, head) = sniff(path)?;
        if sharded::may_be_index(&head) {
            return sharded::open(path, &file, weights);
        }
        let contents = read(path, &mut file, &head, weights)?;
        Ok(Self::of(path, file, contents).unwrapped())
    }

    /// [`open_weights`](Self::open_weights) for a shard: not an index itself.
    pub(super) fn open_shard(path: &Path, weights: Weights) -> Result<Self> {
        let (mut file, head) = sniff(path)?;
        let contents = read(path, &mut file, &head, weights)?;
        Ok(Self::of(path, file, contents))
    }

    fn of(path: &Path, file: File, contents: Contents) -> Self {
        let entry = |slab: Slab| Entry {
            dtype: slab.dtype,
            shape: slab.shape.clone(),
            pieces: vec![Piece { file: 0, slab }],
        };
        Self {
            path: path.to_path_buf(),
            kind: contents.kind,
            section: contents.section,
            files: vec![OpenFile { path: path.to_path_buf(), file: Mutex::new(file) }],
            entries: contents.slabs.into_iter().map(|(name, slab)| (name, entry(slab))).collect(),
            metadata: contents.metadata,
            skipped: contents.skipped,
        }
    }

    /// Takes off what wrappers put before every name.
    pub(super) fn unwrapped(mut self) -> Self {
        while let Some(wrapper) = WRAPPERS.iter().find(|wrapper| {
            !self.entries.is_empty() && self.entries.keys().all(|name| name.starts_with(**wrapper))
        }) {
            self.entries = std::mem::take(&mut self.entries)
                .into_iter()
                .map(|(name, entry)| (name[wrapper.len()..].to_string(), entry))
                .collect();
        }
        self
    }
}

fn sniff(path: &Path) -> Result<(File, Vec<u8>)> {
    // Asked first: opening a pipe waits for whoever writes to it.
    if !std::fs::metadata(path).map_err(Error::io(path))?.is_file() {
        return Err(Error::format(path, "is not a file: name the file that holds the weights"));
    }
    let file = File::open(path).map_err(Error::io(path))?;
    let mut head = Vec::new();
    (&file).take(SNIFF_BYTES).read_to_end(&mut head).map_err(Error::io(path))?;
    Ok((file, head))
}

fn read(path: &Path, file: &mut File, head: &[u8], weights: Weights) -> Result<Contents> {
    let bytes = file.metadata().map_err(Error::io(path))?.len();
    if head.starts_with(b"PK\x03\x04") {
        torch_zip::read(path, file, bytes, weights)
    } else if legacy_torch::is_one(head) {
        legacy_torch::read(path, file, bytes, weights)
    } else if head.get(8) == Some(&b'{') {
        let header = safetensors_file::read_header(path, file, bytes)?;
        Ok(Contents {
            kind: FileKind::Safetensors,
            section: None,
            slabs: header.slabs,
            metadata: header.metadata,
            skipped: Vec::new(),
        })
    } else {
        Err(Error::format(path, foreign(head)))
    }
}

/// What a file is that begins with `head` and that is not read here.
fn foreign(head: &[u8]) -> String {
    let text = String::from_utf8_lossy(head).trim_start().to_ascii_lowercase();
    let what = if head.is_empty() {
        "is empty: get it again"
    } else if text.starts_with("version https://git-lfs") {
        "is a git-lfs pointer, not the weights: run `git lfs pull`"
    } else if text.starts_with("<!doctype") || text.starts_with("<html") {
        "is a web page, not the weights: the download went wrong"
    } else if head.starts_with(b"GGUF") {
        "is a GGUF file, which is not read: use safetensors or a torch checkpoint"
    } else if head.starts_with(b"\x1f\x8b") || head.get(257..262) == Some(b"ustar") {
        "is a tar archive: unpack it, and name the folder or the file inside"
    } else if head.starts_with(b"\x80") {
        "is a bare pickle without storages: use the file that `torch.save` wrote"
    } else if text.starts_with('{') || text.starts_with("model:") {
        "is a configuration: pass it with --config, and the weights as the model"
    } else {
        "is neither a safetensors file nor a torch checkpoint"
    };
    what.to_string()
}
