//! Writers of torch checkpoints, zip and legacy, as small as they can be.

// Every test file uses a part of it.
#![allow(dead_code)]

use std::io::{Cursor, Write};

use anyhow::Result;
use zip::write::{SimpleFileOptions, ZipWriter};

/// A pickle under construction: the instructions that torch uses.
#[derive(Default)]
pub struct Pickle(pub Vec<u8>);

impl Pickle {
    pub fn new() -> Self {
        Self(b"\x80\x02".to_vec())
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    pub fn text(self, text: &str) -> Self {
        self.raw(b"X").raw(&(text.len() as u32).to_le_bytes()).raw(text.as_bytes())
    }

    pub fn int(self, value: i32) -> Self {
        self.raw(b"J").raw(&value.to_le_bytes())
    }

    pub fn ints(self, values: &[i32]) -> Self {
        values.iter().fold(self.raw(b"("), |pickle, &value| pickle.int(value)).raw(b"t")
    }

    pub fn global(self, module: &str, name: &str) -> Self {
        self.raw(format!("c{module}\n{name}\n").as_bytes())
    }

    /// `_rebuild_tensor_v2(storage, offset, shape, strides, False, OrderedDict())`.
    pub fn tensor(
        self,
        key: &str,
        class: &str,
        offset: i32,
        shape: &[i32],
        strides: &[i32],
    ) -> Self {
        self.global("torch._utils", "_rebuild_tensor_v2")
            .raw(b"((")
            .text("storage")
            .global("torch", class)
            .text(key)
            .text("cuda:0")
            .int(0)
            .raw(b"tQ")
            .int(offset)
            .ints(shape)
            .ints(strides)
            .raw(b"\x89")
            .global("collections", "OrderedDict")
            .raw(b")RtR")
    }

    pub fn stop(self) -> Vec<u8> {
        self.raw(b".").0
    }
}

/// A zip archive with one pickle and its storages.
pub fn archive(pickle: &[u8], storages: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    writer.start_file("archive/data.pkl", options)?;
    writer.write_all(pickle)?;
    for (key, bytes) in storages {
        writer.start_file(format!("archive/data/{key}"), options)?;
        writer.write_all(bytes)?;
    }
    Ok(writer.finish()?.into_inner())
}

/// A legacy checkpoint: five pickles, then the storages with their numbers of
/// elements of `width` bytes.
pub fn legacy(pickle: &[u8], storages: &[(&str, usize, &[u8])]) -> Vec<u8> {
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    let machine = Pickle::new().raw(b"}").text("little_endian").raw(b"\x88s").stop();
    let keys = storages.iter().fold(Pickle::new().raw(b"]("), |keys, (key, ..)| keys.text(key));
    let head = [magic, &b"\x80\x02M\xe9\x03."[..], &machine, pickle, &keys.raw(b"e").stop()];
    let mut bytes = head.concat();
    for (_, width, storage) in storages {
        bytes.extend(((storage.len() / width) as i64).to_le_bytes());
        bytes.extend(*storage);
    }
    bytes
}

/// A checkpoint as Lightning writes it: two tensors that share a storage, one
/// in a subclass and parameter wrapper, a value that is no tensor, callbacks
/// keyed by a class, and an optimiser whose storage is not in the archive.
pub fn lightning() -> Result<Vec<u8>> {
    let (floats, longs) = lightning_storages();
    archive(&lightning_pickle(), &[("0", &floats), ("1", &longs), ("2", &[1])])
}

/// The same in the legacy format, where the optimiser's storage is there, and
/// in front of the others.
pub fn lightning_legacy() -> Vec<u8> {
    let (floats, longs) = lightning_storages();
    legacy(
        &lightning_pickle(),
        &[("missing", 4, &[7; 4000]), ("0", 4, &floats), ("1", 8, &longs), ("2", 1, &[1])],
    )
}

fn lightning_storages() -> (Vec<u8>, Vec<u8>) {
    let floats = (0..7).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let longs = [-1_i64, 1 << 40].into_iter().flat_map(i64::to_le_bytes).collect();
    (floats, longs)
}

fn lightning_pickle() -> Vec<u8> {
    Pickle::new()
        .raw(b"}(")
        .text("epoch")
        .int(3)
        .text("callbacks")
        .raw(b"}")
        .global("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
        .raw(b"}s")
        .text("state_dict")
        .global("collections", "OrderedDict")
        .raw(b")R(")
        .text("a.weight")
        .tensor("0", "FloatStorage", 1, &[2, 3], &[3, 1])
        .text("a.transposed")
        .tensor("0", "FloatStorage", 1, &[3, 2], &[1, 3])
        .text("b.param")
        .global("torch._utils", "_rebuild_parameter")
        .tensor("1", "LongStorage", 0, &[2], &[1])
        .raw(b"\x88N\x87R")
        .text("c.flag")
        .tensor("2", "BoolStorage", 0, &[], &[])
        .text("d.note")
        .text("no tensor")
        .raw(b"u}")
        .text("_metadata")
        .raw(b"Nsb")
        .text("optimizer_states")
        .raw(b"](")
        .tensor("missing", "FloatStorage", 0, &[1000], &[1])
        .raw(b"eu")
        .stop()
}
