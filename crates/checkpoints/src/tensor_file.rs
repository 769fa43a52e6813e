//! One file of named tensors, of any format that is read here.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Shape, Tensor};
use safetensors::Dtype;

use crate::element;
use crate::error::{Error, Result};
use crate::hash::Hasher;
use crate::safetensors_file;
use crate::slab::{Slab, element_bytes};
use crate::torch_zip;

/// How many bytes of a file's beginning tell its kind.
const SNIFF_BYTES: u64 = 512;
/// A pickled `0x1950a86a20f9469cfc6c`, with which every legacy checkpoint begins
/// (`torch/serialization.py`, `MAGIC_NUMBER`).
const LEGACY_TORCH: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";

/// The format of a [`TensorFile`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// <https://github.com/huggingface/safetensors>
    Safetensors,
    /// What `torch.save` writes since torch 1.6: a zip of a pickle and storages.
    TorchZip,
}

/// The tensors of one file. Opening reads names, shapes and places; a tensor's
/// bytes are read when it is asked for.
pub struct TensorFile {
    path: PathBuf,
    file: Mutex<File>,
    kind: FileKind,
    section: Option<String>,
    slabs: BTreeMap<String, Slab>,
    metadata: BTreeMap<String, String>,
    skipped: Vec<String>,
}

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
    /// Opens a safetensors file or a torch zip checkpoint; which one is found
    /// out by content, not by name. Of a checkpoint that is a dict of dicts the
    /// tensors are those of `state_dict`, else `model`, else `module`.
    ///
    /// # Errors
    /// When the file is of another kind, damaged, or beyond a limit; the
    /// message says which.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let mut file = File::open(path).map_err(Error::io(path))?;
        let metadata = file.metadata().map_err(Error::io(path))?;
        if !metadata.is_file() {
            return Err(Error::format(path, "is not a file: name the file that holds the weights"));
        }
        let mut head = Vec::new();
        (&file).take(SNIFF_BYTES).read_to_end(&mut head).map_err(Error::io(path))?;
        let bytes = metadata.len();
        let contents = if head.starts_with(b"PK\x03\x04") {
            torch_zip::read(path, &mut file, bytes)?
        } else if head.get(2..).is_some_and(|rest| rest.starts_with(LEGACY_TORCH)) {
            return Err(Error::LegacyTorch { path: path.to_path_buf() });
        } else if head.get(8) == Some(&b'{') {
            let header = safetensors_file::read_header(path, &mut file, bytes)?;
            Contents {
                kind: FileKind::Safetensors,
                section: None,
                slabs: header.slabs,
                metadata: header.metadata,
                skipped: Vec::new(),
            }
        } else {
            return Err(Error::format(path, foreign(&head)));
        };
        Ok(Self {
            path: path.to_path_buf(),
            file: Mutex::new(file),
            kind: contents.kind,
            section: contents.section,
            slabs: contents.slabs,
            metadata: contents.metadata,
            skipped: contents.skipped,
        })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The format.
    pub fn kind(&self) -> FileKind {
        self.kind
    }

    /// The entry of the top-level dict that holds the tensors (`state_dict`,
    /// `model` or `module`); `None` when they are at the top.
    pub fn section(&self) -> Option<&str> {
        self.section.as_deref()
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.slabs.keys().map(String::as_str)
    }

    /// The number of tensors.
    pub fn len(&self) -> usize {
        self.slabs.len()
    }

    /// Whether there is no tensor at all.
    pub fn is_empty(&self) -> bool {
        self.slabs.is_empty()
    }

    /// The names beside the tensors whose values are no tensors of a known kind.
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<Shape> {
        self.slabs.get(name).map(|slab| Shape::from(slab.shape.clone()))
    }

    /// The element type that [`tensor`](Self::tensor) gives a tensor: its own,
    /// or the next wider that candle has (bool as u8, i8 as i16, u16 as u32).
    /// `None` without such a tensor, or without such a type.
    pub fn dtype(&self, name: &str) -> Option<DType> {
        self.slabs.get(name).and_then(|slab| element::candle_dtype(slab.dtype))
    }

    /// The element type in the file.
    pub fn stored_dtype(&self, name: &str) -> Option<Dtype> {
        self.slabs.get(name).map(|slab| slab.dtype)
    }

    /// The text that a safetensors file carries beside its tensors.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Reads a tensor, in the element type of [`dtype`](Self::dtype).
    ///
    /// # Errors
    /// When there is none of that name, when candle has no type for its
    /// elements, or when reading fails.
    pub fn tensor(&self, name: &str, device: &Device) -> Result<Tensor> {
        let slab = self.slab(name)?;
        let mut reader = self.reader(slab)?;
        let tensor = match slab.gather(&mut reader).map_err(Error::io(&self.path))? {
            Some(bytes) => {
                element::read_tensor(&mut bytes.as_slice(), slab.dtype, &slab.shape, device)?
            }
            None => element::read_tensor(&mut reader, slab.dtype, &slab.shape, device)?,
        };
        tensor.ok_or_else(|| self.unsupported(name, slab.dtype))
    }

    /// The SHA-256 of a tensor's elements as stored: little-endian, row-major.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    pub fn tensor_sha256(&self, name: &str) -> Result<String> {
        let slab = self.slab(name)?;
        let mut hasher = Hasher::new();
        self.copy(name, slab, &mut hasher)?;
        Ok(hasher.finish())
    }

    /// Reads the elements of an unsigned 16- or 32-bit tensor.
    pub(crate) fn unsigned(&self, name: &str) -> Result<Vec<u32>> {
        let slab = self.slab(name)?;
        let mut reader = self.reader(slab)?;
        let n = slab.elements();
        match slab.dtype {
            Dtype::U16 => element::elements(&mut reader, n, |b| u32::from(u16::from_le_bytes(b))),
            Dtype::U32 => element::elements(&mut reader, n, u32::from_le_bytes),
            other => return Err(self.unsupported(name, other)),
        }
        .map_err(Error::io(&self.path))
    }

    fn copy(&self, name: &str, slab: &Slab, sink: &mut dyn io::Write) -> Result<()> {
        let mut reader = self.reader(slab)?;
        let size = element_bytes(slab.dtype).ok_or_else(|| self.unsupported(name, slab.dtype))?;
        match slab.gather(&mut reader).map_err(Error::io(&self.path))? {
            Some(bytes) => sink.write_all(&bytes).map_err(Error::io(&self.path)),
            None => {
                let bytes = slab.elements() as u64 * size;
                let copied =
                    io::copy(&mut reader.take(bytes), sink).map_err(Error::io(&self.path))?;
                if copied != bytes {
                    return Err(Error::format(&self.path, "was cut short while being read"));
                }
                Ok(())
            }
        }
    }

    fn slab(&self, name: &str) -> Result<&Slab> {
        self.slabs
            .get(name)
            .ok_or_else(|| Error::NoTensor { path: self.path.clone(), name: name.to_string() })
    }

    fn unsupported(&self, name: &str, dtype: Dtype) -> Error {
        Error::UnsupportedDType {
            path: self.path.clone(),
            name: name.to_string(),
            dtype: dtype.to_string(),
        }
    }

    /// A reader that stands at the first element. It holds the file until it is
    /// dropped: threads take turns.
    fn reader(&self, slab: &Slab) -> Result<impl Read> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(slab.start)).map_err(Error::io(&self.path))?;
        Ok(LockedFile(file))
    }
}

struct LockedFile<'a>(std::sync::MutexGuard<'a, File>);

impl Read for LockedFile<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
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
    } else if head.starts_with(b"\x80") {
        "is a bare pickle without storages: use the file that `torch.save` wrote"
    } else if text.starts_with('{') || text.starts_with("model:") {
        "is a configuration: pass it with --config, and the weights as the model"
    } else {
        "is neither a safetensors file nor a torch checkpoint"
    };
    what.to_string()
}
