//! Where the members of a tar archive lie.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

use tar::{Archive, EntryType, PaxExtensions};

use crate::{Error, Result};

/// Longest name, or set of pax records, that is taken into memory.
const MAX_NAME: u64 = 64 << 10;

/// A file in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Its path in the archive.
    pub name: String,
    /// Where its bytes begin.
    pub offset: u64,
    /// How many there are.
    pub len: u64,
}

/// The files in the archive `path`, in its order, and, if it is damaged, how; then these
/// are the files before the damage. Nothing is extracted, so no name is dangerous; memory
/// grows with the number of headers, 512 bytes of archive each.
///
/// # Errors
/// The file cannot be opened.
pub(super) fn index(path: &Path) -> Result<(Vec<Member>, Option<String>)> {
    let io = |source| Error::Io { path: path.to_path_buf(), action: "read", source };
    let mut file = File::open(path).map_err(io)?;
    let bytes = file.metadata().map_err(io)?.len();
    let mut start = [0; 2];
    let compressed = file.read_exact(&mut start).is_ok() && start == [0x1f, 0x8b];
    file.rewind().map_err(io)?;
    if compressed {
        let problem = format!("{}: a compressed archive; gunzip it", path.display());
        return Ok((Vec::new(), Some(problem)));
    }
    let mut members = Vec::new();
    let damage = read_members(file, bytes, &mut members).err();
    let problem = damage.map(|reason| {
        format!("{}: damaged after {} files: {reason}", path.display(), members.len())
    });
    Ok((members, problem))
}

fn read_members(
    file: File,
    bytes: u64,
    members: &mut Vec<Member>,
) -> std::result::Result<(), String> {
    let mut archive = Archive::new(file);
    let entries = archive.entries_with_seek().map_err(|error| error.to_string())?;
    // Raw, because the library would take names of any length into memory.
    let mut long_name: Option<String> = None;
    for entry in entries.raw(true) {
        let mut entry = entry.map_err(|error| error.to_string())?;
        let (offset, len) = (entry.raw_file_position(), entry.size());
        if offset.checked_add(len).is_none_or(|end| end > bytes) {
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            return Err(format!("{name} goes on beyond the end"));
        }
        match entry.header().entry_type() {
            EntryType::GNULongName | EntryType::XHeader => {
                if len > MAX_NAME {
                    return Err(format!("a name of {len} bytes"));
                }
                let is_pax = entry.header().entry_type() == EntryType::XHeader;
                let mut text = Vec::new();
                entry.read_to_end(&mut text).map_err(|error| error.to_string())?;
                long_name = match is_pax {
                    true => pax_path(&text)?.or(long_name.take()),
                    false => Some(name(text.strip_suffix(&[0]).unwrap_or(&text))),
                };
            }
            EntryType::Regular | EntryType::Continuous => {
                let name = long_name.take().unwrap_or_else(|| name(&entry.path_bytes()));
                members.push(Member { name, offset, len });
            }
            // Names of link targets belong to links, which are left out like folders.
            EntryType::GNULongLink | EntryType::XGlobalHeader => {}
            _ => long_name = None,
        }
    }
    Ok(())
}

/// The path in pax records, where there is one. A size there means a member of over
/// 8 GiB, which no picture is.
fn pax_path(records: &[u8]) -> std::result::Result<Option<String>, String> {
    let mut path = None;
    for record in PaxExtensions::new(records) {
        let record = record.map_err(|error| error.to_string())?;
        match record.key_bytes() {
            b"path" => path = Some(name(record.value_bytes())),
            b"size" => return Err("a member of over 8 GiB".to_string()),
            _ => {}
        }
    }
    Ok(path)
}

fn name(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.strip_prefix("./").unwrap_or(&text).to_string()
}
