//! `cargo xtask train plot`: the curves of one or more runs as a picture.

mod curves;
mod draw;

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::Args;
use image_data::save_png;

pub use curves::{Curve, Panel};
use curves::{Run, panels};
pub use draw::{draw, on_canvas};

#[derive(Args)]
pub struct Plot {
    /// Run folders, drawn over one another
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// Where to put the picture; by default curves.png in the first run's folder
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// Only these terms, comma-separated, as they are called in metrics.jsonl
    #[arg(long, value_delimiter = ',')]
    terms: Vec<String>,
    /// Share of a new value in the smoothed curve, 1 for none; by default by the number of
    /// points
    #[arg(long)]
    smooth: Option<f64>,
}

impl Plot {
    /// Draws the picture and says where it is.
    pub fn run(self) -> Result<()> {
        let runs: Vec<Run> = self.runs.iter().map(|path| Run::read(path)).collect::<Result<_>>()?;
        if let Some(share) = self.smooth {
            ensure!(share > 0.0 && share <= 1.0, "--smooth {share} is not in (0, 1]");
        }
        let panels = panels(&runs, &self.terms)?;
        if panels.is_empty() {
            bail!("nothing to draw yet: no term has two values");
        }
        let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
        let sheet = draw(&panels, &names, self.smooth)?;
        let output = self.output.unwrap_or_else(|| self.runs[0].join("curves.png"));
        let text = [("Description".to_string(), format!("curves of {}", names.join(", ")))];
        save_png(&output, &sheet, &text, true)?;
        println!("{}: {} curves", output.display(), panels.len());
        Ok(())
    }
}
