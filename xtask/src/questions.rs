//! `cargo xtask questions`: what people ask about this method, each answered by a small
//! experiment on a shipped model, for `docs/questions.md`.

mod codebook;
mod decoders;
mod gradient;
mod stop_gradients;
mod subject;
mod window;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use image::{Rgb, RgbImage, imageops};
use image_data::save_png;

use crate::plot::{Curve, Panel, draw};

#[derive(Args)]
pub struct Questions {
    /// Which; by default all
    #[arg(value_enum)]
    which: Vec<Question>,
    /// The first stage that is asked, or a transformer, whose it is
    #[arg(long, default_value = "assets/models/flowers", value_name = "FOLDER")]
    model: PathBuf,
    /// The transformer that is asked: for `decoders`
    #[arg(long, value_name = "FOLDER")]
    transformer: Option<PathBuf>,
    /// Its prompt, where it takes text
    #[arg(long, default_value = "red apple")]
    prompt: String,
    /// The pictures that are shown to the models
    #[arg(long, default_value = "assets/pictures", value_name = "FOLDER")]
    data: PathBuf,
    /// Where pictures and plots go
    #[arg(long, default_value = "docs/questions", value_name = "FOLDER")]
    output: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Question {
    /// How does the gradient get past the quantization?
    Gradient,
    /// Why two stop-gradient terms, and what happens without either?
    StopGradients,
    /// What shape is the codebook, and what do more entries change?
    Codebook,
    /// Which of the two decoders does what?
    Decoders,
    /// How fast is the sliding window against full attention?
    Window,
}

impl Questions {
    /// Runs the experiments, one after the other.
    pub fn run(self) -> Result<()> {
        let which = match self.which.is_empty() {
            true => Question::value_variants(),
            false => &self.which,
        };
        let place = || self.output.display().to_string();
        std::fs::create_dir_all(&self.output).with_context(place)?;
        for question in which {
            let name = question.to_possible_value().context("a question without a name")?;
            println!("## {}\n", name.get_help().map(ToString::to_string).unwrap_or_default());
            match question {
                Question::Gradient => gradient::answer(&self)?,
                Question::StopGradients => stop_gradients::answer(&self)?,
                Question::Codebook => codebook::answer(&self)?,
                Question::Decoders => decoders::answer(&self)?,
                Question::Window => window::answer(&self)?,
            }
            println!();
        }
        Ok(())
    }

    /// Writes `picture` as `name` into the output folder.
    fn save(&self, name: &str, picture: &RgbImage) -> Result<()> {
        let path = self.output.join(name);
        let text = [("Software".to_owned(), "cargo xtask questions".to_owned())];
        save_png(&path, picture, &text, true)?;
        println!("\n{}", path.display());
        Ok(())
    }
}

/// A row of a table in Markdown.
fn row(cells: &[String]) {
    println!("| {} |", cells.join(" | "));
}

/// The head of a table in Markdown.
fn head(cells: &[&str]) {
    println!("| {} |\n|{}", cells.join(" | "), "---|".repeat(cells.len()));
}

/// Curves in one coordinate system, as they are.
fn panel(title: &str, curves: Vec<Curve>) -> Panel {
    let runs = curves.into_iter().map(|curve| (curve, Curve::new())).collect();
    Panel { title: title.to_owned(), runs }
}

/// Panels side by side, without smoothing.
fn plot(panels: &[Panel], names: &[&str]) -> Result<RgbImage> {
    draw(panels, names, Some(1.0))
}

/// Sheets of different axes, one below the other.
fn below(sheets: &[RgbImage]) -> RgbImage {
    let width = sheets.iter().map(RgbImage::width).max().unwrap_or(1);
    let height = sheets.iter().map(RgbImage::height).sum();
    let mut all = RgbImage::from_pixel(width, height, Rgb([255; 3]));
    let mut top = 0;
    for sheet in sheets {
        let left = (width - sheet.width()) / 2;
        imageops::replace(&mut all, sheet, left.into(), top);
        top += i64::from(sheet.height());
    }
    all
}

/// The folder `path`, if it is there.
fn existing<'a>(path: &'a Path, what: &str) -> Result<&'a Path> {
    anyhow::ensure!(path.is_dir(), "{}: there is no such folder with {what}", path.display());
    Ok(path)
}
