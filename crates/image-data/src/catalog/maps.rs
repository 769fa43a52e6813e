//! Label and depth maps beside the pictures.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::captions::Captions;
use super::{Catalog, CatalogConfig, LabelClass};
use crate::Location;
use crate::error::{Error, Result};

const LABEL_FOLDERS: [&str; 2] = ["labels", "masks"];
const DEPTH_FOLDER: &str = "depth";
const PICTURE_FOLDER: &str = "images";
const CLASSES_FILE: &str = "classes.json";
/// The largest `classes.json`.
const MAX_CLASSES_BYTES: u64 = 4 << 20;

/// Which folders of a dataset hold maps.
pub(super) struct MapFolders {
    labels: Option<PathBuf>,
    depth: Option<PathBuf>,
    /// Where the pictures are, relative to the dataset.
    home: String,
}

impl MapFolders {
    /// The folders that `config` names, or that lie in `dir` beside `images/`. If label
    /// maps are all there is, they are the pictures, too: shown in their palette's colours.
    pub(super) fn find(dir: &Path, config: &CatalogConfig) -> Self {
        let given = |path: &PathBuf| (!path.as_os_str().is_empty()).then(|| path.clone());
        let own = |name: &str| Some(dir.join(name)).filter(|path| path.is_dir());
        let own_labels = LABEL_FOLDERS.iter().find(|name| dir.join(name).is_dir());
        let pictures = own(PICTURE_FOLDER).is_some();
        let home = match own_labels {
            Some(labels) if !pictures => (*labels).to_string(),
            _ => PICTURE_FOLDER.to_string(),
        };
        let own_labels = own_labels.and_then(|name| own(name));
        let own_depth = own(DEPTH_FOLDER).filter(|_| pictures);
        Self {
            labels: given(&config.labels).or(own_labels),
            depth: given(&config.depth).or(own_depth),
            home,
        }
    }

    /// Where pictures are that a list names by their stem.
    pub(super) fn home(&self) -> &str {
        &self.home
    }

    /// Whether there are any maps in the dataset itself, so that pictures are in
    /// [`home`](Self::home) only.
    pub(super) fn any(&self, dir: &Path) -> bool {
        [&self.labels, &self.depth].into_iter().flatten().any(|folder| folder.starts_with(dir))
    }
}

impl Catalog {
    /// Gives every entry the maps of its name.
    ///
    /// # Errors
    /// When `classes.json` is there and says nothing about labels.
    pub(super) fn attach_maps(
        &mut self,
        dir: &Path,
        maps: &MapFolders,
        captions: &Captions,
    ) -> Result<()> {
        let in_home = |name: &str| {
            let within = Path::new(name).strip_prefix(&maps.home).ok();
            within.unwrap_or(Path::new(name)).with_extension("png")
        };
        let (mut labels, mut depths, mut missing) = (0, 0, 0);
        for entry in &mut self.entries {
            let said = captions.get(&entry.name);
            let place = |said: Option<&String>, folder: &Option<PathBuf>| {
                let said = said.map(|name| dir.join(name));
                said.or_else(|| Some(folder.as_ref()?.join(in_home(&entry.name))))
            };
            let label = place(said.and_then(|said| said.labels.as_ref()), &maps.labels);
            let depth = place(said.and_then(|said| said.depth.as_ref()), &maps.depth);
            labels += usize::from(label.is_some());
            depths += usize::from(depth.is_some());
            missing +=
                [&label, &depth].into_iter().flatten().filter(|path| !path.is_file()).count();
            entry.labels = label.map(Location::File);
            entry.depth = depth.map(Location::File);
        }
        if labels > 0 {
            self.label_classes = label_classes(dir, maps.labels.as_deref())?;
            let names = match self.label_classes.len() {
                0 => String::new(),
                n => format!(" ({n} labels by classes.json)"),
            };
            self.findings.push(format!("label maps{names}"));
        }
        if depths > 0 {
            self.findings.push("depth maps".to_string());
        }
        if missing > 0 {
            self.warnings.push(format!(
                "{missing} label or depth maps are missing; their pictures are left out"
            ));
        }
        Ok(())
    }
}

/// `classes.json` of the dataset, or else beside the folder of its label maps: a list of
/// `{"id", "name", "color"}`. Without the file labels have no names.
///
/// # Errors
/// When the file is there and is not such a list: labels without their names would look
/// as if none were known.
fn label_classes(dir: &Path, labels: Option<&Path>) -> Result<Vec<LabelClass>> {
    let beside = labels.and_then(Path::parent);
    let files = [Some(dir), beside].into_iter().flatten().map(|dir| dir.join(CLASSES_FILE));
    let Some(path) = files.into_iter().find(|path| path.symlink_metadata().is_ok()) else {
        return Ok(Vec::new());
    };
    let broken = |reason: String| Error::Map {
        path: path.clone(),
        reason: format!(
            "not a list of labels: {reason}. It should be [{{\"id\": 0, \"name\": \"sky\", \
             \"color\": \"#8080FF\"}}, ...], or not be there"
        ),
    };
    let about = std::fs::metadata(&path).map_err(|e| broken(e.to_string()))?;
    if !about.is_file() || about.len() > MAX_CLASSES_BYTES {
        return Err(broken(format!("a file of at most {MAX_CLASSES_BYTES} bytes was expected")));
    }
    let text = std::fs::read_to_string(&path).map_err(|e| broken(e.to_string()))?;
    let classes: Vec<LabelClass> =
        serde_json::from_str(&text).map_err(|e| broken(e.to_string()))?;
    let mut seen = BTreeSet::new();
    match classes.iter().find(|class| !seen.insert(class.id)) {
        Some(class) => Err(broken(format!("id {} comes twice", class.id))),
        None => Ok(classes),
    }
}
