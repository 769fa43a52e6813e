//! From a name to files in the cache.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use checkpoints::sha256_file;

use crate::cache::Cache;
use crate::client::{Client, Listing, RemoteFile};
use crate::error::{Error, Result};
use crate::id::HubId;
use crate::settings::Settings;

const BUFFER_BYTES: usize = 1 << 16;
const INCOMPLETE: &str = "incomplete";

/// Hears how a download goes.
pub trait Progress {
    /// `done` bytes of `file` are here, of `total` where that is known.
    fn bytes(&mut self, file: &str, done: u64, total: Option<u64>);
}

impl<F: FnMut(&str, u64, Option<u64>)> Progress for F {
    fn bytes(&mut self, file: &str, done: u64, total: Option<u64>) {
        self(file, done, total);
    }
}

/// A file that is in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Where.
    pub path: PathBuf,
    /// Of which commit.
    pub commit: String,
    /// Its SHA-256, where the hub states it; the content has it.
    pub sha256: Option<String>,
}

/// A hub and the cache of what came from it.
pub struct Hub {
    client: Client,
    cache: Cache,
}

impl Hub {
    /// The hub that `settings` name. Nothing is asked yet.
    pub fn new(settings: Settings) -> Self {
        let cache = Cache::new(&settings.cache);
        Self { client: Client::new(settings), cache }
    }

    /// The cache.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The commit and files of `id`'s revision; offline, those that are in the
    /// cache.
    ///
    /// # Errors
    /// When the hub does not have it, refuses, or does not answer.
    pub fn listing(&self, id: &HubId) -> Result<Listing> {
        if !self.client.settings().offline {
            return self.client.listing(id);
        }
        let commit = self.cache.commit(id).ok_or_else(|| self.offline(id, None))?;
        let snapshot = self.cache.snapshot(id, &commit);
        let mut files = Vec::new();
        list_files(&snapshot, "", &mut files);
        if files.is_empty() {
            return Err(self.offline(id, None));
        }
        Ok(Listing { commit, files })
    }

    /// Brings `file` of `id` into the cache, if it is not there: the rest of it,
    /// where a download was stopped. The hub is asked which commit the revision is,
    /// unless it is a commit itself.
    ///
    /// # Errors
    /// When the hub does not have it, refuses, or does not answer; when what came
    /// has another length or hash than announced, in which case nothing is kept.
    pub fn fetch(&self, id: &HubId, file: &str, progress: &mut dyn Progress) -> Result<Fetched> {
        if !crate::id::is_path(file) {
            let reason = "the file is not a path below the repository";
            return Err(Error::Name { name: file.chars().take(200).collect(), reason });
        }
        let known = self.cache.commit(id);
        let pinned = known.as_deref() == Some(id.revision());
        if self.client.settings().offline || pinned {
            let cached = known.and_then(|commit| self.cached(id, &commit, file));
            if let Some(cached) = cached {
                return Ok(cached);
            }
            if self.client.settings().offline {
                return Err(self.offline(id, Some(file)));
            }
        }
        let remote = self.client.file(id, file)?;
        let blob = self.cache.blob(id, &remote.etag);
        if !blob.is_file() {
            let lock = self.cache.lock(id, &remote.etag);
            make_folder_of(&lock)?;
            let lock_file = File::create(&lock).map_err(Error::io(&lock))?;
            // Another process may be downloading it, and done when we have the lock.
            lock_file.lock().map_err(Error::io(&lock))?;
            if !blob.is_file() {
                self.download(id, file, &remote, &blob, progress)?;
            }
        }
        let snapshot = self.cache.snapshot(id, &remote.commit).join(file);
        make_folder_of(&snapshot)?;
        link(&blob, &snapshot)?;
        self.cache.remember(id, &remote.commit)?;
        let sha256 = remote.sha256().map(str::to_owned);
        Ok(Fetched { path: snapshot, commit: remote.commit, sha256 })
    }

    fn cached(&self, id: &HubId, commit: &str, file: &str) -> Option<Fetched> {
        let path = self.cache.snapshot(id, commit).join(file);
        if !path.is_file() {
            return None;
        }
        // A blob is called by its ETag, which for large files is the SHA-256.
        let blob = fs::canonicalize(&path).ok()?.file_name()?.to_str()?.to_owned();
        let named = RemoteFile { commit: commit.to_owned(), etag: blob, bytes: None };
        let sha256 = named.sha256().map(str::to_owned);
        Some(Fetched { path, commit: commit.to_owned(), sha256 })
    }

    fn download(
        &self,
        id: &HubId,
        file: &str,
        remote: &RemoteFile,
        blob: &Path,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let what = format!("{id}: {file}");
        let damaged = |reason: String| Error::Damaged { what: what.clone(), reason };
        let partial = blob.with_extension(INCOMPLETE);
        make_folder_of(&partial)?;
        // One more round from the start when what an earlier run left was wrong.
        let mut resumed = fs::metadata(&partial).is_ok_and(|metadata| metadata.len() > 0);
        loop {
            self.receive(id, file, remote, &partial, progress)?;
            let bytes = fs::metadata(&partial).map_err(Error::io(&partial))?.len();
            let mut wrong = remote
                .bytes
                .filter(|&announced| announced != bytes)
                .map(|announced| format!("{bytes} bytes came, {announced} were announced"));
            if wrong.is_none()
                && let Some(stated) = remote.sha256()
            {
                let actual = sha256_file(&partial)?;
                wrong = (actual != stated)
                    .then(|| format!("its SHA-256 is {actual}, the hub states {stated}"));
            }
            let Some(reason) = wrong else { break };
            fs::remove_file(&partial).map_err(Error::io(&partial))?;
            if !resumed {
                return Err(damaged(reason));
            }
            resumed = false;
        }
        File::open(&partial).and_then(|file| file.sync_all()).map_err(Error::io(&partial))?;
        fs::rename(&partial, blob).map_err(Error::io(blob))
    }

    /// Appends to `partial` until the file is whole. A connection that breaks or
    /// says nothing is made again, from where it stopped, as often as the settings
    /// say without a byte in between.
    fn receive(
        &self,
        id: &HubId,
        file: &str,
        remote: &RemoteFile,
        partial: &Path,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let mut failures = 0;
        loop {
            let before = fs::metadata(partial).map_or(0, |metadata| metadata.len());
            let error = match self.receive_once(id, file, remote, partial, progress) {
                Ok(()) => return Ok(()),
                // The hub is there and says no; what is on disk is full.
                Err(
                    error @ (Error::NotFound { .. }
                    | Error::Denied { .. }
                    | Error::Io { .. }
                    | Error::Damaged { .. }),
                ) => return Err(error),
                Err(error) => error,
            };
            let after = fs::metadata(partial).map_or(0, |metadata| metadata.len());
            failures = if after > before { 0 } else { failures + 1 };
            if failures > self.client.settings().retries {
                return Err(error);
            }
        }
    }

    fn receive_once(
        &self,
        id: &HubId,
        file: &str,
        remote: &RemoteFile,
        partial: &Path,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let mut done = fs::metadata(partial).map_or(0, |metadata| metadata.len());
        if remote.bytes.is_some_and(|bytes| done >= bytes) && done > 0 {
            return Ok(());
        }
        let mut reader = match self.client.content(id, &remote.commit, file, done)? {
            Some(reader) => reader,
            None => {
                // A hub that cannot continue gives it from the start.
                done = 0;
                File::create(partial).map_err(Error::io(partial))?;
                let whole = self.client.content(id, &remote.commit, file, 0)?;
                whole.ok_or_else(|| self.broken(id, "no content"))?
            }
        };
        let options = OpenOptions::new().create(true).append(true).open(partial);
        let mut out = options.map_err(Error::io(partial))?;
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let n = reader.read(&mut buffer).map_err(|e| self.broken(id, &e.to_string()))?;
            if n == 0 {
                break;
            }
            done += n as u64;
            if let Some(bytes) = remote.bytes.filter(|&bytes| done > bytes) {
                drop(out);
                fs::remove_file(partial).map_err(Error::io(partial))?;
                let reason = format!("more than the {bytes} bytes that were announced");
                return Err(Error::Damaged { what: format!("{id}: {file}"), reason });
            }
            out.write_all(&buffer[..n]).map_err(Error::io(partial))?;
            progress.bytes(file, done, remote.bytes);
        }
        match remote.bytes {
            Some(bytes) if done < bytes => {
                Err(self.broken(id, &format!("the answer ended after {done} of {bytes} bytes")))
            }
            _ => Ok(()),
        }
    }

    fn broken(&self, id: &HubId, reason: &str) -> Error {
        let endpoint = self.client.settings().endpoint.clone();
        Error::Unreachable { what: id.to_string(), endpoint, reason: reason.to_owned() }
    }

    fn offline(&self, id: &HubId, file: Option<&str>) -> Error {
        let what = file.map_or_else(|| id.to_string(), |file| format!("{id}: {file}"));
        Error::Offline { what, cache: self.cache.folder().to_path_buf() }
    }
}

fn make_folder_of(path: &Path) -> Result<()> {
    match path.parent() {
        Some(folder) => fs::create_dir_all(folder).map_err(Error::io(folder)),
        None => Ok(()),
    }
}

/// Makes `snapshot` stand for `blob`: a relative link, as the Hugging Face tools
/// make it, or a copy where there are no links.
fn link(blob: &Path, snapshot: &Path) -> Result<()> {
    if snapshot.is_file() {
        return Ok(());
    }
    if fs::symlink_metadata(snapshot).is_ok() {
        fs::remove_file(snapshot).map_err(Error::io(snapshot))?;
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(relative(blob, snapshot), snapshot).map_err(Error::io(snapshot))
    }
    #[cfg(not(unix))]
    {
        fs::copy(blob, snapshot).map(|_| ()).map_err(Error::io(snapshot))
    }
}

/// The path of `blob` as seen from the folder of `snapshot`; both are below one
/// repository's folder.
#[cfg(unix)]
fn relative(blob: &Path, snapshot: &Path) -> PathBuf {
    let common = blob.components().zip(snapshot.components()).take_while(|(a, b)| a == b).count();
    let up = snapshot.components().count().saturating_sub(common + 1);
    let mut path: PathBuf = std::iter::repeat_n("..", up).collect();
    path.extend(blob.components().skip(common));
    path
}

/// The files below `folder`, `prefix` before their names.
fn list_files(folder: &Path, prefix: &str, files: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = entry.path();
        if path.is_dir() {
            list_files(&path, &format!("{prefix}{name}/"), files);
        } else {
            files.push(format!("{prefix}{name}"));
        }
    }
    files.sort();
}
