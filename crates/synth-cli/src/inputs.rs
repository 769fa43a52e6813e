//! The files behind the paths that a user gave.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::Result;
use image_data::list_images;

use crate::exit::NotFound;
use crate::report::Report;

/// A file to work on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Where it is.
    pub path: PathBuf,
    /// Its path below the folder that was given, or its bare name.
    pub relative: PathBuf,
}

/// What was found, and what was not.
#[derive(Debug)]
pub struct Inputs {
    /// The files, in the order of the arguments, those of a folder by name.
    pub found: Vec<Input>,
    /// Arguments that are nothing.
    pub missing: Vec<PathBuf>,
}

impl Inputs {
    /// Reports what is missing while the rest is done.
    pub fn report_missing(&self, report: &mut Report) {
        for path in &self.missing {
            report.failed(path, &anyhow::anyhow!("no such file or folder"));
        }
    }
}

/// The pictures that `paths` name: files as they are, and folders with their
/// sub-folders. A file that is named twice counts once.
///
/// # Errors
/// [`NotFound`] when none of `paths` exists; when a folder cannot be read.
pub fn pictures(paths: &[PathBuf]) -> Result<Inputs> {
    collect(paths, |folder| Ok(list_images(&[folder.to_path_buf()], true)?))
}

/// The codes files that `paths` name; in folders, `*.codes.safetensors`.
///
/// # Errors
/// As [`pictures`].
pub fn codes_files(paths: &[PathBuf]) -> Result<Inputs> {
    collect(paths, |folder| {
        let mut found = Vec::new();
        walk_codes(folder, &mut found)?;
        found.sort();
        Ok(found)
    })
}

/// How the names of codes files end.
pub const CODES_SUFFIX: &str = ".codes.safetensors";

fn walk_codes(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            walk_codes(&path, found)?;
        } else if entry.file_name().to_string_lossy().ends_with(CODES_SUFFIX) {
            found.push(path);
        }
    }
    Ok(())
}

fn collect(paths: &[PathBuf], list: impl Fn(&Path) -> Result<Vec<PathBuf>>) -> Result<Inputs> {
    let mut inputs = Inputs { found: Vec::new(), missing: Vec::new() };
    let mut seen = HashSet::new();
    for path in paths {
        let files = if path.is_dir() {
            list(path)?
        } else if path.exists() {
            vec![path.clone()]
        } else {
            inputs.missing.push(path.clone());
            continue;
        };
        for file in files {
            let identity = std::fs::canonicalize(&file).unwrap_or_else(|_| file.clone());
            if seen.insert(identity) {
                let relative = file.strip_prefix(path).ok().filter(|p| !p.as_os_str().is_empty());
                let name = || PathBuf::from(file.file_name().unwrap_or(file.as_os_str()));
                let relative = relative.map(Path::to_path_buf).unwrap_or_else(name);
                inputs.found.push(Input { path: file, relative });
            }
        }
    }
    if inputs.found.is_empty() && !inputs.missing.is_empty() {
        return Err(NotFound(inputs.missing).into());
    }
    Ok(inputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_files_and_doubles() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let file = |name: &str| -> Result<PathBuf> {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap_or(dir.path()))?;
            std::fs::write(&path, b"x")?;
            Ok(path)
        };
        file("in/b.codes.safetensors")?;
        file("in/sub/a.codes.safetensors")?;
        file("in/readme.txt")?;
        let named = file("other.safetensors")?;
        let folder = dir.path().join("in");
        let nowhere = dir.path().join("nowhere");

        let inputs = codes_files(&[folder.clone(), named.clone(), named, nowhere.clone()])?;
        let relative: Vec<_> = inputs.found.iter().map(|i| i.relative.clone()).collect();
        let expected = ["b.codes.safetensors", "sub/a.codes.safetensors", "other.safetensors"];
        assert_eq!(relative, expected.map(PathBuf::from));
        assert_eq!(inputs.missing, std::slice::from_ref(&nowhere));

        let Err(error) = codes_files(&[nowhere]) else { anyhow::bail!("found nothing") };
        assert!(error.is::<NotFound>());
        std::fs::remove_dir_all(folder.join("sub"))?;
        std::fs::remove_file(folder.join("b.codes.safetensors"))?;
        assert!(codes_files(&[folder])?.found.is_empty());
        Ok(())
    }
}
