//! `captions.jsonl`: one JSON object a picture.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde_json::{Map, Value};

use crate::{Error, Result};

/// Names of the file; the second is what `datasets` of Hugging Face calls it.
const FILES: [&str; 2] = ["captions.jsonl", "metadata.jsonl"];

/// What a line says about a picture.
#[derive(Clone, Debug, Default)]
pub(super) struct Caption {
    pub caption: Option<String>,
    pub class: Option<String>,
    /// Maps, relative to the dataset.
    pub labels: Option<String>,
    pub depth: Option<String>,
    pub held_out: Option<bool>,
}

/// The lines by the name of their picture.
#[derive(Debug, Default)]
pub(super) struct Captions {
    lines: HashMap<String, Caption>,
    source: Option<&'static str>,
}

impl Captions {
    /// Reads the caption files of `dir` and of its `folders`, whose lines are about
    /// pictures in these.
    ///
    /// # Errors
    /// A line that is not an object, or names no file.
    pub(super) fn read(dir: &Path, folders: &[String], field: &str) -> Result<Self> {
        let mut captions = Self::default();
        let places = std::iter::once("").chain(folders.iter().map(String::as_str));
        for folder in places {
            let candidates = FILES.iter().map(|name| (*name, dir.join(folder).join(name)));
            let Some((name, path)) = { candidates }.find(|(_, path)| path.is_file()) else {
                continue;
            };
            captions.source.get_or_insert(name);
            let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
            captions.read_file(&path, &prefix, field)?;
        }
        Ok(captions)
    }

    fn read_file(&mut self, path: &Path, prefix: &str, field: &str) -> Result<()> {
        let io = |source| Error::Io { path: path.to_path_buf(), action: "read", source };
        let file = BufReader::new(File::open(path).map_err(io)?);
        for (i, line) in file.lines().enumerate() {
            let line = line.map_err(io)?;
            let line = line.trim_start_matches('\u{feff}').trim();
            if line.is_empty() {
                continue;
            }
            let error =
                |reason: String| Error::List { path: path.to_path_buf(), line: i + 1, reason };
            let object: Map<String, Value> = serde_json::from_str(line)
                .map_err(|cause| error(format!("not a JSON object: {cause}")))?;
            let Some(file) = text(&object, &["file", "file_name", "image"]) else {
                let reason = r#"no file is named: a line is {"file": "...", "caption": "..."}"#;
                return Err(error(reason.to_string()));
            };
            let prefixed = |name: String| format!("{prefix}{}", name.trim_start_matches("./"));
            let mut caption = Caption::of(&object, field);
            caption.labels = caption.labels.map(prefixed);
            caption.depth = caption.depth.map(prefixed);
            self.lines.insert(prefixed(file), caption);
        }
        Ok(())
    }

    /// What is said about the picture `name`.
    pub(super) fn get(&self, name: &str) -> Option<&Caption> {
        self.lines.get(name)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The name of the file, where there is one.
    pub(super) fn source(&self) -> Option<&'static str> {
        self.source
    }
}

impl Caption {
    /// What `object` says, with the caption in `field` (empty: the usual ones).
    pub(super) fn of(object: &Map<String, Value>, field: &str) -> Self {
        let fields: &[&str] = if field.is_empty() { &["caption", "text"] } else { &[field] };
        let held_out = text(object, &["split"]).map(|split| split != "train");
        Self {
            caption: text(object, fields),
            class: text(object, &["class", "cls"]),
            labels: text(object, &["labels", "label_map", "mask"])
                .or_else(|| text(object, &["label"]).filter(|label| label.ends_with(".png"))),
            depth: text(object, &["depth"]),
            held_out,
        }
    }
}

/// The first of `fields` that has a text or a number.
fn text(object: &Map<String, Value>, fields: &[&str]) -> Option<String> {
    fields.iter().find_map(|field| match object.get(*field)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    })
}
