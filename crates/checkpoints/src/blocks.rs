//! Matrices in blocks of 8 or 4 bits, in a safetensors file.
//!
//! The format has no such element type. A matrix `[rows, columns]` in blocks is a tensor of
//! bytes, `U8 [rows, columns / 32 * B]`: of every row GGML's blocks of 32 numbers, one behind
//! the other, B bytes each. The file's metadata says of which tensors that is so:
//!
//! ```text
//! "blocks": {"version": 1, "tensors": {NAME: {"type": "q8_0", "shape": [rows, columns]}}}
//! ```
//!
//! | type | B | a block |
//! |---|---|---|
//! | `q8_0` | 34 | a scale d (f16), then 32 integers q (i8); the numbers are d q |
//! | `q4_0` | 18 | a scale d (f16), then 16 bytes: the lower halves are q of the first 16 numbers, the upper halves of the others; the numbers are d (q - 8) |
//!
//! All of it is little-endian. Readers refuse what they do not know.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::mem::align_of;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device};
use half::f16;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use crate::element::candle_dtype;
use crate::error::{Error, Result};
use crate::tensor_file::TensorFile;

/// The entry of the metadata.
pub(crate) const BLOCKS_KEY: &str = "blocks";
/// The version of the entry that is written and read.
const BLOCKS_VERSION: u64 = 1;
/// The longest entry that is read. A matrix takes about 100 bytes.
const MAX_BLOCKS_BYTES: u64 = 1 << 24;

/// The kinds of blocks, and what files call them.
const KINDS: [(GgmlDType, &str); 2] = [(GgmlDType::Q8_0, "q8_0"), (GgmlDType::Q4_0, "q4_0")];

/// A matrix `[rows, columns]` in blocks: rows are whole blocks, and numbers and bytes can be
/// counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockMatrix {
    blocks: GgmlDType,
    rows: usize,
    columns: usize,
}

impl BlockMatrix {
    /// A matrix of that shape.
    ///
    /// # Errors
    /// The reason alone: blocks of a kind that is not stored, a shape that is no matrix's,
    /// rows that are no whole blocks.
    pub fn new(blocks: GgmlDType, shape: &[usize]) -> std::result::Result<Self, String> {
        if kind_name(blocks).is_none() {
            return Err(format!("blocks of {blocks:?} are not stored"));
        }
        let &[rows, columns] = shape else {
            return Err(format!("shape {shape:?} is not that of a matrix"));
        };
        if !columns.is_multiple_of(blocks.block_size()) {
            return Err(format!(
                "its rows of {columns} numbers are not cut into blocks of {}",
                blocks.block_size()
            ));
        }
        (columns / blocks.block_size())
            .checked_mul(blocks.type_size())
            .and_then(|bytes| bytes.checked_mul(rows))
            .and_then(|_| rows.checked_mul(columns))
            .ok_or("its size overflows")?;
        Ok(Self { blocks, rows, columns })
    }

    /// The kind of blocks.
    pub fn blocks(&self) -> GgmlDType {
        self.blocks
    }

    /// Rows and columns.
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// How many numbers there are.
    pub fn elements(&self) -> usize {
        self.rows * self.columns
    }

    /// The shape of the bytes.
    pub(crate) fn dims(&self) -> [usize; 2] {
        [self.rows, self.columns / self.blocks.block_size() * self.blocks.type_size()]
    }
}

impl TensorFile {
    /// The matrices that the file holds in blocks, by name: none where its metadata says
    /// nothing of them.
    ///
    /// # Errors
    /// When it says what this program does not know, or what the tensors do not fit.
    pub fn blocks(&self) -> Result<BTreeMap<String, BlockMatrix>> {
        let Some(text) = self.metadata().get(BLOCKS_KEY) else { return Ok(BTreeMap::new()) };
        let refuse = |reason: String| Err(Error::format(self.path(), reason));
        let bytes = text.len() as u64;
        Error::check_limit(self.path(), "metadata of blocks (bytes)", bytes, MAX_BLOCKS_BYTES)?;
        let version = serde_json::from_str::<Versioned>(text).map(|entry| entry.version);
        if let Ok(version) = version
            && version != BLOCKS_VERSION
        {
            return refuse(format!(
                "its matrices are in blocks of version {version}, and this program knows \
                 {BLOCKS_VERSION}: use a newer one"
            ));
        }
        let entry: Entry = match serde_json::from_str(text) {
            Ok(entry) => entry,
            Err(error) => return refuse(format!("what it says of blocks is invalid: {error}")),
        };
        let mut all = BTreeMap::new();
        for (name, Stated { kind, shape }) in entry.tensors {
            match self.stated(&name, &kind, &shape) {
                Ok(matrix) => all.insert(name, matrix),
                Err(reason) => return refuse(format!("{name:.160?} in blocks: {reason}")),
            };
        }
        Ok(all)
    }

    /// What the metadata says of a matrix, if its tensor is that.
    fn stated(
        &self,
        name: &str,
        kind: &str,
        shape: &[usize],
    ) -> std::result::Result<BlockMatrix, String> {
        let known = KINDS.iter().find(|(_, name)| *name == kind);
        let &(blocks, _) = known.ok_or_else(|| {
            let known = KINDS.map(|(_, name)| name).join(", ");
            format!("type {kind:.40?} is not known; there are {known}")
        })?;
        let matrix = BlockMatrix::new(blocks, shape)?;
        let Some(dims) = self.dims(name) else { return Err("no such tensor".to_owned()) };
        match self.stored_dtype(name) {
            Some(Dtype::U8) if dims == matrix.dims() => Ok(matrix),
            Some(Dtype::U8) => Err(format!(
                "{kind} of shape {shape:?} takes bytes of shape {:?}, and there are {dims:?}",
                matrix.dims()
            )),
            other => Err(format!("its elements are {}, not bytes", Shown(other))),
        }
    }

    /// Reads a matrix of [`blocks`](Self::blocks), to the CPU.
    ///
    /// # Errors
    /// When there is no such tensor of bytes, or reading fails.
    pub fn block_matrix(&self, name: &str, matrix: &BlockMatrix) -> Result<QTensor> {
        if self.dims(name) != Some(&matrix.dims()[..]) {
            return Err(Error::format(self.path(), format!("{name:.160?} is not of this shape")));
        }
        let [rows, stride] = matrix.dims();
        // No more than the file was seen to have.
        let size = rows * stride;
        let align = align_of::<f16>();
        let mut room: Vec<u8> = Vec::new();
        room.try_reserve_exact(size + align)
            .map_err(|error| Error::io(self.path())(io::Error::other(error)))?;
        // Blocks begin with f16.
        let start = room.as_ptr().align_offset(align).min(align);
        room.resize(start, 0);
        self.copy_elements(name, &mut room)?;
        let bytes = Cow::Borrowed(&room[start..]);
        let storage = QStorage::from_data(bytes, &Device::Cpu, matrix.blocks)?;
        Ok(QTensor::new(storage, matrix.shape())?)
    }

    /// Writes the tensor `name`, a matrix of floating-point numbers, in blocks.
    pub(crate) fn write_blocks(
        &self,
        name: &str,
        blocks: GgmlDType,
        writer: &mut dyn Write,
    ) -> io::Result<()> {
        let numbers = self.tensor(name, &Device::Cpu).map_err(io::Error::other)?;
        let numbers = numbers.to_dtype(DType::F32).map_err(io::Error::other)?;
        let made = QTensor::quantize(&numbers, blocks).map_err(io::Error::other)?;
        writer.write_all(&made.data().map_err(io::Error::other)?)
    }

    /// The tensor `name` as a matrix of `blocks`.
    pub(crate) fn blocks_of(
        &self,
        name: &str,
        blocks: GgmlDType,
    ) -> std::result::Result<BlockMatrix, String> {
        let stored = self.stored_dtype(name);
        if !stored.and_then(candle_dtype).is_some_and(|dtype| dtype.is_float()) {
            return Err(format!("blocks are made of numbers, and it has {}", Shown(stored)));
        }
        BlockMatrix::new(blocks, self.dims(name).unwrap_or_default())
    }
}

/// The metadata of matrices in blocks.
pub(crate) fn metadata<'a>(
    matrices: impl Iterator<Item = (&'a str, &'a BlockMatrix)>,
) -> std::result::Result<String, serde_json::Error> {
    let stated = |matrix: &BlockMatrix| Stated {
        kind: kind_name(matrix.blocks).unwrap_or_default().to_owned(),
        shape: vec![matrix.rows, matrix.columns],
    };
    let tensors = matrices.map(|(name, matrix)| (name.to_owned(), stated(matrix))).collect();
    serde_json::to_string(&Entry { version: BLOCKS_VERSION, tensors })
}

fn kind_name(blocks: GgmlDType) -> Option<&'static str> {
    KINDS.iter().find(|(kind, _)| *kind == blocks).map(|(_, name)| *name)
}

/// The entry, whatever its version.
#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    version: u64,
    tensors: BTreeMap<String, Stated>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stated {
    #[serde(rename = "type")]
    kind: String,
    shape: Vec<usize>,
}

/// An element type, for people.
struct Shown(Option<Dtype>);

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(dtype) => dtype.fmt(f),
            None => f.write_str("nothing"),
        }
    }
}

#[cfg(test)]
mod tests;
