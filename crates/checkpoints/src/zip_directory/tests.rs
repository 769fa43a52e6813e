use std::io::Write;

use zip::write::{SimpleFileOptions, ZipWriter};

use super::*;

fn archive(entries: &[(&str, &[u8])], large: bool) -> anyhow::Result<Vec<u8>> {
    let mut writer = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Stored)
        .large_file(large);
    for (name, bytes) in entries {
        writer.start_file(*name, options)?;
        writer.write_all(bytes)?;
    }
    Ok(writer.finish()?.into_inner())
}

fn extents(bytes: &[u8], names: &[&str]) -> anyhow::Result<Vec<Option<Vec<u8>>>> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(bytes)?;
    let path = file.path().to_path_buf();
    let file_bytes = bytes.len() as u64;
    let mut file = File::open(&path)?;
    let directory = ZipDirectory::read(&path, &mut file, file_bytes)?;
    names
        .iter()
        .map(|name| {
            let extent = directory.extent(&path, &mut file, file_bytes, name)?;
            extent.map(|e| read_at(&path, &mut file, e.start, e.bytes as usize)).transpose()
        })
        .map(|result| result.map_err(anyhow::Error::from))
        .collect()
}

#[test]
fn finds_what_another_writer_wrote() -> anyhow::Result<()> {
    for large in [false, true] {
        let bytes = archive(&[("a/data.pkl", b"one"), ("a/data/0", b""), ("b", b"three")], large)?;
        let found = extents(&bytes, &["b", "a/data.pkl", "a/data/0", "none"])?;
        let expected = [Some(b"three".to_vec()), Some(b"one".to_vec()), Some(Vec::new()), None];
        assert_eq!(found, expected);
    }
    Ok(())
}

#[test]
fn every_truncation_is_refused() -> anyhow::Result<()> {
    let bytes = archive(&[("a", b"one"), ("b", b"three")], false)?;
    for n in 0..bytes.len() {
        assert!(extents(&bytes[..n], &["a", "b"]).is_err(), "{n} bytes");
    }
    Ok(())
}

#[test]
fn no_flipped_byte_panics() -> anyhow::Result<()> {
    let bytes = archive(&[("a", b"one"), ("b", b"three")], true)?;
    for i in 0..bytes.len() {
        for flip in [1, 0x80, 0xff] {
            let mut bytes = bytes.clone();
            bytes[i] ^= flip;
            let _ = extents(&bytes, &["a", "b"]);
        }
    }
    Ok(())
}
