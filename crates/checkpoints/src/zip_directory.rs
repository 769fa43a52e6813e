//! The table of contents of a zip file: which bytes are which entry.
//!
//! Torch stores its entries uncompressed, so all that is needed is where each
//! begins; nothing is ever unpacked. Sizes come from the central directory
//! (APPNOTE.TXT 4.3), since torch writes the local headers before it knows them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crate::error::{Error, Result};

/// The largest number of entries. A 1.4 billion parameter transformer with its
/// optimiser has about 2000.
const MAX_ENTRIES: u64 = 1 << 17;
/// The largest central directory; torch needs about 100 bytes an entry.
const MAX_DIRECTORY_BYTES: u64 = 1 << 25;

const END_BYTES: usize = 22;
const MAX_COMMENT_BYTES: usize = 0xffff;
const LOCATOR_BYTES: usize = 20;
const END64_BYTES: usize = 56;
const CENTRAL_BYTES: usize = 46;
const LOCAL_BYTES: u64 = 30;

const END_SIGNATURE: &[u8] = b"PK\x05\x06";
const LOCATOR_SIGNATURE: &[u8] = b"PK\x06\x07";
const END64_SIGNATURE: &[u8] = b"PK\x06\x06";
const CENTRAL_SIGNATURE: &[u8] = b"PK\x01\x02";
const LOCAL_SIGNATURE: &[u8] = b"PK\x03\x04";

const ENCRYPTED: u16 = 1;
const STORED: u16 = 0;
const ZIP64_EXTRA: u16 = 1;

/// Where an entry's bytes lie in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) start: u64,
    pub(crate) bytes: u64,
}

/// Entries by name.
pub(crate) struct ZipDirectory {
    entries: HashMap<String, Central>,
}

/// What the central directory says of an entry.
struct Central {
    header: u64,
    bytes: u64,
    name_bytes: u16,
}

impl ZipDirectory {
    /// Reads the central directory of `file`, which is `file_bytes` long.
    pub(crate) fn read(path: &Path, file: &mut File, file_bytes: u64) -> Result<Self> {
        let damaged = |what: &str| {
            Error::format(path, format!("the zip archive is damaged or cut short: {what}"))
        };
        let (start, bytes, count) = locate(path, file, file_bytes)?;
        Error::check_limit(path, "the number of zip entries", count, MAX_ENTRIES)?;
        Error::check_limit(path, "the zip directory (bytes)", bytes, MAX_DIRECTORY_BYTES)?;
        if start.checked_add(bytes).is_none_or(|end| end > file_bytes) {
            return Err(damaged("its directory lies outside the file"));
        }
        let directory = read_at(path, file, start, bytes as usize)?;
        let mut rest = directory.as_slice();
        let mut entries = HashMap::new();
        for _ in 0..count {
            let (entry, name, tail) =
                parse_central(rest).ok_or_else(|| damaged("a directory entry is invalid"))?;
            rest = tail;
            if entry.header >= start {
                return Err(damaged("an entry lies outside the file"));
            }
            if entry.encrypted || entry.method != STORED {
                let reason = format!(
                    "zip entry {name:?} is compressed or encrypted, which torch never writes: \
                     unpack the archive and pack it again without compression (`zip -0`)"
                );
                return Err(Error::format(path, reason));
            }
            let central =
                Central { header: entry.header, bytes: entry.bytes, name_bytes: entry.name_bytes };
            if entries.insert(name.clone(), central).is_some() {
                return Err(damaged(&format!("two entries are named {name:?}")));
            }
        }
        Ok(Self { entries })
    }

    /// The names, in no order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The bytes that `name` has, `None` when there is no such entry.
    pub(crate) fn extent(
        &self,
        path: &Path,
        file: &mut File,
        file_bytes: u64,
        name: &str,
    ) -> Result<Option<Extent>> {
        let Some(entry) = self.entries.get(name) else { return Ok(None) };
        let damaged = || Error::format(path, format!("zip entry {name:?} is damaged or cut short"));
        if entry.header + LOCAL_BYTES > file_bytes {
            return Err(damaged());
        }
        let local = read_at(path, file, entry.header, LOCAL_BYTES as usize)?;
        if !local.starts_with(LOCAL_SIGNATURE) || u16_at(&local, 26) != Some(entry.name_bytes) {
            return Err(damaged());
        }
        let extra = u16_at(&local, 28).ok_or_else(damaged)?;
        let start = entry.header + LOCAL_BYTES + u64::from(entry.name_bytes) + u64::from(extra);
        if start.checked_add(entry.bytes).is_none_or(|end| end > file_bytes) {
            return Err(damaged());
        }
        Ok(Some(Extent { start, bytes: entry.bytes }))
    }
}

/// Finds the central directory: its offset, its bytes and its entries.
fn locate(path: &Path, file: &mut File, file_bytes: u64) -> Result<(u64, u64, u64)> {
    let missing = || {
        let reason = "the zip archive has no table of contents at its end: \
                      the file is cut short, get it again";
        Error::format(path, reason)
    };
    let tail_bytes = file_bytes.min((END_BYTES + MAX_COMMENT_BYTES + LOCATOR_BYTES) as u64);
    let tail_start = file_bytes - tail_bytes;
    let tail = read_at(path, file, tail_start, tail_bytes as usize)?;
    let end = (0..=tail.len().saturating_sub(END_BYTES))
        .rev()
        .find(|&at| {
            tail[at..].starts_with(END_SIGNATURE)
                && u16_at(&tail, at + 20)
                    .is_some_and(|comment| at + END_BYTES + usize::from(comment) == tail.len())
        })
        .ok_or_else(missing)?;
    let read =
        || Some((u32_at(&tail, end + 16)?, u32_at(&tail, end + 12)?, u16_at(&tail, end + 10)?));
    let (start, bytes, count) = read().ok_or_else(missing)?;
    let locator = end.checked_sub(LOCATOR_BYTES).map(|at| &tail[at..end]);
    let Some(locator) = locator.filter(|bytes| bytes.starts_with(LOCATOR_SIGNATURE)) else {
        return Ok((start.into(), bytes.into(), count.into()));
    };
    let at = u64_at(locator, 8).ok_or_else(missing)?;
    if at.checked_add(END64_BYTES as u64).is_none_or(|end| end > file_bytes) {
        return Err(missing());
    }
    let end64 = read_at(path, file, at, END64_BYTES)?;
    let read = || Some((u64_at(&end64, 48)?, u64_at(&end64, 40)?, u64_at(&end64, 32)?));
    if !end64.starts_with(END64_SIGNATURE) {
        return Err(missing());
    }
    read().ok_or_else(missing)
}

/// One entry as the central directory has it.
struct Entry {
    encrypted: bool,
    method: u16,
    header: u64,
    bytes: u64,
    name_bytes: u16,
}

fn parse_central(bytes: &[u8]) -> Option<(Entry, String, &[u8])> {
    if !bytes.starts_with(CENTRAL_SIGNATURE) {
        return None;
    }
    let lengths = [u16_at(bytes, 28)?, u16_at(bytes, 30)?, u16_at(bytes, 32)?];
    let [name_bytes, extra_bytes, comment_bytes] = lengths.map(usize::from);
    let rest = bytes.get(CENTRAL_BYTES..)?;
    let (name, rest) = rest.split_at_checked(name_bytes)?;
    let (extra, rest) = rest.split_at_checked(extra_bytes)?;
    let rest = rest.get(comment_bytes..)?;
    let mut sizes = Zip64 { fields: zip64_fields(extra) };
    // In this order, and present only where the short field is all ones.
    let unpacked = sizes.widen(u32_at(bytes, 24)?)?;
    let packed = sizes.widen(u32_at(bytes, 20)?)?;
    let header = sizes.widen(u32_at(bytes, 42)?)?;
    let entry = Entry {
        encrypted: u16_at(bytes, 8)? & ENCRYPTED != 0,
        // Sizes of a stored entry that differ are as good as compression.
        method: if packed == unpacked { u16_at(bytes, 10)? } else { u16::MAX },
        header,
        bytes: unpacked,
        name_bytes: lengths[0],
    };
    Some((entry, String::from_utf8(name.to_vec()).ok()?, rest))
}

struct Zip64<'a> {
    fields: &'a [u8],
}

impl Zip64<'_> {
    fn widen(&mut self, short: u32) -> Option<u64> {
        if short != u32::MAX {
            return Some(short.into());
        }
        let value = u64_at(self.fields, 0)?;
        self.fields = &self.fields[8..];
        Some(value)
    }
}

fn zip64_fields(mut extra: &[u8]) -> &[u8] {
    while let (Some(id), Some(bytes)) = (u16_at(extra, 0), u16_at(extra, 2)) {
        let Some((field, rest)) = extra[4..].split_at_checked(bytes.into()) else { break };
        if id == ZIP64_EXTRA {
            return field;
        }
        extra = rest;
    }
    &[]
}

/// Reads `bytes` bytes at `start`; the caller knows that they are few and there.
pub(crate) fn read_at(path: &Path, file: &mut File, start: u64, bytes: usize) -> Result<Vec<u8>> {
    let mut buffer = vec![0; bytes];
    file.seek(SeekFrom::Start(start)).map_err(Error::io(path))?;
    file.read_exact(&mut buffer).map_err(Error::io(path))?;
    Ok(buffer)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array_at(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests;
