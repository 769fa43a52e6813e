//! Checkpoints from before torch 1.6: what is read, what is refused.

mod support;

use std::fs;

use anyhow::{Result, ensure};
use candle_core::Device;
use checkpoints::{FileKind, TensorFile, Weights};
use proptest::prelude::*;
use support::{Pickle, legacy, lightning, lightning_legacy};

fn open(bytes: &[u8]) -> Result<(tempfile::TempDir, checkpoints::Result<TensorFile>)> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("last.ckpt");
    fs::write(&path, bytes)?;
    let file = TensorFile::open(path);
    Ok((dir, file))
}

fn refusal(bytes: &[u8]) -> Result<String> {
    Ok(open(bytes)?.1.err().map(|e| e.to_string()).unwrap_or_default())
}

fn one(class: &str) -> Vec<u8> {
    Pickle::new().raw(b"}").text("a").tensor("0", class, 0, &[1], &[1]).raw(b"s").stop()
}

#[test]
fn it_holds_what_the_zip_holds() -> Result<()> {
    let (_a, zip) = open(&lightning()?)?;
    let (_b, file) = open(&lightning_legacy())?;
    let (zip, file) = (zip?, file?);
    assert_eq!((file.kind(), file.section()), (FileKind::LegacyTorch, Some("state_dict")));
    assert_eq!(file.skipped(), zip.skipped());
    assert_eq!(file.names().collect::<Vec<_>>(), zip.names().collect::<Vec<_>>());
    for name in zip.names() {
        assert_eq!(file.shape(name), zip.shape(name));
        assert_eq!(file.tensor_sha256(name)?, zip.tensor_sha256(name)?, "{name}");
    }
    Ok(())
}

/// Torch before 0.4 had storages that were parts of others.
#[test]
fn parts_of_storages_begin_where_they_say() -> Result<()> {
    let pickle = Pickle::new()
        .raw(b"}")
        .text("a")
        .global("torch._utils", "_rebuild_tensor")
        .raw(b"((")
        .text("storage")
        .global("torch", "ByteStorage")
        .text("0")
        .text("cpu")
        .int(6)
        .raw(b"(")
        .text("view")
        .int(2)
        .int(3)
        .raw(b"ttQ")
        .int(1)
        .ints(&[2])
        .ints(&[1])
        .raw(b"tRs")
        .stop();
    let (_dir, file) = open(&legacy(&pickle, &[("0", 1, b"abcdef")]))?;
    assert_eq!(file?.tensor("a", &Device::Cpu)?.to_vec1::<u8>()?, b"de");
    Ok(())
}

#[test]
fn what_is_wrong_is_said() -> Result<()> {
    let bytes = one("ByteStorage");
    let whole = legacy(&bytes, &[("0", 1, b"x")]);
    let replaced = |from: &[u8], to: &[u8]| -> Vec<u8> {
        let at = whole.windows(from.len()).position(|window| window == from).unwrap_or(0);
        [&whole[..at], to, &whole[at + from.len()..]].concat()
    };
    for (bytes, part) in [
        (replaced(b"M\xe9\x03", b"M\xea\x03"), "not known"),
        (replaced(b"endian\x88", b"endian\x89"), "big-endian"),
        (legacy(&one("QuadStorage"), &[("0", 1, b"x")]), "class \"QuadStorage\""),
        (legacy(&bytes, &[]), "storage \"0\", which is not in the file"),
        (legacy(&bytes, &[("0", 1, b"")]), "ends at element 1"),
        (legacy(&bytes, &[("0", 1, b"x"), ("0", 1, b"x")]), "two storages"),
        (legacy(&bytes, &[("other", 1, b"x")]), "nothing says"),
        (replaced(b"\x01\0\0\0\0\0\0\0x", b"\xff\xff\xff\xff\xff\xff\xff\x7fx"), "cut short"),
        (replaced(b"\x01\0\0\0\0\0\0\0x", b"\xff\xff\xff\xff\xff\xff\xff\xffx"), "cut short"),
        (whole[..14].to_vec(), "cut short"),
    ] {
        let message = refusal(&bytes)?;
        assert!(message.contains(part) && message.contains("last.ckpt"), "{part:?}: {message:?}");
    }
    Ok(())
}

#[test]
fn every_truncation_is_refused() -> Result<()> {
    let bytes = legacy(&one("ByteStorage"), &[("0", 1, b"x")]);
    for n in 0..bytes.len() {
        ensure!(open(&bytes[..n])?.1.is_err(), "{n} bytes of {}", bytes.len());
    }
    Ok(())
}

#[test]
fn the_moving_average_is_taken_where_it_is_asked_for() -> Result<()> {
    let section = |pickle: Pickle, name: &str, key: &str| {
        pickle.text(name).raw(b"}").text("a").tensor(key, "ByteStorage", 0, &[1], &[1]).raw(b"ss")
    };
    let both = section(section(Pickle::new().raw(b"}"), "ema", "1"), "model", "0").stop();
    let alone = section(Pickle::new().raw(b"}"), "ema", "1").stop();
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("x.pt");
    let (m, e): (&[u8], &[u8]) = (b"m", b"e");
    let two = [("0", 1, m), ("1", 1, e)];
    for (pickle, storages, weights, name, byte) in [
        (&both, &two[..], Weights::Trained, "model", b'm'),
        (&both, &two, Weights::Averaged, "ema", b'e'),
        (&alone, &two[1..], Weights::Trained, "ema", b'e'),
    ] {
        fs::write(&path, legacy(pickle, storages))?;
        let file = TensorFile::open_weights(&path, weights)?;
        assert_eq!(file.section(), Some(name));
        assert_eq!(file.tensor("a", &Device::Cpu)?.to_vec1::<u8>()?, [byte]);
    }
    Ok(())
}

proptest! {
    #[test]
    fn no_flipped_bits_panic(
        flips in prop::collection::vec((0_usize..100_000, 0_u8..8), 1..4),
    ) {
        let mut bytes = lightning_legacy();
        let length = bytes.len();
        for (at, bit) in flips {
            bytes[at % length] ^= 1 << bit;
        }
        if let Ok((_dir, Ok(file))) = open(&bytes) {
            for name in file.names() {
                let _ = file.tensor(name, &Device::Cpu);
            }
        }
    }
}
