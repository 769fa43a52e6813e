//! The examples of a catalog.

use std::sync::Arc;

use rand_chacha::ChaCha8Rng;

use crate::decode::{decode_depth, decode_labels};
use crate::view::{Cache, Geometry, Loaded};
use crate::{
    Catalog, Dataset, Entry, Error, Example, Result, Split, ViewConfig, decode_rgb,
    normalize_depth, resize, shift_labels,
};

/// How far the shapes of a picture and its map may differ, as a share; rounding a small
/// map's sides is in it.
const SHAPE_TOLERANCE: f64 = 0.03;

/// The examples of one split: read, resized, cropped and mirrored as a [`ViewConfig`] says,
/// picture and maps alike.
pub struct PictureDataset {
    entries: Vec<Entry>,
    view: ViewConfig,
    cache: Cache,
}

impl PictureDataset {
    /// The examples of `split`.
    ///
    /// # Errors
    /// No pictures in the split; a view that makes no sense.
    pub fn new(catalog: &Catalog, split: Split, view: ViewConfig) -> Result<Self> {
        view.check()?;
        let entries: Vec<Entry> = catalog.of_split(split).cloned().collect();
        if entries.is_empty() {
            let split = format!("({split:?})").to_lowercase();
            return Err(Error::NoPictures { path: catalog.path().to_path_buf(), split });
        }
        let cache = Cache::new(entries.len(), view.cache_bytes);
        Ok(Self { entries, view, cache })
    }

    /// What the examples are made of, by their index.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// How pictures become examples.
    pub fn view(&self) -> &ViewConfig {
        &self.view
    }

    /// The part of the preparation that is the same in every epoch.
    fn prepared(&self, index: usize) -> Result<Arc<Loaded>> {
        if let Some(loaded) = self.cache.get(index) {
            return Ok(loaded);
        }
        let loaded = self.load(&self.entries[index])?;
        let loaded = Arc::new(loaded.prepare(&self.view)?);
        self.cache.offer(index, &loaded);
        Ok(loaded)
    }

    fn load(&self, entry: &Entry) -> Result<Loaded> {
        let limits = &self.view.limits;
        let path = entry.picture.path();
        let image = decode_rgb(&entry.picture.read(limits)?, &path, limits)?;
        let extent = image.dimensions();
        let (width, height) = resize::smallest_max_size(extent.0, extent.1, self.view.size);
        if width > extent.0 {
            // A line of pixels would be enlarged until it is `size` thick.
            limits.check_size(&path, width, height)?;
        }
        let mut labels = None;
        if let Some(location) = &entry.labels {
            let path = location.path();
            let mut map = decode_labels(&location.read(limits)?, &path, limits)?;
            check_shape(extent, map.dimensions(), &path)?;
            if self.view.shift_labels {
                shift_labels(&mut map);
            }
            labels = Some(map);
        }
        let mut depth = None;
        if let Some(location) = &entry.depth {
            let path = location.path();
            let mut map = decode_depth(&location.read(limits)?, &path, limits)?;
            check_shape(extent, map.dimensions(), &path)?;
            // Before resizing, as in the reference.
            normalize_depth(&mut map).map_err(|error| {
                let reason = error.to_string();
                Error::Map { path, reason }
            })?;
            depth = Some(map);
        }
        Ok(Loaded { image, labels, depth })
    }
}

/// Refuses a map that is not of its picture: another shape.
fn check_shape(
    (width, height): (u32, u32),
    (map_width, map_height): (u32, u32),
    path: &std::path::Path,
) -> Result<()> {
    let shape = |width: u32, height: u32| f64::from(width.max(1)) / f64::from(height.max(1));
    let ratio = shape(width, height) / shape(map_width, map_height);
    let rounding = 1.0 / f64::from(map_width.min(map_height).max(1));
    if (ratio.ln().abs()) > SHAPE_TOLERANCE.max(rounding) {
        let reason = format!(
            "{map_width}x{map_height} is another shape than the picture's {width}x{height}"
        );
        return Err(Error::Map { path: path.to_path_buf(), reason });
    }
    Ok(())
}

impl Dataset for PictureDataset {
    fn len(&self) -> usize {
        self.entries.len()
    }

    fn get(&self, index: usize, rng: &mut ChaCha8Rng) -> Result<Example> {
        let Some(entry) = self.entries.get(index) else {
            let reason = format!("no example {index} among {}", self.entries.len());
            return Err(Error::argument("PictureDataset", reason));
        };
        let prepared = self.prepared(index)?;
        let geometry = Geometry::draw(prepared.image.dimensions(), &self.view, rng)?;
        let Loaded { image, labels, depth } =
            Loaded::clone(&prepared).cut(&geometry, &self.view)?;
        Ok(Example {
            image,
            name: entry.name.clone(),
            class: entry.class,
            caption: entry.caption.clone(),
            labels,
            depth,
        })
    }
}

#[cfg(test)]
mod tests;
