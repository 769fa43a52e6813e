//! Files and folders that appear whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

const BUFFER_BYTES: usize = 1 << 20;
/// How many temporary names are tried before giving up.
const MAX_NAMES: u32 = 1000;

/// Writes a file beside `path` and renames it, so that `path` holds either what
/// it held before or everything that `write` wrote, also after a crash: the
/// file and its folder are synced.
///
/// Permissions are those of the file that is replaced, else the process's usual
/// ones (umask). A symbolic link is followed and stays a link.
///
/// # Errors
/// When `write` fails, or the operating system does; `path` is then untouched
/// and the temporary file removed. When `path` is not a regular file.
pub fn atomic_write(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let existing = match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => {
            return Err(Error::format(path, "is not a regular file, so it is not replaced"));
        }
        Ok(metadata) => Some(metadata),
        Err(_) => None,
    };
    let target = match existing {
        Some(_) => fs::canonicalize(path).map_err(Error::io(path))?,
        None => path.to_path_buf(),
    };
    let (temporary, file) = beside(&target, |candidate| {
        OpenOptions::new().write(true).create_new(true).open(candidate)
    })?;
    let guard = RemoveOnDrop(Some(temporary.clone()));
    fill(file, existing, write).map_err(Error::io(path))?;
    fs::rename(&temporary, &target).map_err(Error::io(path))?;
    guard.keep();
    sync_folder(parent(&target)).map_err(Error::io(path))
}

fn fill(
    file: File,
    existing: Option<fs::Metadata>,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffered = BufWriter::with_capacity(BUFFER_BYTES, file);
    write(&mut buffered)?;
    let file = buffered.into_inner().map_err(io::IntoInnerError::into_error)?;
    if let Some(metadata) = existing {
        file.set_permissions(metadata.permissions())?;
    }
    file.sync_all()
}

/// Makes a new folder beside `path`, to be renamed to it.
pub(crate) fn folder_beside(path: &Path) -> Result<(PathBuf, RemoveOnDrop)> {
    let (temporary, ()) = beside(path, |candidate| fs::create_dir(candidate))?;
    let guard = RemoveOnDrop(Some(temporary.clone()));
    Ok((temporary, guard))
}

/// An unused name beside `path`.
pub(crate) fn beside<T>(
    path: &Path,
    create: impl Fn(&Path) -> io::Result<T>,
) -> Result<(PathBuf, T)> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let Some(name) = path.file_name() else {
        return Err(Error::format(path, "has no file name"));
    };
    let mut tries = 0;
    loop {
        let mut hidden = OsString::from(".");
        hidden.push(name);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        hidden.push(format!(".{}-{count}.tmp", std::process::id()));
        let candidate = parent(path).join(hidden);
        match create(&candidate) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && tries < MAX_NAMES => tries += 1,
            other => return other.map(|made| (candidate, made)).map_err(Error::io(path)),
        }
    }
}

/// The folder that `path` is in; `.` for a bare name.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes a rename in `folder` durable. Only Unix can open a folder to sync it.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Removes a temporary file or folder unless it was renamed.
pub(crate) struct RemoveOnDrop(Option<PathBuf>);

impl RemoveOnDrop {
    /// The path has been renamed: nothing to remove.
    pub(crate) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // Best effort: the error that brought us here matters more.
            let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        }
    }
}

#[cfg(test)]
mod tests;
