//! Writing safetensors: the same tensors give the same bytes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;

use candle_core::Tensor;
use safetensors::Dtype;

use crate::atomic::atomic_write;
use crate::blocks::{self, BLOCKS_KEY, BlockMatrix};
use crate::element;
use crate::error::{Error, Result};
use crate::safetensors_file::{LENGTH_BYTES, MAX_HEADER_BYTES};
use crate::slab::element_bytes;

/// Writes tensors and metadata to a safetensors file, through
/// [`atomic_write`]. Names and metadata are sorted, so that equal content gives
/// equal bytes.
///
/// # Errors
/// When two tensors have one name, when an element type has no place in the
/// format, or when writing fails.
pub fn save_safetensors<'a, N: AsRef<str>>(
    path: impl AsRef<Path>,
    tensors: impl IntoIterator<Item = (N, &'a Tensor)>,
    metadata: impl IntoIterator<Item = (String, String)>,
) -> Result<()> {
    let path = path.as_ref();
    let mut parts = Vec::new();
    for (name, tensor) in tensors {
        let name = name.as_ref().to_string();
        let Some(dtype) = element::stored_dtype(tensor.dtype()) else {
            let dtype = format!("{:?}", tensor.dtype());
            return Err(Error::UnsupportedDType { path: path.to_path_buf(), name, dtype });
        };
        let write = |writer: &mut dyn Write| element::write_tensor(tensor, writer);
        let (shape, write) = (tensor.dims().to_vec(), Box::new(write));
        parts.push(Part { name, dtype, shape, blocks: None, write });
    }
    write_parts(path, parts, metadata)
}

/// Writes a part's elements, little-endian and row-major.
type WriteElements<'a> = Box<dyn Fn(&mut dyn Write) -> io::Result<()> + 'a>;

/// A tensor to be written.
pub(crate) struct Part<'a> {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    /// The matrix that its bytes are, where they are one in blocks.
    pub(crate) blocks: Option<BlockMatrix>,
    pub(crate) write: WriteElements<'a>,
}

/// [`save_safetensors`] for what is no candle tensor.
pub(crate) fn write_parts(
    path: &Path,
    mut parts: Vec<Part>,
    metadata: impl IntoIterator<Item = (String, String)>,
) -> Result<()> {
    // Wide elements first keep every tensor aligned; `Dtype` is ordered by width.
    parts.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
    if let Some(pair) = parts.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(Error::format(path, format!("two tensors are named {:?}", pair[0].name)));
    }
    let mut metadata: BTreeMap<_, _> = metadata.into_iter().collect();
    let matrices = || parts.iter().filter_map(|part| Some((&*part.name, part.blocks.as_ref()?)));
    if matrices().next().is_some() {
        let text = blocks::metadata(matrices()).map_err(|e| Error::format(path, e.to_string()))?;
        metadata.insert(BLOCKS_KEY.to_owned(), text);
    }
    let header = header(path, &parts, metadata)?;
    Error::check_limit(
        path,
        "the safetensors header (bytes)",
        header.len() as u64,
        MAX_HEADER_BYTES,
    )?;
    atomic_write(path, |writer| {
        writer.write_all(&(header.len() as u64).to_le_bytes())?;
        writer.write_all(header.as_bytes())?;
        parts.iter().try_for_each(|part| (part.write)(writer))
    })
}

fn header(path: &Path, parts: &[Part], metadata: BTreeMap<String, String>) -> Result<String> {
    let invalid = |e: serde_json::Error| Error::format(path, e.to_string());
    let mut header = String::from("{");
    if !metadata.is_empty() {
        let text = serde_json::to_string(&metadata).map_err(invalid)?;
        let _ = write!(header, "\"__metadata__\":{text}");
    }
    let mut end = 0_u64;
    for part in parts {
        let begin = end;
        let elements = part.shape.iter().map(|&side| side as u64).product::<u64>();
        end += elements * element_bytes(part.dtype).unwrap_or(0);
        let name = serde_json::to_string(&part.name).map_err(invalid)?;
        let comma = if header.len() > 1 { "," } else { "" };
        let _ = write!(
            header,
            "{comma}{name}:{{\"dtype\":\"{}\",\"shape\":{:?},\"data_offsets\":[{begin},{end}]}}",
            part.dtype, part.shape
        );
    }
    header.push('}');
    while !(header.len() as u64).is_multiple_of(LENGTH_BYTES) {
        header.push(' ');
    }
    Ok(header)
}

#[cfg(test)]
mod tests;
