//! The pictures of a run: which are held out, and how examples are cut.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use image::RgbImage;
use image::imageops::{FilterType, crop_imm, flip_horizontal_in_place, resize};
use image_data::{Dataset, Example, FolderConfig, ImageFolder, Limits, Split, load_rgb, stack};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::config::{PicturesConfig, ValidationConfig};

/// Training and held-out pictures of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pictures {
    /// Pictures to learn from.
    pub train: Vec<PathBuf>,
    /// Pictures to measure on; there may be none.
    pub held_out: Vec<PathBuf>,
}

impl Pictures {
    /// The pictures of `folder`, split as [`ImageFolder`] does: by `train.txt`
    /// and `val.txt`, or else by a hash of each name.
    ///
    /// # Errors
    /// If the folder or a list cannot be read, or there is nothing to train on.
    pub fn open(folder: &Path, held_out_fraction: f64) -> Result<Self> {
        ensure!(!folder.as_os_str().is_empty(), "no pictures: give a folder with data=FOLDER");
        ensure!(folder.is_dir(), "data={}: there is no such folder", folder.display());
        let part = |split| -> image_data::Result<Vec<PathBuf>> {
            let config = FolderConfig { val_fraction: held_out_fraction, ..FolderConfig::new(1) };
            let folder_part = ImageFolder::open(folder, split, config)?;
            Ok(folder_part.files().iter().map(|file| folder.join(file)).collect())
        };
        let held_out = match part(Split::Val) {
            Err(image_data::Error::NoPictures { .. }) => Vec::new(),
            other => other?,
        };
        Ok(Self { train: part(Split::Train)?, held_out })
    }
}

/// Square crops of pictures at random scales.
pub struct Crops {
    paths: Vec<PathBuf>,
    config: PicturesConfig,
    limits: Limits,
}

impl Crops {
    /// Crops of the pictures at `paths`.
    pub fn new(paths: Vec<PathBuf>, config: PicturesConfig) -> Self {
        Self { paths, config, limits: Limits::default() }
    }
}

impl Dataset for Crops {
    fn len(&self) -> usize {
        self.paths.len()
    }

    fn get(&self, index: usize, rng: &mut ChaCha8Rng) -> image_data::Result<Example> {
        let path = &self.paths[index];
        let picture = load_rgb(path, &self.limits)?;
        let side = self.config.side as u32;
        let largest = (self.config.largest as u32).max(side);
        let whole = (rng.next_u32() as f64) < self.config.whole * 2f64.powi(32);
        let shorter = side + below(rng, largest - side + 1);
        let picture = with_shorter_side(&picture, if whole { side } else { shorter });
        let (width, height) = picture.dimensions();
        let left = below(rng, width - side + 1);
        let top = below(rng, height - side + 1);
        let mut image = crop_imm(&picture, left, top, side, side).to_image();
        if self.config.flip && rng.next_u32() & 1 == 1 {
            flip_horizontal_in_place(&mut image);
        }
        Ok(Example { image, name: path.display().to_string() })
    }
}

/// A number below `bound`, by Lemire's multiplication (bias below 2^-32 of the
/// bound, which pictures do not notice).
fn below(rng: &mut ChaCha8Rng, bound: u32) -> u32 {
    ((u64::from(rng.next_u32()) * u64::from(bound)) >> 32) as u32
}

/// `picture` scaled so that its shorter side is `shorter`; a triangle filter
/// as wide as the scale, so that small pictures do not alias.
fn with_shorter_side(picture: &RgbImage, shorter: u32) -> RgbImage {
    let (width, height) = picture.dimensions();
    let least = width.min(height);
    if least == shorter {
        return picture.clone();
    }
    let scaled = |side: u32| {
        ((u64::from(side) * u64::from(shorter) + u64::from(least) / 2) / u64::from(least))
            .max(u64::from(shorter)) as u32
    };
    resize(picture, scaled(width), scaled(height), FilterType::Triangle)
}

/// The first held-out pictures, for measurements and previews, as batches
/// `[B, 3, side, side]` in `[-1, 1]`: the centre of each, its shorter side
/// scaled to `largest` (cut to a multiple of `factor`).
///
/// # Errors
/// If a picture cannot be read.
pub fn held_out_batches(
    paths: &[PathBuf],
    pictures: &PicturesConfig,
    validation: &ValidationConfig,
    factor: usize,
    batch: usize,
) -> Result<Vec<Tensor>> {
    let side = (pictures.largest / factor * factor) as u32;
    let limits = Limits::default();
    let mut centres = Vec::new();
    for path in paths.iter().take(validation.pictures) {
        let picture = with_shorter_side(&load_rgb(path, &limits)?, side);
        let (left, top) = ((picture.width() - side) / 2, (picture.height() - side) / 2);
        centres.push(crop_imm(&picture, left, top, side, side).to_image());
    }
    centres.chunks(batch.max(1)).map(|chunk| Ok(stack(chunk, &Device::Cpu)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use image_data::example_rng;

    fn folder(count: u32) -> Result<tempfile::TempDir> {
        let dir = tempfile::tempdir()?;
        for i in 0..count {
            let picture = RgbImage::from_fn(20 + i, 30, |x, y| image::Rgb([x as u8, y as u8, 7]));
            picture.save(dir.path().join(format!("{i}.png")))?;
        }
        Ok(dir)
    }

    #[test]
    fn a_folder_is_split_in_two() -> Result<()> {
        let dir = folder(12)?;
        let pictures = Pictures::open(dir.path(), 0.4)?;
        assert_eq!(pictures.train.len() + pictures.held_out.len(), 12);
        assert!(pictures.train.iter().all(|path| path.is_file()));
        assert!(Pictures::open(dir.path(), 0.0)?.held_out.is_empty());
        assert!(Pictures::open(&dir.path().join("no"), 0.0).is_err());
        Ok(())
    }

    #[test]
    fn crops_have_their_side_and_repeat() -> Result<()> {
        let dir = folder(3)?;
        let config = PicturesConfig { side: 16, largest: 40, ..PicturesConfig::default() };
        let crops = Crops::new(Pictures::open(dir.path(), 0.0)?.train, config);
        for index in 0..3 {
            let one = crops.get(index, &mut example_rng(1, 2, index))?.image;
            let again = crops.get(index, &mut example_rng(1, 2, index))?.image;
            assert_eq!(one.dimensions(), (16, 16));
            assert_eq!(one, again);
        }
        Ok(())
    }
}
