//! Torch zip checkpoints: what is read, what is refused, and that nothing panics.

mod support;

use std::fs;

use anyhow::{Result, ensure};
use candle_core::{DType, Device};
use checkpoints::{Error, FileKind, TensorFile};
use proptest::prelude::*;
use support::{Pickle, archive, lightning};

fn open(bytes: &[u8]) -> Result<(tempfile::TempDir, checkpoints::Result<TensorFile>)> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("last.ckpt");
    fs::write(&path, bytes)?;
    let file = TensorFile::open(path);
    Ok((dir, file))
}

/// Opens the file and reads everything that it offers.
fn read_all(bytes: &[u8]) -> Result<()> {
    let (_dir, file) = open(bytes)?;
    let file = file?;
    for name in file.names() {
        file.tensor(name, &Device::Cpu)?;
        file.tensor_sha256(name)?;
    }
    Ok(())
}

fn refusal(bytes: &[u8]) -> Result<String> {
    let (_dir, file) = open(bytes)?;
    Ok(file.err().map(|e| e.to_string()).unwrap_or_default())
}

#[test]
fn a_lightning_checkpoint_is_read() -> Result<()> {
    let (_dir, file) = open(&lightning()?)?;
    let file = file?;
    assert_eq!(file.kind(), FileKind::TorchZip);
    assert_eq!(file.section(), Some("state_dict"));
    let names: Vec<_> = file.names().collect();
    assert_eq!(names, ["a.transposed", "a.weight", "b.param", "c.flag"]);
    assert_eq!(file.skipped(), ["d.note"]);
    assert_eq!(file.dtype("c.flag"), Some(DType::U8));
    assert_eq!(file.shape("c.flag").map(|s| s.rank()), Some(0));
    let device = &Device::Cpu;
    assert_eq!(
        file.tensor("a.weight", device)?.to_vec2::<f32>()?,
        [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    );
    assert_eq!(
        file.tensor("a.transposed", device)?.to_vec2::<f32>()?,
        [[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]
    );
    assert_eq!(file.tensor("b.param", device)?.to_vec1::<i64>()?, [-1, 1 << 40]);
    assert_eq!(file.tensor("c.flag", device)?.to_scalar::<u8>()?, 1);
    assert_eq!(file.tensor_sha256("c.flag")?, checkpoints::sha256_bytes(&[1]));
    assert!(matches!(file.tensor("none", device), Err(Error::NoTensor { .. })));
    Ok(())
}

#[test]
fn other_places_of_the_weights_are_known() -> Result<()> {
    for section in ["model", "module"] {
        let pickle = Pickle::new()
            .raw(b"}")
            .text(section)
            .raw(b"}")
            .text("a")
            .tensor("0", "ByteStorage", 0, &[1], &[1])
            .raw(b"ss")
            .stop();
        let (_dir, file) = open(&archive(&pickle, &[("0", b"x")])?)?;
        assert_eq!(file?.section(), Some(section));
    }
    let pickle =
        Pickle::new().raw(b"}").text("model").tensor("0", "ByteStorage", 0, &[1], &[1]).raw(b"s");
    let (_dir, file) = open(&archive(&pickle.stop(), &[("0", b"x")])?)?;
    let file = file?;
    assert_eq!((file.section(), file.len()), (None, 1));
    Ok(())
}

#[test]
fn views_outside_their_storage_are_refused() -> Result<()> {
    for (offset, shape, strides) in [
        (4, &[1][..], &[1][..]),
        (0, &[5], &[1]),
        (0, &[2], &[4]),
        (0, &[i32::MAX, i32::MAX, i32::MAX], &[0, 0, 0]),
        (0, &[i32::MAX], &[0]),
        (0, &[2, 2], &[1]),
    ] {
        let pickle = Pickle::new()
            .raw(b"}")
            .text("a")
            .tensor("0", "ByteStorage", offset, shape, strides)
            .raw(b"s")
            .stop();
        let message = refusal(&archive(&pickle, &[("0", b"four")])?)?;
        assert!(message.contains("tensor \"a\""), "{message}");
    }
    // Negative numbers are no tensor at all.
    let pickle =
        Pickle::new().raw(b"}").text("a").tensor("0", "ByteStorage", -1, &[1], &[1]).raw(b"s");
    let (_dir, file) = open(&archive(&pickle.stop(), &[("0", b"four")])?)?;
    assert_eq!(file?.skipped(), ["a"]);
    Ok(())
}

#[test]
fn what_is_no_checkpoint_is_told_apart() -> Result<()> {
    let global = Pickle::new().global("os", "system").text("ls").raw(b"\x85R").stop();
    for (bytes, part) in [
        (Vec::new(), "empty"),
        (b"PK\x03\x04".to_vec(), "cut short"),
        (archive(&global, &[])?, "not a dict"),
        (archive(b"\x80\x02", &[])?, "pickle"),
        (b"\x80\x02}.".to_vec(), "bare pickle"),
        (b"<!DOCTYPE html>".to_vec(), "web page"),
        (b"version https://git-lfs.github.com/spec/v1".to_vec(), "git lfs pull"),
        (b"model:\n  target: x".to_vec(), "--config"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff{}".to_vec(), "header"),
        (b"\x02\0\0\0\0\0\0\0{}trailing".to_vec(), "header"),
        (
            b"\x58\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},\
           \"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}"
                .to_vec(),
            "two tensors are named \"a\"",
        ),
        (b"hello".to_vec(), "neither"),
    ] {
        let message = refusal(&bytes)?;
        assert!(message.contains(part) && message.contains("last.ckpt"), "{part:?}: {message:?}");
    }
    Ok(())
}

#[test]
fn a_missing_storage_is_named() -> Result<()> {
    let pickle =
        Pickle::new().raw(b"}").text("a").tensor("7", "ByteStorage", 0, &[1], &[1]).raw(b"s");
    let message = refusal(&archive(&pickle.stop(), &[])?)?;
    assert!(message.contains("storage \"7\""), "{message}");
    Ok(())
}

#[test]
fn every_truncation_is_refused() -> Result<()> {
    let bytes = lightning()?;
    for n in 0..bytes.len() {
        ensure!(open(&bytes[..n])?.1.is_err(), "{n} bytes of {}", bytes.len());
    }
    Ok(())
}

proptest! {
    #[test]
    fn no_flipped_bits_panic(
        flips in prop::collection::vec((0_usize..100_000, 0_u8..8), 1..4),
    ) {
        let mut bytes = lightning().unwrap_or_default();
        let length = bytes.len();
        for (at, bit) in flips {
            bytes[at % length] ^= 1 << bit;
        }
        let _ = read_all(&bytes);
    }

    #[test]
    fn no_pickle_panics(pickle in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_all(&archive(&pickle, &[("0", b"four")]).unwrap_or_default());
    }

    #[test]
    fn no_safetensors_header_panics(
        header in "(\\{\"a\":\\{\"dtype\":\"(F32|U8|F4|X)\",\"shape\":\\[[0-9,]{0,40}\\],\
                   \"data_offsets\":\\[[0-9]{1,20},[0-9]{1,20}\\]\\}\\}|\\{[\":,a{}\\[\\]0-9]{0,60})",
        data in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let length = (header.len() as u64).to_le_bytes();
        let _ = read_all(&[&length, header.as_bytes(), &data].concat());
    }
}
