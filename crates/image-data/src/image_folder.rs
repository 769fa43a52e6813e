//! A folder of pictures as a dataset.

mod cache;
mod split;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::{RgbImage, imageops};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::random::below;
use crate::resize::{self, Interpolation, adm};
use crate::{Dataset, Error, Example, Limits, Result, load_rgb};
use cache::Cache;

pub use split::Split;

/// Where the square is cut out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Crop {
    /// In the middle.
    #[default]
    Center,
    /// Anywhere, drawn anew every epoch.
    Random,
}

/// How pictures are brought to size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResizeRule {
    /// taming: the smaller side to `size` with OpenCV's bilinear interpolation, without
    /// anti-aliasing.
    #[default]
    Taming,
    /// LlamaGen: ADM's crops with Pillow's anti-aliased resizing; a random crop also
    /// draws its scale, 0.8 to 1.
    Adm,
}

/// How a folder becomes examples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FolderConfig {
    /// Width and height of an example, in pixels.
    pub size: u32,
    /// Where the square is cut out.
    #[serde(default)]
    pub crop: Crop,
    /// Whether examples are mirrored left to right, half of the time.
    #[serde(default)]
    pub flip: bool,
    /// How pictures are brought to size.
    #[serde(default)]
    pub resize: ResizeRule,
    /// Whether subfolders are looked into, where no list says what belongs.
    #[serde(default = "yes")]
    pub recursive: bool,
    /// The share of pictures held out for validation where no lists exist.
    #[serde(default = "default_val_fraction")]
    pub val_fraction: f64,
    /// Bytes of decoded pictures that may be kept in memory; 0 keeps none. Default 256 MiB.
    #[serde(default = "default_cache_bytes")]
    pub cache_bytes: u64,
    /// What a picture may cost.
    #[serde(default)]
    pub limits: Limits,
}

fn yes() -> bool {
    true
}

fn default_val_fraction() -> f64 {
    0.05
}

fn default_cache_bytes() -> u64 {
    256 << 20
}

impl FolderConfig {
    /// Centre crops of `size`, nothing random.
    pub fn new(size: u32) -> Self {
        Self {
            size,
            crop: Crop::default(),
            flip: false,
            resize: ResizeRule::default(),
            recursive: true,
            val_fraction: default_val_fraction(),
            cache_bytes: default_cache_bytes(),
            limits: Limits::default(),
        }
    }
}

/// A folder of pictures, or the training or validation part of it.
pub struct ImageFolder {
    root: PathBuf,
    files: Vec<PathBuf>,
    config: FolderConfig,
    cache: Cache,
}

impl ImageFolder {
    /// The pictures of `split` in `dir`.
    ///
    /// If `dir` holds `train.txt` or `val.txt`, they say what belongs: a line with a slash
    /// is a file of the folder, another is a stem, `images/<stem>` with the extension of a
    /// picture. Otherwise all pictures in `dir` count, and a hash of each one's path
    /// within it decides which `val_fraction` of them is held out: adding pictures moves
    /// none of the others.
    ///
    /// # Errors
    /// No pictures; a list that is missing beside the other, or names files outside.
    pub fn open(dir: &Path, split: Split, config: FolderConfig) -> Result<Self> {
        let files = split::files(dir, split, config.recursive, config.val_fraction)?;
        if files.is_empty() {
            let split = format!("({split:?})").to_lowercase();
            return Err(Error::NoPictures { path: dir.to_path_buf(), split });
        }
        Self::new(dir.to_path_buf(), files, config)
    }

    /// The pictures `files`, in that order.
    pub fn from_files(files: Vec<PathBuf>, config: FolderConfig) -> Result<Self> {
        Self::new(PathBuf::new(), files, config)
    }

    fn new(root: PathBuf, files: Vec<PathBuf>, config: FolderConfig) -> Result<Self> {
        if config.size == 0 {
            return Err(Error::argument("ImageFolder", "the size of examples is 0"));
        }
        let cache = Cache::new(files.len(), config.cache_bytes);
        Ok(Self { root, files, config, cache })
    }

    /// The files, relative to the folder.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// How the pictures become examples.
    pub fn config(&self) -> &FolderConfig {
        &self.config
    }

    /// The part of the preparation that is the same in every epoch.
    fn prepared(&self, index: usize) -> Result<Arc<RgbImage>> {
        if let Some(image) = self.cache.get(index) {
            return Ok(image);
        }
        let (path, size, limits) =
            (self.root.join(&self.files[index]), self.config.size, &self.config.limits);
        let image = load_rgb(&path, limits)?;
        let (width, height) = resize::smallest_max_size(image.width(), image.height(), size);
        if width > image.width() {
            // A line of pixels would be enlarged until it is `size` thick.
            limits.check_size(&path, width, height)?;
        }
        let image = match (self.config.resize, self.config.crop) {
            (ResizeRule::Taming, crop) => {
                let image = resize::resize_u8(&image, width, height, Interpolation::Linear)?;
                match crop {
                    Crop::Random => image,
                    Crop::Center => {
                        let (x, y) = resize::center_origin(width, height, size);
                        resize::crop(&image, x, y, size)?
                    }
                }
            }
            (ResizeRule::Adm, Crop::Center) => adm::center_crop(&image, size)?,
            (ResizeRule::Adm, Crop::Random) => image,
        };
        let image = Arc::new(image);
        self.cache.offer(index, &image);
        Ok(image)
    }
}

impl Dataset for ImageFolder {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn get(&self, index: usize, rng: &mut ChaCha8Rng) -> Result<Example> {
        let Some(file) = self.files.get(index) else {
            let reason = format!("no example {index} among {}", self.files.len());
            return Err(Error::argument("ImageFolder", reason));
        };
        let prepared = self.prepared(index)?;
        let size = self.config.size;
        let mut image = match (self.config.crop, self.config.resize) {
            (Crop::Center, _) => prepared.as_ref().clone(),
            (Crop::Random, ResizeRule::Taming) => {
                let y = below(rng, u64::from(prepared.height().saturating_sub(size)) + 1) as u32;
                let x = below(rng, u64::from(prepared.width().saturating_sub(size)) + 1) as u32;
                resize::crop(&prepared, x, y, size)?
            }
            (Crop::Random, ResizeRule::Adm) => adm::random_crop(&prepared, size, (0.8, 1.0), rng)?,
        };
        if self.config.flip && below(rng, 2) == 1 {
            imageops::flip_horizontal_in_place(&mut image);
        }
        Ok(Example { image, name: split::name(file) })
    }
}

#[cfg(test)]
mod tests;
