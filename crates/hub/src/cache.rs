//! The cache of the Hugging Face tools, so that nothing is downloaded twice.
//!
//! ```text
//! models--OWNER--NAME/refs/REVISION          the commit of a branch or tag
//! models--OWNER--NAME/snapshots/COMMIT/FILE  a link to
//! models--OWNER--NAME/blobs/ETAG             the content; ETAG is its SHA-256 where it is large
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::id::HubId;

/// The most entries of a folder that are looked at.
const MAX_ENTRIES: usize = 100_000;
/// The longest ref: a commit, and what an editor may have added.
const MAX_REF_BYTES: u64 = 256;

/// The cache in a folder.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

/// A repository in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedRepo {
    /// Which.
    pub id: HubId,
    /// Its folder.
    pub folder: PathBuf,
    /// The bytes of its blobs.
    pub bytes: u64,
    /// Commits with files, and how many each has.
    pub snapshots: Vec<(String, usize)>,
}

impl Cache {
    /// The cache in `folder`, which may not exist yet.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn repo(&self, id: &HubId) -> PathBuf {
        self.folder.join(id.folder_name())
    }

    pub(crate) fn snapshot(&self, id: &HubId, commit: &str) -> PathBuf {
        self.repo(id).join("snapshots").join(commit)
    }

    pub(crate) fn blob(&self, id: &HubId, etag: &str) -> PathBuf {
        self.repo(id).join("blobs").join(etag)
    }

    pub(crate) fn lock(&self, id: &HubId, etag: &str) -> PathBuf {
        self.folder.join(".locks").join(id.folder_name()).join(format!("{etag}.lock"))
    }

    /// The commit that a revision was when the hub was last asked, or is.
    pub fn commit(&self, id: &HubId) -> Option<String> {
        let path = self.repo(id).join("refs").join(id.revision());
        let small = fs::metadata(&path).is_ok_and(|m| m.is_file() && m.len() <= MAX_REF_BYTES);
        let stored = small.then(|| fs::read_to_string(&path).ok()).flatten();
        let commit = stored.map_or_else(|| id.revision().to_owned(), |text| text.trim().to_owned());
        is_commit(&commit).then_some(commit)
    }

    pub(crate) fn remember(&self, id: &HubId, commit: &str) -> Result<()> {
        if id.revision() == commit {
            return Ok(());
        }
        let path = self.repo(id).join("refs").join(id.revision());
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(Error::io(folder))?;
        }
        checkpoints::atomic_write(&path, |file| file.write_all(commit.as_bytes()))?;
        Ok(())
    }

    /// Where a model, or the file that `id` names, is in the cache, without asking
    /// anybody.
    pub fn path(&self, id: &HubId) -> Option<PathBuf> {
        let snapshot = self.snapshot(id, &self.commit(id)?);
        match id.file() {
            Some(file) => Some(snapshot.join(file)).filter(|path| path.is_file()),
            None => Some(snapshot).filter(|path| path.is_dir()),
        }
    }

    /// The repositories in the cache, by name.
    ///
    /// # Errors
    /// When the folder is there and cannot be read.
    pub fn list(&self) -> Result<Vec<CachedRepo>> {
        if !self.folder.exists() {
            return Ok(Vec::new());
        }
        let mut repos = Vec::new();
        for (name, folder) in entries(&self.folder)? {
            let Some(id) = HubId::of_folder_name(&name) else { continue };
            let mut snapshots = Vec::new();
            for (commit, snapshot) in entries(&folder.join("snapshots")).unwrap_or_default() {
                if is_commit(&commit) {
                    snapshots.push((commit, files(&snapshot)));
                }
            }
            let blobs = entries(&folder.join("blobs")).unwrap_or_default();
            let size = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
            let bytes = blobs.iter().map(|(_, blob)| size(blob)).sum();
            repos.push(CachedRepo { id, folder, bytes, snapshots });
        }
        Ok(repos)
    }

    /// Removes a repository, all its revisions. Returns whether it was there.
    ///
    /// # Errors
    /// When it cannot be removed; when its folder is a link to somewhere else.
    pub fn remove(&self, id: &HubId) -> Result<bool> {
        let folder = self.repo(id);
        match fs::symlink_metadata(&folder) {
            Ok(metadata) if metadata.is_dir() => {
                fs::remove_dir_all(&folder).map_err(Error::io(&folder))?;
                let locks = self.folder.join(".locks").join(id.folder_name());
                if locks.is_dir() {
                    fs::remove_dir_all(&locks).map_err(Error::io(&locks))?;
                }
                Ok(true)
            }
            Ok(_) => {
                let other = std::io::Error::other("is not a folder, so it is not removed");
                Err(Error::io(&folder)(other))
            }
            Err(_) => Ok(false),
        }
    }
}

/// Whether `text` is a commit: nothing else becomes a folder's name.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io(folder))?.take(MAX_ENTRIES) {
        let entry = entry.map_err(Error::io(folder))?;
        if let Ok(name) = entry.file_name().into_string() {
            found.push((name, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// How many files there are below `folder`.
fn files(folder: &Path) -> usize {
    let below = |path: &Path| {
        let folder = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
        if folder { files(path) } else { 1 }
    };
    entries(folder).unwrap_or_default().iter().map(|(_, path)| below(path)).sum()
}
