//! Checkpoints that `torch.load` reads: a zip of a pickle and the storages, as
//! `torch.save` lays it out, for programs that take nothing else.
//!
//! The pickle is `{"state_dict": OrderedDict}` (or another section), each value a
//! call of `torch._utils._rebuild_tensor_v2`. Only what `weights_only=True` allows
//! is in it.

use std::io::Write;
use std::path::Path;

use safetensors::Dtype;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use crate::atomic::atomic_write;
use crate::copies::Copies;
use crate::error::{Error, Result};
use crate::slab::element_bytes;
use crate::write::Part;

/// The folder of all entries; torch takes any.
const FOLDER: &str = "archive";
/// Storages begin at multiples of this, as torch's own do, so that they can be mapped.
const ALIGNMENT: u16 = 64;
/// Entries from this size on need the 64-bit extensions of the format.
const ZIP64_BYTES: u64 = u32::MAX as u64;

/// Writes `copies` as a torch checkpoint whose tensors are in `section`
/// (`state_dict`, `model`).
///
/// # Errors
/// When a tensor is missing, in blocks, or of a type that torch of 1.6 does not have;
/// when writing fails.
pub fn copy_torch(path: impl AsRef<Path>, section: &str, copies: &[Copies<'_>]) -> Result<()> {
    let path = path.as_ref();
    let parts = copies.iter().map(Copies::parts).collect::<Result<Vec<_>>>()?;
    let parts: Vec<Part> = parts.into_iter().flatten().collect();
    if let Some(part) = parts.iter().find(|part| part.blocks.is_some()) {
        let reason =
            format!("{:.160} is in blocks, which torch's checkpoints do not have", part.name);
        return Err(Error::format(path, reason));
    }
    let pickle = pickle(path, section, &parts)?;
    atomic_write(path, |writer| {
        let mut zip = ZipWriter::new_stream(writer);
        let mut entry = |name: &str, bytes: u64, write: &WriteContent| {
            let options = SimpleFileOptions::default()
                .compression_method(CompressionMethod::Stored)
                .last_modified_time(DateTime::default())
                .with_alignment(ALIGNMENT)
                .large_file(bytes >= ZIP64_BYTES);
            zip.start_file(format!("{FOLDER}/{name}"), options)?;
            write(&mut zip)
        };
        entry("data.pkl", pickle.len() as u64, &|out| out.write_all(&pickle))?;
        entry("byteorder", 6, &|out| out.write_all(b"little"))?;
        for (i, part) in parts.iter().enumerate() {
            entry(&format!("data/{i}"), bytes_of(part), &|out| (part.write)(out))?;
        }
        entry("version", 2, &|out| out.write_all(b"3\n"))?;
        zip.finish()?;
        Ok(())
    })
}

/// Writes the content of an entry.
type WriteContent<'a> = dyn Fn(&mut dyn Write) -> std::io::Result<()> + 'a;

fn elements(part: &Part) -> u64 {
    part.shape.iter().map(|&side| side as u64).product()
}

fn bytes_of(part: &Part) -> u64 {
    elements(part) * element_bytes(part.dtype).unwrap_or(0)
}

/// The storage class of an element type; see `element::storage_dtype`.
fn storage_class(dtype: Dtype) -> Option<&'static str> {
    Some(match dtype {
        Dtype::F64 => "DoubleStorage",
        Dtype::F32 => "FloatStorage",
        Dtype::F16 => "HalfStorage",
        Dtype::BF16 => "BFloat16Storage",
        Dtype::I64 => "LongStorage",
        Dtype::I32 => "IntStorage",
        Dtype::I16 => "ShortStorage",
        Dtype::I8 => "CharStorage",
        Dtype::U8 => "ByteStorage",
        Dtype::BOOL => "BoolStorage",
        _ => return None,
    })
}

fn pickle(path: &Path, section: &str, parts: &[Part]) -> Result<Vec<u8>> {
    let mut out = Pickle(b"\x80\x02}".to_vec());
    out.text(section);
    out.raw(b"ccollections\nOrderedDict\n)R(");
    for (i, part) in parts.iter().enumerate() {
        let class = storage_class(part.dtype).ok_or_else(|| Error::UnsupportedDType {
            path: path.to_path_buf(),
            name: part.name.clone(),
            dtype: part.dtype.to_string(),
        })?;
        out.text(&part.name);
        out.raw(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        out.text("storage");
        out.raw(format!("ctorch\n{class}\n").as_bytes());
        out.text(&i.to_string());
        out.text("cpu");
        out.int(elements(part));
        out.raw(b"tQK\x00(");
        part.shape.iter().for_each(|&side| out.int(side as u64));
        out.raw(b"t(");
        let mut stride = elements(part);
        for &side in &part.shape {
            stride = stride.checked_div(side as u64).unwrap_or(0);
            out.int(stride);
        }
        out.raw(b"t\x89ccollections\nOrderedDict\n)RtR");
    }
    out.raw(b"us.");
    Ok(out.0)
}

struct Pickle(Vec<u8>);

impl Pickle {
    fn raw(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }

    fn text(&mut self, text: &str) {
        self.raw(b"X");
        // Names are bounded far below by the reader.
        self.raw(&(text.len() as u32).to_le_bytes());
        self.raw(text.as_bytes());
    }

    /// LONG1 of 8 bytes; no size or count reaches the sign.
    fn int(&mut self, value: u64) {
        self.raw(b"\x8a\x08");
        self.raw(&value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;
    use crate::tensor_file::{Derived, FileKind, TensorFile};
    use crate::write::save_safetensors;

    #[test]
    fn what_is_written_is_read() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let (from, to) = (dir.path().join("a.safetensors"), dir.path().join("a.ckpt"));
        let device = &Device::Cpu;
        let tensors = [
            ("a.weight", Tensor::arange(0_f32, 12.0, device)?.reshape((2, 3, 2))?),
            ("b", Tensor::new(&[1_i64 << 40, -1], device)?),
            ("half", Tensor::arange(0_f32, 5.0, device)?.to_dtype(DType::BF16)?),
            ("empty", Tensor::zeros((0, 3), DType::F32, device)?),
            ("scalar", Tensor::new(7_f64, device)?),
            ("bytes", Tensor::new(&[1_u8, 2, 3], device)?),
        ];
        save_safetensors(&from, tensors.iter().map(|(name, tensor)| (*name, tensor)), [])?;
        let file = TensorFile::open(&from)?;
        let tensors = file.names().map(|name| Derived::renamed(name, name)).collect();
        copy_torch(&to, "state_dict", &[Copies { tensors, ..Copies::of_all(&file, None) }])?;
        let read = TensorFile::open(&to)?;
        assert_eq!((read.kind(), read.section()), (FileKind::TorchZip, Some("state_dict")));
        assert_eq!(read.names().collect::<Vec<_>>(), file.names().collect::<Vec<_>>());
        for name in file.names() {
            assert_eq!(read.dims(name), file.dims(name), "{name}");
            assert_eq!(read.stored_dtype(name), file.stored_dtype(name), "{name}");
            assert_eq!(read.tensor_sha256(name)?, file.tensor_sha256(name)?, "{name}");
        }
        // Another program agrees about the archive, checksums included.
        let mut archive = zip::ZipArchive::new(std::fs::File::open(&to)?)?;
        for i in 0..archive.len() {
            let mut entry = archive.by_index(i)?;
            std::io::copy(&mut entry, &mut std::io::sink())?;
        }
        Ok(())
    }
}
