//! `cargo xtask judge`: whether samples have the colour that was asked for, and the thing's outline.
//!
//! Some pairs of thing and colour of a set that `cargo xtask recolour` made are held out. What a
//! model knows of things apart from their colours shows in how it draws these.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use image::RgbImage;
use image::imageops::{FilterType, resize};
use image_data::{Limits, load_rgb, png_text};
use rayon::prelude::*;
use serde_json::Value;

use crate::nearest::files;
use crate::recolour::hue::called;
use crate::recolour::{Picture, pictures};

/// What a channel is off white, at least, within an outline.
const LEAST: u8 = 40;
/// A sample's own picture should be among so many whose outlines are most like its own.
const FEW: usize = 5;

#[derive(Args)]
pub struct Judge {
    /// Samples, drawn for names of the set: pictures, or folders of them
    #[arg(required = true)]
    samples: Vec<PathBuf>,
    /// A set that `cargo xtask recolour` made
    #[arg(long, value_name = "FOLDER")]
    data: PathBuf,
}

/// A sample and the picture whose name was asked for.
struct Pair {
    held_out: bool,
    is_in_colour: bool,
    /// Which pixels are not white.
    drawn: Vec<bool>,
    own: Vec<bool>,
}

impl Judge {
    /// Prints what was found.
    ///
    /// # Errors
    /// When a picture cannot be read, or was not drawn for a painted thing of the set.
    pub fn run(self) -> Result<()> {
        let set = pictures(&self.data)?;
        let painted: HashMap<&str, &Picture> = set
            .iter()
            .filter(|picture| picture.colour().is_some())
            .map(|picture| (picture.name(), picture))
            .collect();
        let files = self.samples.iter().map(|path| files(path)).collect::<Result<Vec<_>>>()?;
        let pairs: Vec<Option<Pair>> = files
            .concat()
            .par_iter()
            .map(|file| pair(file, &self.data, &painted))
            .collect::<Result<_>>()?;
        let pairs: Vec<Pair> = pairs.into_iter().flatten().collect();
        ensure!(!pairs.is_empty(), "there are no samples");
        for (name, held_out) in [("held out", true), ("shown", false)] {
            let pairs: Vec<&Pair> = pairs.iter().filter(|p| p.held_out == held_out).collect();
            if !pairs.is_empty() {
                println!("{name}: {}", line(&pairs));
            }
        }
        Ok(())
    }
}

/// What the pairs come to.
fn line(pairs: &[&Pair]) -> String {
    let count = pairs.len() as f64;
    let (mut own, mut others, mut found) = (0.0, 0.0, 0);
    for (i, pair) in pairs.iter().enumerate() {
        let alike: Vec<f64> = pairs.iter().map(|other| overlap(&pair.drawn, &other.own)).collect();
        own += alike[i] / count;
        others += (alike.iter().sum::<f64>() - alike[i]) / (count - 1.0).max(1.0) / count;
        found += usize::from(alike.iter().filter(|other| **other > alike[i]).count() < FEW);
    }
    let in_colour = pairs.iter().filter(|pair| pair.is_in_colour).count();
    format!(
        "{} samples, {in_colour} in the colour; outline {own:.3} of its own (intersection over \
         union), {others:.3} of others; {found} have their own among the {FEW} most alike",
        pairs.len()
    )
}

/// The sample in `file` and its picture; none for a sheet of several.
fn pair(file: &Path, data: &Path, painted: &HashMap<&str, &Picture>) -> Result<Option<Pair>> {
    let place = || file.display().to_string();
    let chunks = png_text(file)?;
    let recipe = chunks.iter().find(|(keyword, _)| keyword == "synth");
    let (_, recipe) = recipe.context("does not say how it was made").with_context(place)?;
    let recipe: Value = serde_json::from_str(recipe).with_context(place)?;
    if recipe.get("pictures").is_some() {
        return Ok(None);
    }
    let name = recipe["condition"]["name"].as_str().context("has no prompt").with_context(place)?;
    let picture = painted.get(name);
    let picture = picture.with_context(|| format!("{name} is no painted thing of the set"));
    let picture = picture.with_context(place)?;
    let drawn = load_rgb(file, &Limits::default())?;
    let own = load_rgb(&data.join(&picture.file), &Limits::default())?;
    let own = resize(&own, drawn.width(), drawn.height(), FilterType::Triangle);
    let outlines = [outline(&drawn), outline(&own)];
    let inside = drawn.pixels().zip(&outlines[0]).filter(|(_, inside)| **inside).map(|(p, _)| p);
    let is_in_colour = called(inside) == picture.colour();
    let [drawn, own] = outlines;
    Ok(Some(Pair { held_out: picture.held_out, is_in_colour, drawn, own }))
}

fn outline(picture: &RgbImage) -> Vec<bool> {
    picture.pixels().map(|pixel| pixel.0.iter().any(|p| u8::MAX - p > LEAST)).collect()
}

/// Intersection over union; 1 of two that are empty.
fn overlap(a: &[bool], b: &[bool]) -> f64 {
    let count =
        |both: fn(bool, bool) -> bool| a.iter().zip(b).filter(|(a, b)| both(**a, **b)).count();
    let (both, either) = (count(|a, b| a && b), count(|a, b| a || b));
    if either == 0 { 1.0 } else { both as f64 / either as f64 }
}

#[cfg(test)]
mod tests {
    use image::Rgb;
    use image_data::save_png;
    use serde_json::json;

    use super::*;
    use crate::recolour::Recolour;

    /// A square of a colour, from `at` on.
    fn square(at: u32, colour: [u8; 3]) -> RgbImage {
        RgbImage::from_fn(32, 32, |x, y| {
            let inside = (at..at + 12).contains(&x) && (at..at + 12).contains(&y);
            Rgb(if inside { colour } else { [255; 3] })
        })
    }

    #[test]
    fn colours_and_outlines_are_told_apart() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let (data, set) = (dir.path().join("data"), dir.path().join("set"));
        std::fs::create_dir(&data)?;
        let mut captions = String::new();
        for (i, name) in ["ball", "box"].iter().enumerate() {
            let file = format!("{name}.png");
            save_png(&data.join(&file), &square(10 * i as u32, [200, 90, 40]), &[], false)?;
            captions += &format!("{}\n", json!({ "file": file, "name": name, "split": "train" }));
        }
        std::fs::write(data.join("captions.jsonl"), captions)?;
        Recolour { data, output: set.clone() }.run()?;
        let painted = pictures(&set)?;
        let painted: HashMap<&str, &Picture> = painted.iter().map(|p| (p.name(), p)).collect();
        let sample = |file: &str, name: &str, picture: &RgbImage| -> Result<PathBuf> {
            let path = dir.path().join(file);
            let recipe = json!({ "condition": { "name": name } }).to_string();
            save_png(&path, picture, &[("synth".to_owned(), recipe)], false)?;
            Ok(path)
        };
        // In the colour and the place; in another colour; elsewhere.
        let right = sample("1.png", "blue box", &square(10, [60, 90, 220]))?;
        let red = sample("2.png", "blue box", &square(10, [220, 60, 50]))?;
        let moved = sample("3.png", "gray ball", &square(16, [120; 3]))?;
        let judge = |path: &Path| pair(path, &set, &painted)?.context("a sheet");
        let [right, red, moved] = [judge(&right)?, judge(&red)?, judge(&moved)?];
        assert!(right.is_in_colour && !red.is_in_colour && moved.is_in_colour);
        assert_eq!(overlap(&right.drawn, &right.own), 1.0);
        assert!(overlap(&moved.drawn, &moved.own) < 0.1);
        let told = line(&[&right, &red]);
        assert!(told.starts_with("2 samples, 1 in the colour; outline 1.000"), "{told}");
        // What the set does not have, and what does not say what it is.
        let unknown = sample("4.png", "blue cup", &square(0, [0; 3]))?;
        assert!(judge(&unknown).is_err_and(|e| format!("{e:#}").contains("blue cup")));
        let silent = dir.path().join("5.png");
        save_png(&silent, &square(0, [0; 3]), &[], false)?;
        assert!(judge(&silent).is_err());
        Ok(())
    }
}
