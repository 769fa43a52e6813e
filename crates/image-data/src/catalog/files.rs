//! Datasets that are files in a folder, or files that a list names.

use std::path::{Path, PathBuf};

use super::captions::Captions;
use super::lists::{self, Listed};
use super::maps::MapFolders;
use super::{Catalog, CatalogConfig, Entry, classes, name_of, sidecar, unit_hash};
use crate::{Error, Location, Result, list_images};

/// Folders that hold out what `train/` does not, the first one that exists.
const HELD_OUT_FOLDERS: [&str; 4] = ["val", "valid", "validation", "test"];

/// A picture before it is known what belongs to it.
struct Found {
    /// Relative to the dataset.
    path: PathBuf,
    /// Where its class may show: `path` below the folder of its split.
    within: PathBuf,
    class: Option<String>,
    held_out: Option<bool>,
}

impl Found {
    fn listed(listed: Listed, held_out: Option<bool>) -> Self {
        let Listed { path, class } = listed;
        Self { within: path.clone(), path, class, held_out }
    }
}

impl Catalog {
    pub(super) fn read_folder(&mut self, dir: &Path, config: &CatalogConfig) -> Result<()> {
        let maps = MapFolders::find(dir, config);
        let (found, folders) = self.find_pictures(dir, &maps, config)?;
        let captions = Captions::read(dir, &folders, &config.caption_field)?;
        if found.is_empty() {
            return Err(nothing_in(dir));
        }
        self.assemble(dir, found, &captions, config);
        self.attach_maps(dir, &maps, &captions)?;
        self.describe_captions(&captions);
        Ok(())
    }

    pub(super) fn read_list_file(&mut self, list: &Path, config: &CatalogConfig) -> Result<()> {
        let other = lists::held_out_list(list);
        let train = lists::read_free(list)?.into_iter();
        let mut found: Vec<Found> =
            train.map(|line| Found::listed(line, other.as_ref().map(|_| false))).collect();
        if let Some(other) = &other {
            let held_out = lists::read_free(other)?.into_iter();
            found.extend(held_out.map(|line| Found::listed(line, Some(true))));
        }
        let name = |path: &Path| name_of(Path::new(path.file_name().unwrap_or_default()));
        self.findings.push(match &other {
            Some(other) => format!("the lists {} and {}", name(list), name(other)),
            None => format!("the list {}", name(list)),
        });
        let home = list.parent().unwrap_or(Path::new(""));
        self.assemble(home, found, &Captions::default(), config);
        Ok(())
    }

    /// The pictures of a folder, and the folders of its splits, if it has such.
    fn find_pictures(
        &mut self,
        dir: &Path,
        maps: &MapFolders,
        config: &CatalogConfig,
    ) -> Result<(Vec<Found>, Vec<String>)> {
        let (train, val) = (dir.join("train.txt"), dir.join("val.txt"));
        match (train.is_file(), val.is_file()) {
            (false, true) => {
                let reason = "val.txt is there, but no train.txt beside it".to_string();
                return Err(Error::List { path: train, line: 1, reason });
            }
            (true, has_val) => {
                let mut found = Vec::new();
                for (list, held_out) in [(train, false), (val, true)] {
                    if held_out && !has_val {
                        let warning = "train.txt has no val.txt beside it: nothing is held out";
                        self.warnings.push(warning.to_string());
                        continue;
                    }
                    let listed = lists::read_own(dir, &list, maps.home())?.into_iter();
                    found.extend(listed.map(|line| Found::listed(line, Some(held_out))));
                }
                let split = if has_val { "train.txt and val.txt" } else { "train.txt" };
                self.findings.push(format!("listed by {split}"));
                return Ok((found, Vec::new()));
            }
            (false, false) => {}
        }
        let held_out = HELD_OUT_FOLDERS.iter().find(|name| dir.join(name).is_dir());
        if let (true, Some(held_out)) = (dir.join("train").is_dir(), held_out) {
            let mut found = Vec::new();
            for (folder, held_out) in [("train", false), (*held_out, true)] {
                for within in pictures_in(&dir.join(folder), config.recursive)? {
                    let path = Path::new(folder).join(&within);
                    found.push(Found { path, within, class: None, held_out: Some(held_out) });
                }
            }
            self.findings.push(format!("split by the folders train/ and {held_out}/"));
            return Ok((found, vec!["train".to_string(), held_out.to_string()]));
        }
        let home = if maps.any(dir) { maps.home() } else { "" };
        let paths = pictures_in(&dir.join(home), config.recursive)?.into_iter();
        let paths = paths.map(|path| Path::new(home).join(path));
        let found = paths.map(|path| Listed { path, class: None });
        Ok((found.map(|listed| Found::listed(listed, None)).collect(), Vec::new()))
    }

    /// Turns what was found below `dir` into entries with classes and captions.
    fn assemble(
        &mut self,
        dir: &Path,
        found: Vec<Found>,
        captions: &Captions,
        config: &CatalogConfig,
    ) {
        let names: Vec<String> = found.iter().map(|found| name_of(&found.path)).collect();
        let given = |i: usize, found: &Found| {
            found.class.clone().or_else(|| captions.get(&names[i])?.class.clone())
        };
        let given: Option<Vec<String>> =
            found.iter().enumerate().map(|(i, found)| given(i, found)).collect();
        let by_folder = classes::by_folder(found.iter().map(|found| found.within.as_path()));
        let in_folders = by_folder.is_some() && (given.is_none() || given == by_folder);
        let numbers = given
            .filter(|given| !given.is_empty())
            .or(by_folder)
            .map(|names| self.set_classes(&names, &classes::order(dir)));
        let kind = if in_folders { "class folders" } else { "pictures" };
        let count = match self.classes.len() {
            0 => String::new(),
            n => format!(" ({n} classes)"),
        };
        self.findings.insert(0, format!("{kind}{count}"));
        let mut by_hash = false;
        for (i, found) in found.into_iter().enumerate() {
            let name = names[i].clone();
            let caption = captions.get(&name);
            let known = found.held_out.or_else(|| caption?.held_out);
            by_hash |= known.is_none();
            let held_out = known.unwrap_or_else(|| unit_hash(&name) < config.val_fraction);
            let picture = Location::File(dir.join(&found.path));
            let caption = match caption {
                Some(caption) => caption.caption.clone(),
                None if captions.is_empty() => sidecar::caption(&dir.join(&found.path)),
                None => None,
            };
            let class = numbers.as_ref().map(|numbers| numbers[i]);
            let (labels, depth) = (None, None);
            self.entries.push(Entry { name, picture, class, caption, labels, depth, held_out });
        }
        if by_hash {
            let percent = 100.0 * config.val_fraction;
            self.findings.push(format!("{percent:.0} % held out by a hash of the names"));
        }
    }

    /// Takes class names, and gives the number of each entry's.
    pub(super) fn set_classes(&mut self, names: &[String], order: &[String]) -> Vec<u32> {
        let (names, numbers) = classes::numbered(names, order);
        self.classes = names;
        numbers
    }

    fn describe_captions(&mut self, captions: &Captions) {
        let (with, all) = (self.captions(), self.entries.len());
        if with > 0 {
            let source = captions.source().unwrap_or("text files beside the pictures");
            self.findings.push(format!("captions for {with} of {all} from {source}"));
        } else if let Some(source) = captions.source() {
            self.warnings.push(format!("{source} has no caption for any of the {all} pictures"));
        }
    }
}

/// Pictures in `dir`, relative to it, sorted.
fn pictures_in(dir: &Path, recursive: bool) -> Result<Vec<PathBuf>> {
    let mut files = list_images(&[dir.to_path_buf()], recursive)?;
    for file in &mut files {
        if let Ok(relative) = file.strip_prefix(dir) {
            *file = relative.to_path_buf();
        }
    }
    Ok(files)
}

/// The error for a folder in which nothing is known.
fn nothing_in(dir: &Path) -> Error {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    let found = match names.len() {
        0 => "the folder is empty".to_string(),
        1..=4 => format!("no pictures here, only {}", names.join(", ")),
        more => format!("no pictures among its {more} entries ({}, ...)", names[..3].join(", ")),
    };
    Error::Unrecognized { path: dir.to_path_buf(), found }
}
