//! `cargo xtask assets`: our own example pictures, rendered from formulas.

mod canvas;
mod scenes;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use image_data::save_png;

use canvas::render;

#[derive(Args)]
pub struct Assets {
    /// Where the pictures go
    #[arg(long, default_value = "assets/pictures")]
    output: PathBuf,
}

impl Assets {
    /// Renders every picture.
    pub fn run(self) -> Result<()> {
        std::fs::create_dir_all(&self.output).with_context(|| self.output.display().to_string())?;
        for scene in scenes::ALL {
            let picture = render(scene.width, scene.height, scene.shade);
            let path = self.output.join(format!("{}.png", scene.name));
            save_png(&path, &picture, &[], true)?;
            println!("{}", path.display());
        }
        Ok(())
    }
}
