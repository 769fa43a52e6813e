//! What is known of pictures by name: classes and captions.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use image_data::Catalog;
use serde_json::Value;

const FILE: &str = "captions.jsonl";
/// Fields of a line that say what a picture shows, as one text or a list of them.
const FIELDS: [&str; 4] = ["caption", "captions", "text", "name"];

/// Classes and captions of a dataset.
#[derive(Debug, Default)]
pub struct Labels {
    /// By the picture's path within the dataset.
    known: HashMap<String, Label>,
    /// The class of all pictures.
    all: Option<String>,
}

#[derive(Debug, Default)]
struct Label {
    class: Option<String>,
    captions: Vec<String>,
}

impl Labels {
    /// Reads `captions.jsonl` in `folder` (or beside the file `folder`), if it is
    /// there: a JSON object a line, with `file` and what it shows.
    ///
    /// # Errors
    /// If it cannot be read; naming the line.
    pub fn read(folder: &Path) -> Result<Self> {
        let folder = if folder.is_dir() { folder } else { folder.parent().unwrap_or(folder) };
        let path = folder.join(FILE);
        if !path.is_file() {
            return Ok(Self::default());
        }
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let mut labels = Self::default();
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let place = || format!("{}, line {}", path.display(), i + 1);
            let value: Value = serde_json::from_str(line).with_context(place)?;
            let file = value["file"].as_str().context("has no `file`").with_context(place)?;
            let mut label =
                Label { class: value["class"].as_str().map(str::to_owned), captions: Vec::new() };
            for field in FIELDS {
                match &value[field] {
                    Value::String(text) => label.captions.push(text.clone()),
                    Value::Array(texts) => label
                        .captions
                        .extend(texts.iter().filter_map(|text| Some(text.as_str()?.to_owned()))),
                    _ => {}
                }
            }
            label.captions.retain(|caption| !caption.trim().is_empty());
            labels.known.insert(file.to_owned(), label);
        }
        Ok(labels)
    }

    /// What `catalog` knows of its pictures, and the other captions of `more`.
    pub fn of(catalog: &Catalog, mut more: Self) -> Self {
        for entry in catalog.entries() {
            let label = more.known.entry(entry.name.clone()).or_default();
            let class = entry.class.and_then(|class| catalog.classes().get(class as usize));
            label.class = class.cloned().or(label.class.take());
            label.captions.extend(entry.caption.clone());
        }
        more
    }

    /// The same class for every picture.
    pub fn all(class: &str) -> Self {
        Self { known: HashMap::new(), all: Some(class.to_owned()) }
    }

    /// The class of the picture `name`: what `captions.jsonl` says, or its folder.
    ///
    /// # Errors
    /// If it has none.
    pub fn class<'a>(&'a self, name: &'a str) -> Result<&'a str> {
        let said = self.known.get(name).and_then(|label| label.class.as_deref());
        let folder = name.rsplit_once('/').map(|(folder, _)| folder);
        self.all.as_deref().or(said).or(folder).with_context(|| {
            format!("{name} has no class: it is in no folder, and {FILE} does not name one")
        })
    }

    /// Captions of `count` pictures, spread over all of them in the order of their names.
    pub fn some_captions(&self, count: usize) -> Vec<String> {
        let mut known: Vec<_> = self
            .known
            .iter()
            .filter_map(|(name, label)| Some((name, label.captions.first()?)))
            .collect();
        known.sort();
        let picked = (0..count.min(known.len())).map(|i| known[i * known.len() / count]);
        picked.map(|(_, caption)| caption.clone()).collect()
    }

    /// The captions of the picture `name`.
    pub fn captions<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        self.known.get(name).into_iter().flat_map(|label| &label.captions).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_and_captions_come_from_lines_and_folders() -> Result<()> {
        let dir = tempfile::tempdir()?;
        std::fs::write(
            dir.path().join(FILE),
            "{\"file\": \"a/1.png\", \"class\": \"cat\", \"caption\": \"a cat\", \"name\": \"Tom\"}\n\n\
             {\"file\": \"b/2.png\", \"captions\": [\"two\", \" \"]}\n",
        )?;
        let labels = Labels::read(dir.path())?;
        assert_eq!(labels.class("a/1.png")?, "cat");
        assert_eq!(labels.class("b/2.png")?, "b");
        assert!(labels.class("3.png").is_err());
        assert_eq!(labels.captions("a/1.png").collect::<Vec<_>>(), ["a cat", "Tom"]);
        assert_eq!(labels.captions("b/2.png").collect::<Vec<_>>(), ["two"]);

        std::fs::write(dir.path().join(FILE), "{\"file\": \"a\"}\n{\"fil\": 1}\n")?;
        let error = Labels::read(dir.path()).err().map(|e| format!("{e:#}")).unwrap_or_default();
        assert!(error.contains("line 2") && error.contains("`file`"), "{error}");
        Ok(())
    }
}
