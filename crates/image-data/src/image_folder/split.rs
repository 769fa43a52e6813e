//! Which files of a folder belong to a split.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, Result, has_image_extension, list_images};

/// A part of a dataset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Everything.
    All,
    /// What models learn from.
    #[default]
    Train,
    /// What they are judged on.
    Val,
}

/// Extensions tried for a stem, in this order.
const STEM_EXTENSIONS: [&str; 4] = ["jpg", "png", "webp", "jpeg"];

/// A path as the name of an example: with slashes on every system.
pub(super) fn name(path: &Path) -> String {
    path.to_string_lossy().replace(std::path::MAIN_SEPARATOR, "/")
}

/// The files of `split` in `dir`, relative to it.
pub(super) fn files(
    dir: &Path,
    split: Split,
    recursive: bool,
    val_fraction: f64,
) -> Result<Vec<PathBuf>> {
    let lists = [dir.join("train.txt"), dir.join("val.txt")];
    if lists.iter().any(|list| list.is_file()) {
        let wanted = match split {
            Split::All => &lists[..],
            Split::Train => &lists[..1],
            Split::Val => &lists[1..],
        };
        let mut files = Vec::new();
        for list in wanted {
            files.extend(read_list(dir, list)?);
        }
        return Ok(files);
    }
    if !dir.is_dir() {
        let source = std::io::Error::from(std::io::ErrorKind::NotFound);
        return Err(Error::Io { path: dir.to_path_buf(), action: "list the folder", source });
    }
    let mut files = list_images(&[dir.to_path_buf()], recursive)?;
    for file in &mut files {
        if let Ok(relative) = file.strip_prefix(dir) {
            *file = relative.to_path_buf();
        }
    }
    let held_out = |file: &PathBuf| unit_hash(&name(file)) < val_fraction;
    match split {
        Split::All => {}
        Split::Train => files.retain(|file| !held_out(file)),
        Split::Val => files.retain(held_out),
    }
    Ok(files)
}

fn read_list(dir: &Path, list: &Path) -> Result<Vec<PathBuf>> {
    let text = std::fs::read_to_string(list).map_err(|source| {
        let path = list.to_path_buf();
        Error::Io { path, action: "read the list", source }
    })?;
    let (mut files, mut any_stem, mut first_missing) = (Vec::new(), false, None);
    for (i, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let error = |reason: String| Error::List { path: list.to_path_buf(), line: i + 1, reason };
        let path = Path::new(line);
        if !path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err(error(format!("{line:?} leads out of the folder")));
        }
        if line.contains('/') {
            files.push(path.to_path_buf());
            continue;
        }
        let file = find_stem(dir, line);
        any_stem |= file.is_some();
        if file.is_none() && first_missing.is_none() {
            let reason = format!("no picture images/{line}.jpg, .png or .webp in the folder");
            first_missing = Some(error(reason));
        }
        // Reading it will name the file that is missing, and not hold up the others.
        files.push(file.unwrap_or_else(|| Path::new("images").join(format!("{line}.jpg"))));
    }
    match first_missing {
        // Not one of them: the folder is of another kind.
        Some(error) if !any_stem => Err(error),
        _ => Ok(files),
    }
}

/// The file that a line without a slash means.
fn find_stem(dir: &Path, stem: &str) -> Option<PathBuf> {
    let images = Path::new("images");
    let exists = |path: &PathBuf| dir.join(path).is_file();
    let with_extension = STEM_EXTENSIONS.iter().map(|e| images.join(format!("{stem}.{e}")));
    // Lists of flat folders give whole file names.
    let whole = [images.join(stem), PathBuf::from(stem)];
    with_extension.chain(whole.into_iter().filter(|path| has_image_extension(path))).find(exists)
}

/// A number in [0, 1) that depends on `name` alone, on any machine: FNV-1a, then the
/// finisher of splitmix64, since FNV leaves the high bits of similar names alike.
fn unit_hash(name: &str) -> f64 {
    let fnv = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mixed = (fnv ^ (fnv >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::unit_hash;

    #[test]
    fn the_hash_is_spread_evenly_and_pinned() {
        let n = 20_000;
        let below = (0..n).filter(|i| unit_hash(&format!("images/{i:05}.png")) < 0.05).count();
        assert!((900..1100).contains(&below), "{below}");
        // A change here moves pictures between training and validation.
        assert_eq!((unit_hash("images/a.png") * 1e9).floor(), PINNED);
    }
    const PINNED: f64 = 120_476_759.0;
}
