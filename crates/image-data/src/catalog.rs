//! What a dataset holds, found out from its files: no picture is decoded here.

mod captions;
mod classes;
mod files;
mod lists;
mod maps;
mod shards;
mod sidecar;
mod tar_index;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, Location, Result};

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

/// How a dataset is looked at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CatalogConfig {
    /// Whether subfolders are looked into, where no list says what belongs.
    pub recursive: bool,
    /// The share of pictures held out for validation where nothing else splits them.
    pub val_fraction: f64,
    /// The field of `captions.jsonl` (or of a shard's `.json`) with the caption; empty:
    /// `caption`, or else `text`.
    pub caption_field: String,
    /// The folder of the label maps; empty: `labels/` or `masks/` in the dataset.
    pub labels: PathBuf,
    /// The folder of the depth maps; empty: `depth/` in the dataset.
    pub depth: PathBuf,
}

impl Default for CatalogConfig {
    fn default() -> Self {
        Self {
            recursive: true,
            val_fraction: 0.05,
            caption_field: String::new(),
            labels: PathBuf::new(),
            depth: PathBuf::new(),
        }
    }
}

/// One example, unread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its path within the dataset, with slashes on every system.
    pub name: String,
    /// The picture.
    pub picture: Location,
    /// Its class, a number among [`Catalog::classes`].
    pub class: Option<u32>,
    /// What it shows, in words.
    pub caption: Option<String>,
    /// Its label map.
    pub labels: Option<Location>,
    /// Its depth map.
    pub depth: Option<Location>,
    /// Whether it belongs to [`Split::Val`].
    pub held_out: bool,
}

/// One kind of label in label maps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelClass {
    /// The value in the maps.
    pub id: u32,
    /// What it stands for.
    pub name: String,
    /// How it is drawn, `#RRGGBB`.
    #[serde(default)]
    pub color: String,
}

/// A dataset by its table of contents.
#[derive(Clone, Debug)]
pub struct Catalog {
    path: PathBuf,
    entries: Vec<Entry>,
    classes: Vec<String>,
    label_classes: Vec<LabelClass>,
    findings: Vec<String>,
    warnings: Vec<String>,
}

impl Catalog {
    /// Finds out what `path` is and lists what it holds.
    ///
    /// A folder of pictures; with folders in it, they are classes. `train.txt` and
    /// `val.txt`, or folders `train/` and `val/`, split it; without them a hash of each
    /// name decides which `val_fraction` is held out: adding pictures moves none of the
    /// others. `captions.jsonl`, `labels/` and `depth/` add what their names say.
    /// A folder of `.tar` files, or one such file: WebDataset shards. A `.txt` file: a list
    /// of pictures, as the reference's custom datasets have it.
    ///
    /// The order of entries, and every number of a class, depends on names alone, not on
    /// the order in which a file system lists them.
    ///
    /// # Errors
    /// [`Error::Unrecognized`] for anything else; a list, a caption file or a shard that
    /// cannot be read, naming file and line.
    pub fn open(path: &Path, config: &CatalogConfig) -> Result<Self> {
        let mut catalog = Self {
            path: path.to_path_buf(),
            entries: Vec::new(),
            classes: Vec::new(),
            label_classes: Vec::new(),
            findings: Vec::new(),
            warnings: Vec::new(),
        };
        let metadata = std::fs::metadata(path).map_err(|source| {
            let action = "open the dataset";
            Error::Io { path: path.to_path_buf(), action, source }
        })?;
        let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
        let shards = match metadata.is_dir() {
            true => shards::in_folder(path)?,
            false if extension == "tar" => vec![path.to_path_buf()],
            false => Vec::new(),
        };
        if !shards.is_empty() {
            catalog.read_shards(&shards, config)?;
        } else if metadata.is_dir() {
            catalog.read_folder(path, config)?;
        } else if extension == "txt" {
            catalog.read_list_file(path, config)?;
        } else {
            let found = "a file, but neither a .tar shard nor a .txt list".to_string();
            return Err(Error::Unrecognized { path: path.to_path_buf(), found });
        }
        if catalog.entries.is_empty() {
            let split = "found".to_string();
            return Err(Error::NoPictures { path: path.to_path_buf(), split });
        }
        Ok(catalog)
    }

    /// Exactly these files, nothing known about them.
    pub fn of_files(files: &[PathBuf]) -> Self {
        let entry = |file: &PathBuf| Entry {
            name: name_of(file),
            picture: Location::File(file.clone()),
            class: None,
            caption: None,
            labels: None,
            depth: None,
            held_out: false,
        };
        Self {
            path: PathBuf::new(),
            entries: files.iter().map(entry).collect(),
            classes: Vec::new(),
            label_classes: Vec::new(),
            findings: vec!["a list of files".to_string()],
            warnings: Vec::new(),
        }
    }

    /// Where it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Everything, in the order of the dataset.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entries of `split`, in the order of the dataset.
    pub fn of_split(&self, split: Split) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| match split {
            Split::All => true,
            Split::Train => !entry.held_out,
            Split::Val => entry.held_out,
        })
    }

    /// The names of the classes, in the order of their numbers; none if the dataset has
    /// no classes. The same for every split.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// What the values in label maps stand for, from `classes.json`; it may be missing.
    pub fn label_classes(&self) -> &[LabelClass] {
        &self.label_classes
    }

    /// How many entries have a caption.
    pub fn captions(&self) -> usize {
        self.entries.iter().filter(|entry| entry.caption.is_some()).count()
    }

    /// What was found, for people: one line.
    pub fn description(&self) -> String {
        let held_out = self.entries.iter().filter(|entry| entry.held_out).count();
        let train = self.entries.len() - held_out;
        format!("{}; {train} pictures to learn from, {held_out} held out", self.findings.join(", "))
    }

    /// What is not as it should be, without hindering the rest.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

/// A path as the name of an example: with slashes on every system.
pub(crate) fn name_of(path: &Path) -> String {
    path.to_string_lossy().replace(std::path::MAIN_SEPARATOR, "/")
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
mod tests;
