//! Small files, whole.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use crate::error::{Error, Result};

/// The content of the file `path`, which is `what` for people.
///
/// # Errors
/// When it is no file, has more than `limit` bytes, or cannot be read.
pub fn read_limited(path: impl AsRef<Path>, what: &'static str, limit: u64) -> Result<Vec<u8>> {
    let path = path.as_ref();
    let about = fs::metadata(path).map_err(Error::io(path))?;
    // A link to a device has no bytes and never ends; opening a pipe never returns.
    if !about.is_file() {
        return Err(Error::format(path, "is not a file"));
    }
    Error::check_limit(path, what, about.len(), limit)?;
    let mut bytes = Vec::with_capacity(usize::try_from(about.len()).unwrap_or_default());
    // One more than the limit, so that a file which grows meanwhile is seen to.
    let file = File::open(path).map_err(Error::io(path))?;
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(Error::io(path))?;
    Error::check_limit(path, what, bytes.len() as u64, limit)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_large_and_endless_files_are_refused() -> Result<()> {
        let dir = tempfile::tempdir().map_err(Error::io(Path::new("")))?;
        let path = dir.path().join("a.json");
        crate::atomic_write(&path, |file| file.write_all(b"12345"))?;
        assert_eq!(read_limited(&path, "it (bytes)", 5)?, b"12345");
        assert!(matches!(read_limited(&path, "it (bytes)", 4), Err(Error::Limit { got: 5, .. })));
        assert!(read_limited(dir.path(), "it (bytes)", 4).is_err());
        #[cfg(unix)]
        {
            let link = dir.path().join("link.json");
            std::os::unix::fs::symlink("/dev/zero", &link).map_err(Error::io(&link))?;
            let error = read_limited(&link, "it (bytes)", 4).err().map(|e| e.to_string());
            assert!(error.is_some_and(|error| error.contains("is not a file")));
        }
        Ok(())
    }
}
