//! A large picture while it is drawn.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use image::{Rgb, RgbImage, imageops};
use image_data::save_png;
use pipeline::{CodeGrid, Generator, Progress};

use super::plan::Task;
use crate::output_plan::make_folder_of;
use crate::session::Session;

/// The least time between two previews, and how much longer than making one.
const PAUSE: Duration = Duration::from_secs(5);
const SHARE: u32 = 10;
/// What is not drawn yet.
const BLANK: Rgb<u8> = Rgb([128; 3]);

/// Files `NAME.preview.png` beside the pictures to come, refreshed every few rows;
/// gone when this is dropped.
pub struct Previews<'a> {
    session: &'a Session,
    generator: &'a Generator,
    pictures: Vec<Preview>,
    next: Instant,
    /// One failure is told, and ends it.
    failed: bool,
}

struct Preview {
    path: PathBuf,
    size: (u32, u32),
    columns: usize,
    rows: usize,
    /// Whether what is in its place may be replaced.
    force: bool,
    written: bool,
}

impl<'a> Previews<'a> {
    /// Of `tasks`, which are drawn together.
    pub fn new(
        session: &'a Session,
        generator: &'a Generator,
        tasks: &[Task],
        force: bool,
    ) -> Self {
        let preview = |task: &Task| Preview {
            force,
            path: task.output.with_extension("preview.png"),
            size: (task.recipe.size[0], task.recipe.size[1]),
            columns: task.recipe.grid[0],
            rows: 0,
            written: false,
        };
        Self {
            session,
            generator,
            pictures: tasks.iter().map(preview).collect(),
            next: Instant::now() + PAUSE,
            failed: false,
        }
    }

    /// Looks at how far it is, and writes what is new if it is time.
    pub fn see(&mut self, progress: Progress<'_>) {
        if self.failed || progress.rows.is_empty() || Instant::now() < self.next {
            return;
        }
        let started = Instant::now();
        for (i, preview) in self.pictures.iter_mut().enumerate() {
            let (Some(codes), Some(&rows)) = (progress.codes.get(i), progress.rows.get(i)) else {
                continue;
            };
            if rows <= preview.rows {
                continue;
            }
            preview.rows = rows;
            if let Err(error) = preview.write(self.generator, codes) {
                self.session.note(&format!("no preview: {error:#}"));
                self.failed = true;
                return;
            }
        }
        self.next = Instant::now() + PAUSE.max(started.elapsed() * SHARE);
    }
}

impl Preview {
    fn write(&mut self, generator: &Generator, codes: &[u32]) -> Result<()> {
        let (width, height) = self.size;
        let factor = generator.codec().factor();
        let drawn = codes[..self.rows * self.columns].to_vec();
        let shape = (1, self.rows, self.columns);
        let grid = CodeGrid::from_vec(drawn, shape, generator.codec().device())?;
        let part = (width, height.min((self.rows * factor) as u32));
        let part = generator.decode(&grid, part)?.remove(0);
        let mut canvas = RgbImage::from_pixel(width, height, BLANK);
        imageops::replace(&mut canvas, &part, 0, 0);
        make_folder_of(&self.path)?;
        save_png(&self.path, &canvas, &[], self.force || self.written)?;
        self.written = true;
        Ok(())
    }
}

impl Drop for Previews<'_> {
    fn drop(&mut self) {
        for preview in self.pictures.iter().filter(|preview| preview.written) {
            remove(&preview.path);
        }
    }
}

fn remove(path: &Path) {
    // Nothing is lost with a preview that stays.
    let _ = std::fs::remove_file(path);
}
