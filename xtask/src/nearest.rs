//! `cargo xtask nearest`: samples beside the training pictures that they are most like.
//!
//! A model that has learnt its pictures by heart gives them back. The eye decides; this
//! finds what it has to compare.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use image::RgbImage;
use image::imageops::{FilterType, flip_horizontal, resize};
use image_data::{
    Catalog, CatalogConfig, Dataset, Limits, PictureDataset, Split, ViewConfig, example_rng, grid,
    load_rgb, save_png,
};
use rayon::prelude::*;

/// Pictures are compared at this size: what they show, not their noise.
const SIDE: u32 = 32;
/// Pairs in a row of the sheet.
const PAIRS: usize = 6;

#[derive(Args)]
pub struct Nearest {
    /// Samples: pictures, or folders of them
    #[arg(required = true)]
    samples: Vec<PathBuf>,
    /// What the model was trained on; pictures held out are left out
    #[arg(long, value_name = "FOLDER")]
    data: PathBuf,
    /// The sheet: each sample with its nearest picture on the right
    #[arg(long, short, default_value = "nearest.png", value_name = "FILE")]
    output: PathBuf,
}

/// A picture as it is shown, and small.
struct Thumb {
    name: String,
    picture: RgbImage,
    small: RgbImage,
}

impl Thumb {
    fn new(name: String, picture: RgbImage) -> Self {
        let small = resize(&picture, SIDE, SIDE, FilterType::Triangle);
        Self { name, picture, small }
    }

    /// Root mean square difference of 8-bit values, the mirror image tried too.
    fn distance(&self, other: &Self) -> f64 {
        rms(&self.small, &other.small).min(rms(&self.small, &flip_horizontal(&other.small)))
    }
}

fn rms(a: &RgbImage, b: &RgbImage) -> f64 {
    let difference = |(&a, &b): (&u8, &u8)| (f64::from(a) - f64::from(b)).powi(2);
    let total: f64 = a.as_raw().iter().zip(b.as_raw()).map(difference).sum();
    (total / a.as_raw().len().max(1) as f64).sqrt()
}

impl Nearest {
    /// Writes the sheet and prints the pairs.
    pub fn run(self) -> Result<()> {
        let mut samples = Vec::new();
        for path in &self.samples {
            for file in files(path)? {
                let picture = load_rgb(&file, &Limits::default())?;
                samples.push(Thumb::new(file.display().to_string(), picture));
            }
        }
        let shown = samples.first().context("there are no samples")?.picture.width();
        let catalog = Catalog::open(&self.data, &CatalogConfig::default())?;
        let known = PictureDataset::new(&catalog, Split::Train, ViewConfig::new(shown))?;
        // Those that cannot be read were not learnt from either.
        let known: Vec<Thumb> = (0..known.len())
            .into_par_iter()
            .filter_map(|i| known.get(i, &mut example_rng(0, 0, i)).ok())
            .map(|example| Thumb::new(example.name, example.image))
            .collect();
        ensure!(!known.is_empty(), "{}: no pictures that can be read", self.data.display());

        let mut cells = Vec::new();
        for sample in samples {
            let (distance, nearest) = known
                .par_iter()
                .map(|known| (sample.distance(known), known))
                .min_by(|a, b| a.0.total_cmp(&b.0))
                .context("no pictures")?;
            println!("{}: {} ({distance:.1})", sample.name, nearest.name);
            cells.push(grid(&[sample.picture, nearest.picture.clone()], 2, 2));
        }
        let text = [("Description".to_owned(), "samples, each beside its nearest".to_owned())];
        save_png(&self.output, &grid(&cells, PAIRS, 10), &text, true)?;
        println!("{}", self.output.display());
        Ok(())
    }
}

/// `path` itself, or the PNG files in it by name.
pub fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let place = || path.display().to_string();
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).with_context(place)? {
        let path = entry.with_context(place)?.path();
        if path.extension().is_some_and(|end| end == "png") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    #[test]
    fn the_nearest_is_found_mirrored_and_at_another_size() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let picture = |seed: u32, mirrored: bool, side: u32| {
            RgbImage::from_fn(side, side, |x, y| {
                let x = if mirrored { side - 1 - x } else { x };
                Rgb([(x * 255 / side) as u8, (y * seed * 40 / side) as u8, 9])
            })
        };
        let data = dir.path().join("data");
        std::fs::create_dir(&data)?;
        for seed in 1..6 {
            picture(seed, false, 64).save(data.join(format!("{seed}.png")))?;
        }
        std::fs::write(data.join("train.txt"), "1.png\n2.png\n3.png\n4.png\n")?;
        std::fs::write(data.join("val.txt"), "5.png\n")?;
        let sample = dir.path().join("sample.png");
        picture(3, true, 48).save(&sample)?;
        let output = dir.path().join("sheet.png");
        Nearest { samples: vec![sample], data, output: output.clone() }.run()?;
        let sheet = image::open(&output)?.to_rgb8();
        assert_eq!(sheet.dimensions(), (2 * 48 + 2, 48));
        // The left half mirrored is the right one.
        let left = image::imageops::crop_imm(&sheet, 0, 0, 48, 48).to_image();
        let right = image::imageops::crop_imm(&sheet, 50, 0, 48, 48).to_image();
        assert!(rms(&left, &flip_horizontal(&right)) < 4.0);
        Ok(())
    }
}
