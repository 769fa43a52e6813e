//! `owner/name[@revision][:file]`.

use std::fmt;
use std::path::{Component, Path};
use std::str::FromStr;

use crate::error::Error;

/// The longest owner or name, as on the hub.
const MAX_PART: usize = 96;
/// The longest revision or path of a file.
const MAX_PATH: usize = 512;
/// The revision where none is given.
const DEFAULT_REVISION: &str = "main";

/// A model on a hub, or one file of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubId {
    owner: String,
    name: String,
    revision: Option<String>,
    file: Option<String>,
}

impl HubId {
    /// `owner/name`.
    pub fn repo(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }

    /// A branch, a tag or a commit; `main` where none is given.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(DEFAULT_REVISION)
    }

    /// The file, where one is named.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// The model as a whole.
    pub fn without_file(&self) -> Self {
        Self { file: None, ..self.clone() }
    }

    /// The name of the repository's folder in the cache.
    pub fn folder_name(&self) -> String {
        format!("models--{}--{}", self.owner, self.name)
    }

    /// The repository whose folder in the cache is called `folder`.
    pub fn of_folder_name(folder: &str) -> Option<Self> {
        // Owners have no `--`, names may.
        let (owner, name) = folder.strip_prefix("models--")?.split_once("--")?;
        format!("{owner}/{name}").parse().ok()
    }
}

impl FromStr for HubId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |reason| Error::Name { name: text.chars().take(200).collect(), reason };
        let (rest, file) = match text.split_once(':') {
            Some((rest, file)) => (rest, Some(file)),
            None => (text, None),
        };
        let (repo, revision) = match rest.split_once('@') {
            Some((repo, revision)) => (repo, Some(revision)),
            None => (rest, None),
        };
        let (owner, name) = repo.split_once('/').ok_or_else(|| refuse("there is no `/`"))?;
        if !is_part(owner) || !is_part(name) {
            return Err(refuse("owner and name are letters, digits, `-`, `_` and `.`"));
        }
        if revision.is_some_and(|revision| !is_path(revision)) {
            return Err(refuse("the revision is not a branch, a tag or a commit"));
        }
        if file.is_some_and(|file| !is_path(file)) {
            return Err(refuse("the file is not a path below the repository"));
        }
        Ok(Self {
            owner: owner.to_owned(),
            name: name.to_owned(),
            revision: revision.map(str::to_owned),
            file: file.map(str::to_owned),
        })
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        if let Some(file) = &self.file {
            write!(f, ":{file}")?;
        }
        Ok(())
    }
}

/// The hub's rule for owners and names.
fn is_part(text: &str) -> bool {
    (1..=MAX_PART).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && !text.starts_with(['-', '.'])
        && !text.ends_with(['-', '.'])
        && !text.contains("..")
        && !text.contains("--")
}

/// Whether `text` is a plain path below something: no root, no `..`, no character
/// that means something in a URL or on some system.
pub(crate) fn is_path(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+=, ()/".contains(c);
    (1..=MAX_PATH).contains(&text.len())
        && text.chars().all(plain)
        && text.split('/').all(|part| !part.is_empty() && part.trim() == part)
        && Path::new(text).components().all(|part| matches!(part, Component::Normal(_)))
        && !text.split('/').any(|part| part.starts_with('.') && part.trim_matches('.').is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_their_parts() -> Result<(), Error> {
        let id: HubId = "CompVis/ldm-x.4@refs/pr/1:vqvae/config.json".parse()?;
        assert_eq!(id.repo(), "CompVis/ldm-x.4");
        assert_eq!((id.revision(), id.file()), ("refs/pr/1", Some("vqvae/config.json")));
        assert_eq!(id.to_string(), "CompVis/ldm-x.4@refs/pr/1:vqvae/config.json");
        let id: HubId = "a/b".parse()?;
        assert_eq!((id.revision(), id.file()), ("main", None));
        assert_eq!(id.folder_name(), "models--a--b");
        assert_eq!(HubId::of_folder_name("models--a--b"), Some(id));
        assert_eq!(HubId::of_folder_name("datasets--a--b"), None);
        assert_eq!(HubId::of_folder_name("models--..--b"), None);
        Ok(())
    }

    #[test]
    fn what_is_no_name() {
        for text in [
            "",
            "a",
            "/b",
            "a/",
            "a/b/c",
            "../b",
            "a/..",
            "a/.b",
            "-a/b",
            "a/b@",
            "a/b:",
            "a b/c",
            "a/b@../x",
            "a/b@/x",
            "a/b:../x",
            "a/b:/etc/passwd",
            "a/b:x/../../y",
            "a/b:x\\y",
            "a/b:.",
            "a/b:x//y",
            "a/b@x?y",
            "a/b:x#y",
            "a/b:x%2e",
            "a--b/c",
            "http://x/y",
            "C:\\models\\x",
        ] {
            assert!(text.parse::<HubId>().is_err(), "{text}");
        }
        assert!("x".repeat(97).parse::<HubId>().is_err());
    }
}
