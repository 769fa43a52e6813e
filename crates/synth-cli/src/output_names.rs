//! A name of its own for every result.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// Hands out names in a folder, none twice.
pub struct OutputNames {
    folder: PathBuf,
    suffixes: Vec<&'static str>,
    taken: HashSet<String>,
}

impl OutputNames {
    /// Names in `folder`, for results that consist of one file per suffix.
    pub fn new(folder: &Path, suffixes: &[&'static str]) -> Self {
        Self { folder: folder.to_path_buf(), suffixes: suffixes.to_vec(), taken: HashSet::new() }
    }

    /// The files, one per suffix, for the result of the input `relative`: its
    /// path without extension. Where that is taken (`a.png` and `a.jpg`), a
    /// number is added: `a-2`.
    pub fn claim(&mut self, relative: &Path) -> Vec<PathBuf> {
        let relative = inside(relative);
        let stem = relative.with_extension("");
        let mut number = 1_usize;
        loop {
            let paths: Vec<_> =
                self.suffixes.iter().map(|suffix| self.path(&stem, number, suffix)).collect();
            // Some file systems do not tell upper case from lower.
            let keys: Vec<_> =
                paths.iter().map(|path| path.to_string_lossy().to_lowercase()).collect();
            if keys.iter().all(|key| !self.taken.contains(key)) {
                self.taken.extend(keys);
                return paths;
            }
            number += 1;
        }
    }

    fn path(&self, stem: &Path, number: usize, suffix: &str) -> PathBuf {
        let mut name = stem.file_name().map_or_else(OsString::new, OsString::from);
        if number > 1 {
            name.push(format!("-{number}"));
        }
        name.push(suffix);
        self.folder.join(stem).with_file_name(name)
    }
}

/// `relative` without anything that leads out of a folder: names in codes files
/// come from strangers.
fn inside(relative: &Path) -> PathBuf {
    let names: PathBuf = relative
        .components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name),
            _ => None,
        })
        .collect();
    if names.file_name().is_none() { PathBuf::from("picture") } else { names }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_never_meet() {
        let mut names = OutputNames::new(Path::new("out"), &[".png", "-compare.png"]);
        let mut claim = |relative: &str| {
            let paths = names.claim(Path::new(relative));
            paths.iter().map(|path| path.to_string_lossy().replace('\\', "/")).collect::<Vec<_>>()
        };
        assert_eq!(claim("x.png"), ["out/x.png", "out/x-compare.png"]);
        assert_eq!(claim("x.jpg"), ["out/x-2.png", "out/x-2-compare.png"]);
        assert_eq!(claim("X.gif"), ["out/X-3.png", "out/X-3-compare.png"]);
        assert_eq!(claim("x-2.png"), ["out/x-2-2.png", "out/x-2-2-compare.png"]);
        assert_eq!(claim("x-compare.png")[0], "out/x-compare-2.png");
        assert_eq!(claim("sub/x.png")[0], "out/sub/x.png");
        assert_eq!(claim("v1.2/a.b.png")[0], "out/v1.2/a.b.png");
    }

    #[test]
    fn names_stay_in_the_folder() {
        for (hostile, expected) in [
            ("../../etc/passwd", "out/etc/passwd.png"),
            ("/etc/passwd", "out/etc/passwd.png"),
            ("..", "out/picture.png"),
            ("", "out/picture.png"),
        ] {
            let mut names = OutputNames::new(Path::new("out"), &[".png"]);
            assert_eq!(names.claim(Path::new(hostile)), [PathBuf::from(expected)]);
        }
    }
}
