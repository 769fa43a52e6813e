//! `cargo xtask recolour`: a set of pictures with captions, and the same things in other
//! colours that their captions name.
//!
//! One picture of each thing can only be learnt by heart. What varies by itself and has a
//! word of its own is learnt apart from things: "blue banana" can be drawn by whoever saw
//! bananas and blue things. Some pairs of thing and colour are held out, to see whether it is.

pub mod hue;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use image_data::{Catalog, CatalogConfig, Limits, Split, load_rgb, save_png};
use rayon::prelude::*;
use serde_json::{Map, Value};

use hue::{COLOURS, Colour, chroma};

const CAPTIONS: &str = "captions.jsonl";
/// Fields of a line that say what a picture shows.
const FIELDS: [&str; 4] = ["caption", "captions", "text", "name"];
/// Words of things that have a colour of their own in their names: these stay as they are.
const COLOURED: [&str; 14] = [
    "red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "brown", "black",
    "white", "gray", "grey", "tone",
];
/// Mean chroma (Oklab) of a picture whose colours another hue changes visibly.
const LEAST_CHROMA: f64 = 0.02;
/// Of so many things one colour is held out.
const HELD_OUT_EVERY: usize = 2;
/// One of the first so many colours; the others are shown of everything.
const HELD_OUT_AMONG: usize = 5;

#[derive(Args)]
pub struct Recolour {
    /// Pictures with a captions.jsonl
    #[arg(long, value_name = "FOLDER")]
    pub data: PathBuf,
    /// The new set; must not exist
    #[arg(long, short, value_name = "FOLDER")]
    pub output: PathBuf,
}

/// A picture of the set.
pub struct Picture {
    /// Its path within the set.
    pub file: String,
    /// Its line.
    line: Map<String, Value>,
    pub held_out: bool,
}

/// What was made of one picture: its line, and whether it is held out.
type Made = (String, Map<String, Value>, bool);

impl Recolour {
    /// Writes the set.
    ///
    /// # Errors
    /// When there is no captions.jsonl, a picture cannot be read, or the output exists.
    pub fn run(self) -> Result<()> {
        let place = |path: &Path| path.display().to_string();
        ensure!(!self.output.exists(), "{}: exists", self.output.display());
        let parent = self.output.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        fs::create_dir_all(parent).with_context(|| place(parent))?;
        // All of it appears, or nothing.
        let set = tempfile::tempdir_in(parent).with_context(|| place(parent))?;
        let pictures = pictures(&self.data)?;
        let made: Vec<Vec<Made>> = pictures
            .par_iter()
            .enumerate()
            .map(|(i, picture)| picture.make(i, &self.data, set.path()))
            .collect::<Result<_>>()?;
        let made: Vec<Made> = made.into_iter().flatten().collect();
        write_lists(set.path(), &made)?;
        copy_licences(&self.data, set.path())?;
        fs::rename(set.keep(), &self.output).with_context(|| place(&self.output))?;
        let held_out = made.iter().filter(|(.., held_out)| *held_out).count();
        println!(
            "{}: {} pictures, of which {} are recoloured and {held_out} held out",
            self.output.display(),
            made.len(),
            made.len() - pictures.len(),
        );
        Ok(())
    }
}

/// The pictures of a set, in the order of its captions.
pub fn pictures(data: &Path) -> Result<Vec<Picture>> {
    let path = data.join(CAPTIONS);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let catalog = Catalog::open(data, &CatalogConfig::default())?;
    let held_out: std::collections::HashSet<&str> =
        catalog.of_split(Split::Val).map(|entry| entry.name.as_str()).collect();
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(i, line)| {
            let place = || format!("{}, line {}", path.display(), i + 1);
            let line: Map<String, Value> = serde_json::from_str(line).with_context(place)?;
            let file = line.get("file").and_then(Value::as_str);
            let file = file.context("has no `file`").with_context(place)?.to_owned();
            Ok(Picture { held_out: held_out.contains(file.as_str()), file, line })
        })
        .collect()
}

impl Picture {
    /// Copies the picture and paints it in every colour; the `i`th may hold one out.
    fn make(&self, i: usize, data: &Path, set: &Path) -> Result<Vec<Made>> {
        let (from, to) = (data.join(&self.file), set.join(&self.file));
        let folder = to.parent().context("no folder")?;
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        fs::copy(&from, &to).with_context(|| from.display().to_string())?;
        let mut made = vec![(self.file.clone(), self.line.clone(), self.held_out)];
        if self.held_out || self.has_colour() {
            return Ok(made);
        }
        let picture = load_rgb(&from, &Limits::default())?;
        if chroma(&picture) < LEAST_CHROMA {
            return Ok(made);
        }
        let holds_one = i.is_multiple_of(HELD_OUT_EVERY);
        let withheld = holds_one.then_some(i / HELD_OUT_EVERY % HELD_OUT_AMONG);
        for (j, colour) in COLOURS.iter().enumerate() {
            let file = within(&self.file, colour.name);
            let to = set.join(&file);
            let folder = to.parent().context("no folder")?;
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
            save_png(&to, &colour.paint(&picture), &[], false)?;
            made.push((file.clone(), self.named(&file, colour), withheld == Some(j)));
        }
        Ok(made)
    }

    /// What it shows.
    pub fn name(&self) -> &str {
        let name = self.line.get("name").or_else(|| self.line.get("caption"));
        name.and_then(Value::as_str).unwrap_or_default()
    }

    /// What it was painted in, if it was.
    pub fn colour(&self) -> Option<&'static str> {
        let folder = Path::new(&self.file).parent()?.file_name()?;
        COLOURS.iter().map(|colour| colour.name).find(|name| folder == *name)
    }

    fn has_colour(&self) -> bool {
        let name = self.name().to_lowercase();
        name.split(|c: char| !c.is_alphanumeric()).any(|word| COLOURED.contains(&word))
    }

    /// The picture's line with the colour before what it names.
    fn named(&self, file: &str, colour: &Colour) -> Map<String, Value> {
        let name = self.line.get("name").and_then(Value::as_str).unwrap_or_default();
        let say = |text: &str| match text.find(name) {
            Some(at) => format!("{}{} {}", &text[..at], colour.name, &text[at..]),
            None => format!("{} {text}", colour.name),
        };
        let mut line = self.line.clone();
        line.insert("file".to_owned(), file.into());
        for field in FIELDS {
            match line.get_mut(field) {
                Some(Value::String(text)) => *text = say(text),
                Some(Value::Array(texts)) => {
                    for text in texts {
                        if let Value::String(text) = text {
                            *text = say(text);
                        }
                    }
                }
                _ => {}
            }
        }
        line
    }
}

/// `images/apple.png` in the folder `blue`: `images/blue/apple.png`.
fn within(file: &str, folder: &str) -> String {
    match file.rsplit_once('/') {
        Some((parent, name)) => format!("{parent}/{folder}/{name}"),
        None => format!("{folder}/{file}"),
    }
}

fn write_lists(set: &Path, made: &[Made]) -> Result<()> {
    let (mut captions, mut train, mut val) = (String::new(), String::new(), String::new());
    for (file, line, held_out) in made {
        let mut line = line.clone();
        let split = if *held_out { "val" } else { "train" };
        line.insert("split".to_owned(), split.into());
        captions += &format!("{}\n", Value::Object(line));
        let list = if *held_out { &mut val } else { &mut train };
        *list += &format!("{file}\n");
    }
    for (name, text) in [(CAPTIONS, captions), ("train.txt", train), ("val.txt", val)] {
        fs::write(set.join(name), text).with_context(|| name.to_owned())?;
    }
    Ok(())
}

/// Licences, attributions and whatever else lies beside the captions.
fn copy_licences(data: &Path, set: &Path) -> Result<()> {
    for entry in fs::read_dir(data).with_context(|| data.display().to_string())? {
        let entry = entry?;
        let to = set.join(entry.file_name());
        if entry.path().is_file() && !to.exists() {
            fs::copy(entry.path(), &to).with_context(|| entry.path().display().to_string())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};

    use super::*;

    fn set() -> Result<tempfile::TempDir> {
        let dir = tempfile::tempdir()?;
        fs::create_dir(dir.path().join("images"))?;
        let paint = |name: &str, pixel: [u8; 3]| {
            let picture = RgbImage::from_pixel(8, 8, Rgb(pixel));
            save_png(&dir.path().join("images").join(name), &picture, &[], false)
        };
        paint("1.png", [230, 180, 20])?;
        paint("2.png", [200, 30, 40])?;
        paint("3.png", [90, 90, 90])?;
        paint("4.png", [30, 40, 200])?;
        fs::write(
            dir.path().join(CAPTIONS),
            "{\"file\": \"images/1.png\", \"name\": \"banana\", \"caption\": \"emoji of banana\"}\n\
             {\"file\": \"images/2.png\", \"name\": \"red apple\"}\n\
             {\"file\": \"images/3.png\", \"name\": \"stone\"}\n\
             {\"file\": \"images/4.png\", \"name\": \"sea\"}\n",
        )?;
        fs::write(dir.path().join("train.txt"), "1\n2\n3\n")?;
        fs::write(dir.path().join("val.txt"), "4\n")?;
        fs::write(dir.path().join("LICENSE"), "free")?;
        Ok(dir)
    }

    #[test]
    fn what_has_a_hue_and_no_name_of_one_is_painted_and_named() -> Result<()> {
        let data = set()?;
        let output = data.path().join("out/painted");
        Recolour { data: data.path().to_path_buf(), output: output.clone() }.run()?;
        let pictures = pictures(&output)?;
        // The banana in every colour; the others are named for one, have none, or are held out.
        assert_eq!(pictures.len(), 4 + COLOURS.len());
        let blue = pictures.iter().find(|p| p.file == "images/blue/1.png").context("none")?;
        assert_eq!(blue.line["name"], "blue banana");
        assert_eq!(blue.line["caption"], "emoji of blue banana");
        let held_out: Vec<&str> =
            pictures.iter().filter(|p| p.held_out).map(|p| p.file.as_str()).collect();
        assert_eq!(held_out, [&*format!("images/{}/1.png", COLOURS[0].name), "images/4.png"]);
        let Rgb([r, _, b]) =
            *load_rgb(&output.join(&blue.file), &Limits::default())?.get_pixel(0, 0);
        assert!(b > r, "{r} {b}");
        assert!(output.join("LICENSE").is_file());
        // Again: not over what is there.
        assert!(Recolour { data: data.path().to_path_buf(), output }.run().is_err());
        Ok(())
    }
}
