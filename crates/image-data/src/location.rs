//! Where the bytes of a picture or a map are.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{Error, Limits, Result};

/// A file, or a member of a tar archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A file of its own.
    File(PathBuf),
    /// Bytes of a shard. Members of a tar archive lie in it as they are, so one can be
    /// read without the others.
    Member {
        /// The archive.
        shard: Arc<Path>,
        /// The member's path in it.
        name: String,
        /// Where its bytes begin.
        offset: u64,
        /// How many there are.
        len: u64,
    },
}

impl Location {
    /// What messages call it; a member is named like a file in a folder.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            Self::Member { shard, name, .. } => shard.join(name),
        }
    }

    /// The bytes, refusing more than the limit even where the size is not known
    /// beforehand (a pipe, a growing file).
    ///
    /// # Errors
    /// A folder; more bytes than the limit; not readable; a shard that ends before the
    /// member does.
    pub fn read(&self, limits: &Limits) -> Result<Vec<u8>> {
        match self {
            Self::File(path) => read_file(path, limits),
            Self::Member { shard, offset, len, .. } => {
                let path = self.path();
                limits.check_file(&path, *len)?;
                let io = |source| Error::Io { path: path.clone(), action: "read", source };
                let mut file = File::open(shard).map_err(io)?;
                file.seek(SeekFrom::Start(*offset)).map_err(io)?;
                let mut bytes = Vec::new();
                file.take(*len).read_to_end(&mut bytes).map_err(io)?;
                if (bytes.len() as u64) < *len {
                    let reason = format!("the archive ends after {} of {len} bytes", bytes.len());
                    return Err(Error::Damaged { path, format: "tar", reason });
                }
                Ok(bytes)
            }
        }
    }
}

fn read_file(path: &Path, limits: &Limits) -> Result<Vec<u8>> {
    let io = |source| Error::Io { path: path.to_path_buf(), action: "read", source };
    let metadata = std::fs::metadata(path).map_err(io)?;
    if metadata.is_dir() {
        return Err(Error::Folder { path: path.to_path_buf() });
    }
    limits.check_file(path, metadata.len())?;
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(io)?;
    file.take(limits.max_file_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(io)?;
    limits.check_file(path, bytes.len() as u64)?;
    Ok(bytes)
}
