//! Which pictures a command line names.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Extensions of the formats that are read, in lower case.
const EXTENSIONS: [&str; 21] = [
    "jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "tif", "tiff", "bmp", "dib", "pbm",
    "pgm", "ppm", "pnm", "pam", "tga", "icb", "vda", "vst",
];

/// Whether the name of `path` ends like a picture's that this crate reads.
pub fn has_image_extension(path: &Path) -> bool {
    path.extension().is_some_and(|extension| {
        EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
    })
}

/// The picture files that `paths` name, in the order of `paths`.
///
/// A file stands for itself, whatever its name, also if it does not exist: reading it
/// then gives the error, and the others are not held up. A folder stands for the
/// pictures in it by extension, sorted by path, with those of its subfolders if
/// `recursive`; hidden entries are left out, links are followed, loops are not. What is
/// named twice comes once.
///
/// # Errors
/// A folder that cannot be listed.
pub fn list_images(paths: &[PathBuf], recursive: bool) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in paths {
        if path.is_dir() {
            let start = found.len();
            list_folder(path, recursive, &mut HashSet::new(), &mut found)?;
            found[start..].sort_unstable();
        } else {
            found.push(path.clone());
        }
    }
    let mut seen = HashSet::new();
    found.retain(|path| seen.insert(path.clone()));
    Ok(found)
}

fn list_folder(
    folder: &Path,
    recursive: bool,
    visited: &mut HashSet<PathBuf>,
    found: &mut Vec<PathBuf>,
) -> Result<()> {
    let io = |source| Error::Io { path: folder.to_path_buf(), action: "list the folder", source };
    if !visited.insert(folder.canonicalize().map_err(io)?) {
        return Ok(());
    }
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        if path.is_dir() {
            if recursive {
                list_folder(&path, recursive, visited, found)?;
            }
        } else if has_image_extension(&path) {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_files_and_folders() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("b/c"))?;
        for name in ["z.PNG", "a.jpg", "notes.txt", ".hidden.png", "b/x.webp", "b/c/y.tga"] {
            std::fs::write(at(name), [])?;
        }
        #[cfg(unix)]
        std::os::unix::fs::symlink(dir.path(), at("b/loop"))?;
        let root = dir.path().to_path_buf();
        assert_eq!(list_images(std::slice::from_ref(&root), false)?, [at("a.jpg"), at("z.PNG")]);
        assert_eq!(
            list_images(std::slice::from_ref(&root), true)?,
            [at("a.jpg"), at("b/c/y.tga"), at("b/x.webp"), at("z.PNG")]
        );
        let given = [at("notes.txt"), at("missing.png"), root, at("a.jpg")];
        assert_eq!(
            list_images(&given, false)?,
            [at("notes.txt"), at("missing.png"), at("a.jpg"), at("z.PNG")]
        );
        Ok(())
    }
}
