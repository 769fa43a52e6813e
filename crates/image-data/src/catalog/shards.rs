//! WebDataset shards: tar archives whose members `key.jpg`, `key.txt`, `key.cls` ...
//! make one example.
//!
//! Only headers are read here, and small texts; pictures stay where they are. So the
//! examples of many shards are one list, shuffled as a whole, and each is read by itself.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::captions::Caption;
use super::tar_index::{Member, index};
use super::{Catalog, CatalogConfig, Entry, classes, unit_hash};
use crate::{Error, Limits, Location, Result, has_image_extension};

/// Most bytes of a text member; a longer one is no caption.
const MAX_TEXT: u64 = 64 << 10;
const HELD_OUT: [&str; 4] = ["val", "valid", "validation", "test"];

/// The shards in `dir` and in the folders of its splits, sorted by path.
pub(super) fn in_folder(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut shards = Vec::new();
    let places = std::iter::once("").chain(["train"]).chain(HELD_OUT);
    for place in places.map(|name| dir.join(name)).filter(|place| place.is_dir()) {
        let io = |source| Error::Io { path: place.clone(), action: "list the folder", source };
        for entry in std::fs::read_dir(&place).map_err(io)? {
            let path = entry.map_err(io)?.path();
            let is_tar = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("tar"));
            let hidden = path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
            if is_tar && !hidden && path.is_file() {
                shards.push(path);
            }
        }
    }
    shards.sort_unstable();
    Ok(shards)
}

/// One example of a shard, its members found by their extensions.
#[derive(Default)]
struct Sample {
    key: String,
    picture: Option<Member>,
    labels: Option<Member>,
    depth: Option<Member>,
    caption: Option<String>,
    class: Option<String>,
}

impl Catalog {
    pub(super) fn read_shards(&mut self, shards: &[PathBuf], config: &CatalogConfig) -> Result<()> {
        let held_out: Vec<bool> =
            shards.iter().map(|shard| is_held_out(&self.path, shard)).collect();
        let by_shard = held_out.contains(&true) && held_out.contains(&false);
        let mut classes = Vec::new();
        for (path, held_out) in shards.iter().zip(held_out) {
            let samples = self.samples(path, config)?;
            let shard: Arc<Path> = Arc::from(path.as_path());
            let relative = path.strip_prefix(&self.path).ok().filter(|p| p.file_name().is_some());
            let relative = relative.or(path.file_name().map(Path::new)).unwrap_or(path);
            let prefix = super::name_of(relative);
            for sample in samples {
                let Some(picture) = sample.picture else { continue };
                let name = format!("{prefix}/{}", picture.name);
                let held_out =
                    if by_shard { held_out } else { unit_hash(&name) < config.val_fraction };
                let place = |member: Member| Location::Member {
                    shard: shard.clone(),
                    name: member.name,
                    offset: member.offset,
                    len: member.len,
                };
                classes.push((sample.class, PathBuf::from(sample.key)));
                self.entries.push(Entry {
                    name,
                    picture: place(picture),
                    class: None,
                    caption: sample.caption,
                    labels: sample.labels.map(place),
                    depth: sample.depth.map(place),
                    held_out,
                });
            }
        }
        if self.entries.is_empty() {
            let found = match self.warnings.first() {
                Some(warning) => format!("no pictures in its shards; {warning}"),
                None => "no pictures in its shards".to_string(),
            };
            return Err(Error::Unrecognized { path: self.path.clone(), found });
        }
        self.number_classes(&classes);
        self.describe_shards(shards.len(), by_shard, config);
        Ok(())
    }

    /// The examples of one shard, in its order. A damaged shard gives those before the
    /// damage.
    fn samples(&mut self, path: &Path, config: &CatalogConfig) -> Result<Vec<Sample>> {
        let (members, damage) = index(path)?;
        self.warnings.extend(damage);
        let mut samples: Vec<Sample> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        let limits = Limits { max_file_bytes: MAX_TEXT, ..Limits::default() };
        for member in members {
            let Some((key, extension)) = split_key(&member.name) else { continue };
            let place = *places.entry(key.to_string()).or_insert(samples.len());
            if place == samples.len() {
                samples.push(Sample { key: key.to_string(), ..Sample::default() });
            }
            let sample = &mut samples[place];
            let text = || {
                let (shard, name) = (Arc::from(path), member.name.clone());
                let (offset, len) = (member.offset, member.len);
                let bytes = Location::Member { shard, name, offset, len }.read(&limits).ok()?;
                String::from_utf8(bytes).ok().map(|text| text.trim().to_string())
            };
            match extension.as_str() {
                "seg.png" | "labels.png" | "label.png" | "mask.png" => sample.labels = Some(member),
                "depth.png" => sample.depth = Some(member),
                "txt" | "caption" => sample.caption = text().or(sample.caption.take()),
                "cls" => sample.class = text().or(sample.class.take()),
                "json" => {
                    let object = text().and_then(|text| serde_json::from_str(&text).ok());
                    let object: Map<String, Value> = object.unwrap_or_default();
                    let said = Caption::of(&object, &config.caption_field);
                    sample.caption = sample.caption.take().or(said.caption);
                    sample.class = sample.class.take().or(said.class);
                }
                _ if has_image_extension(Path::new(&member.name)) => {
                    sample.picture.get_or_insert(member);
                }
                _ => {}
            }
        }
        Ok(samples)
    }

    fn number_classes(&mut self, classes: &[(Option<String>, PathBuf)]) {
        let given: Option<Vec<String>> = classes.iter().map(|(class, _)| class.clone()).collect();
        let by_folder = || classes::by_folder(classes.iter().map(|(_, key)| key.as_path()));
        let Some(names) = given.or_else(by_folder) else { return };
        let order = classes::order(&self.path);
        let numbers = self.set_classes(&names, &order);
        for (entry, number) in self.entries.iter_mut().zip(numbers) {
            entry.class = Some(number);
        }
    }

    fn describe_shards(&mut self, shards: usize, by_shard: bool, config: &CatalogConfig) {
        let plural = if shards == 1 { "" } else { "s" };
        self.findings.push(format!("{shards} tar shard{plural}"));
        if !self.classes.is_empty() {
            self.findings.push(format!("{} classes", self.classes.len()));
        }
        let captions = self.captions();
        if captions > 0 {
            self.findings.push(format!("captions for {captions} of {}", self.entries.len()));
        }
        let all_have = |has: fn(&Entry) -> bool| self.entries.iter().any(has);
        if all_have(|entry| entry.labels.is_some()) {
            self.findings.push("label maps".to_string());
        }
        if all_have(|entry| entry.depth.is_some()) {
            self.findings.push("depth maps".to_string());
        }
        self.findings.push(match by_shard {
            true => "split by the names of the shards".to_string(),
            false => {
                format!("{:.0} % held out by a hash of the names", 100.0 * config.val_fraction)
            }
        });
    }
}

/// Whether the name of a shard, or of its folder in the dataset, says so.
fn is_held_out(dir: &Path, shard: &Path) -> bool {
    let name = shard.strip_prefix(dir).ok().unwrap_or(shard).to_string_lossy().to_lowercase();
    name.split(|c: char| !c.is_ascii_alphabetic()).any(|word| HELD_OUT.contains(&word))
}

/// The key and the extension of a member, in lower case: the name is cut at the first dot
/// of its last part (WebDataset's rule). What is a picture keeps the dots of its key.
fn split_key(name: &str) -> Option<(&str, String)> {
    let start = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = start + name[start..].find('.')?;
    if dot == start {
        return None;
    }
    Some((&name[..dot], name[dot + 1..].to_ascii_lowercase()))
}

#[cfg(test)]
mod tests;
