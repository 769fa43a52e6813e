//! The named tensors of a checkpoint, of any format that is read here.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Shape, Tensor};
use safetensors::Dtype;

use crate::element;
use crate::error::{Error, Result};
use crate::hash::Hasher;
use crate::slab::{Slab, element_bytes};

mod derive;
mod open;
mod sharded;

pub use derive::Derived;
pub(crate) use open::Contents;

/// The format of a [`TensorFile`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// <https://github.com/huggingface/safetensors>
    Safetensors,
    /// What `torch.save` writes since torch 1.6: a zip of a pickle and storages.
    TorchZip,
    /// What `torch.save` wrote before: pickles, then storages.
    LegacyTorch,
    /// An index of several files (`*.index.json` with a `weight_map`).
    Sharded,
}

impl FileKind {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::TorchZip => "torch checkpoint (zip)",
            Self::LegacyTorch => "torch checkpoint (legacy, before torch 1.6)",
            Self::Sharded => "sharded checkpoint",
        }
    }
}

/// The tensors of a checkpoint: one file, or the shards of an index. Opening
/// reads names, shapes and places; a tensor's bytes are read when it is asked for.
pub struct TensorFile {
    path: PathBuf,
    kind: FileKind,
    section: Option<String>,
    files: Vec<OpenFile>,
    entries: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
    skipped: Vec<String>,
}

struct OpenFile {
    path: PathBuf,
    file: Mutex<File>,
}

/// A tensor: pieces one after the other along its first dimension, nearly
/// always one.
#[derive(Debug, Clone)]
struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone)]
struct Piece {
    /// Its place in [`TensorFile::files`].
    file: usize,
    slab: Slab,
}

impl TensorFile {
    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files that hold the tensors: the one, or the shards.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// The format.
    pub fn kind(&self) -> FileKind {
        self.kind
    }

    /// The entry of the top-level dict that holds the tensors (`state_dict`,
    /// `model`, `module` or `ema`); `None` when they are at the top.
    pub fn section(&self) -> Option<&str> {
        self.section.as_deref()
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The number of tensors.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no tensor at all.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The names beside the tensors whose values are no tensors of a known kind.
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<Shape> {
        self.dims(name).map(Shape::from)
    }

    /// The sides of a tensor.
    pub fn dims(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|entry| entry.shape.as_slice())
    }

    /// The element type that [`tensor`](Self::tensor) gives a tensor: its own,
    /// or the next wider that candle has (bool as u8, i8 as i16, u16 as u32).
    /// `None` without such a tensor, or without such a type.
    pub fn dtype(&self, name: &str) -> Option<DType> {
        self.entries.get(name).and_then(|entry| element::candle_dtype(entry.dtype))
    }

    /// The element type in the file.
    pub fn stored_dtype(&self, name: &str) -> Option<Dtype> {
        self.entries.get(name).map(|entry| entry.dtype)
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
        let entry = self.entry(name)?;
        let mut reader = self.reader(entry)?;
        let tensor = element::read_tensor(&mut reader, entry.dtype, &entry.shape, device)?;
        tensor.ok_or_else(|| self.unsupported(name, entry.dtype))
    }

    /// The SHA-256 of a tensor's elements as stored: little-endian, row-major.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    pub fn tensor_sha256(&self, name: &str) -> Result<String> {
        let mut hasher = Hasher::new();
        self.copy_elements(name, &mut hasher)?;
        Ok(hasher.finish())
    }

    /// Writes a tensor's elements as stored, little-endian and row-major, to
    /// `sink`, without holding them.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor); when `sink` refuses.
    pub fn copy_elements(&self, name: &str, sink: &mut dyn io::Write) -> Result<()> {
        let entry = self.entry(name)?;
        let size = element_bytes(entry.dtype);
        let bytes =
            entry.elements() as u64 * size.ok_or_else(|| self.unsupported(name, entry.dtype))?;
        let copied = io::copy(&mut self.reader(entry)?, sink).map_err(Error::io(&self.path))?;
        if copied != bytes {
            return Err(Error::format(&self.path, "was cut short while being read"));
        }
        Ok(())
    }

    /// Reads the elements of an unsigned 16- or 32-bit tensor.
    pub(crate) fn unsigned(&self, name: &str) -> Result<Vec<u32>> {
        let entry = self.entry(name)?;
        let mut reader = self.reader(entry)?;
        let n = entry.elements();
        match entry.dtype {
            Dtype::U16 => element::elements(&mut reader, n, |b| u32::from(u16::from_le_bytes(b))),
            Dtype::U32 => element::elements(&mut reader, n, u32::from_le_bytes),
            other => return Err(self.unsupported(name, other)),
        }
        .map_err(Error::io(&self.path))
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.entries
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

    /// The bytes of a tensor, in row-major order. Those of a view that is not
    /// are gathered first.
    fn reader<'a>(&'a self, entry: &Entry) -> Result<Box<dyn Read + 'a>> {
        let mut all: Box<dyn Read> = Box::new(io::empty());
        for Piece { file, slab } in &entry.pieces {
            let Some(OpenFile { path, file }) = self.files.get(*file) else { continue };
            let mut place = Place { file, at: slab.start };
            let piece: Box<dyn Read> = match slab.gather(&mut place).map_err(Error::io(path))? {
                Some(bytes) => Box::new(Cursor::new(bytes)),
                None => {
                    let size = element_bytes(slab.dtype).unwrap_or(0);
                    Box::new(place.take(slab.elements() as u64 * size))
                }
            };
            all = Box::new(all.chain(piece));
        }
        Ok(all)
    }
}

impl std::fmt::Debug for TensorFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TensorFile")
            .field("path", &self.path)
            .field("kind", &self.kind)
            .field("section", &self.section)
            .field("tensors", &self.entries.len())
            .finish_non_exhaustive()
    }
}

impl Entry {
    fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A place in a file that others read too, at other places: threads take turns.
struct Place<'a> {
    file: &'a Mutex<File>,
    at: u64,
}

impl Read for Place<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(self.at))?;
        let n = file.read(buffer)?;
        self.at += n as u64;
        Ok(n)
    }
}
