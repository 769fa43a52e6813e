//! Pictures read from disk and sorted into batches of one size.

use std::path::{Path, PathBuf};

use anyhow::Result;
use image_data::{Limits, load_rgb};
use pipeline::RgbImage;

use crate::args::PictureArgs;

/// How many batches' worth of pictures may wait for others of their size.
const WAITING_BATCHES: usize = 4;

/// A picture to work on, and where its results go.
#[derive(Clone, Debug)]
pub struct Job {
    /// The picture.
    pub source: PathBuf,
    /// Its name in results: below the folder it was found in.
    pub relative: PathBuf,
    /// The files to write.
    pub outputs: Vec<PathBuf>,
}

impl Job {
    /// The name as it goes into results: with `/` on every system.
    pub fn name(&self) -> String {
        let parts: Vec<_> =
            self.relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        parts.join("/")
    }
}

/// What comes next.
pub enum Step {
    /// Pictures of one size.
    Batch(Vec<(Job, RgbImage)>),
    /// A picture that could not be read.
    Unreadable(Job, anyhow::Error),
}

/// Reads pictures one by one and hands them out in batches of one size. At most
/// [`WAITING_BATCHES`] batches' worth of them are in memory.
pub struct Batches<I> {
    jobs: I,
    limits: Limits,
    size: usize,
    waiting: Vec<(Job, RgbImage)>,
}

impl<I: Iterator<Item = Job>> Batches<I> {
    /// Batches of up to `args.batch` pictures.
    pub fn new(jobs: I, args: &PictureArgs) -> Self {
        let limits = args.max_pixels.map(Limits::with_max_pixels).unwrap_or_default();
        Self { jobs, limits, size: args.batch, waiting: Vec::new() }
    }

    fn read(&self, path: &Path) -> Result<RgbImage> {
        Ok(load_rgb(path, &self.limits)?)
    }

    /// The first `size` waiting pictures of the size of `index`.
    fn take(&mut self, index: usize) -> Vec<(Job, RgbImage)> {
        let size = self.waiting[index].1.dimensions();
        let mut batch = Vec::new();
        let mut rest = Vec::new();
        for item in self.waiting.drain(..) {
            if item.1.dimensions() == size && batch.len() < self.size {
                batch.push(item);
            } else {
                rest.push(item);
            }
        }
        self.waiting = rest;
        batch
    }
}

impl<I: Iterator<Item = Job>> Iterator for Batches<I> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        loop {
            if self.waiting.len() >= WAITING_BATCHES * self.size {
                return Some(Step::Batch(self.take(0)));
            }
            let Some(job) = self.jobs.next() else {
                let left = !self.waiting.is_empty();
                return left.then(|| Step::Batch(self.take(0)));
            };
            match self.read(&job.source) {
                Err(error) => return Some(Step::Unreadable(job, error)),
                Ok(picture) => {
                    let size = picture.dimensions();
                    self.waiting.push((job, picture));
                    let same = |item: &&(Job, RgbImage)| item.1.dimensions() == size;
                    if self.waiting.iter().filter(same).count() == self.size {
                        return Some(Step::Batch(self.take(self.waiting.len() - 1)));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_one_size_and_lose_nothing() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let jobs = (0..20).map(|i| {
            let source = dir.path().join(format!("{i}.png"));
            if i != 7 {
                RgbImage::new(4 + i % 3, 5).save(&source)?;
            }
            let relative = PathBuf::from(format!("{i}.png"));
            Ok(Job { source, relative, outputs: Vec::new() })
        });
        let jobs = jobs.collect::<Result<Vec<_>>>()?;
        for batch in [1, 2, 3, 100] {
            let args = PictureArgs { inputs: Vec::new(), max_pixels: None, batch };
            let (mut seen, mut unreadable) = (Vec::new(), Vec::new());
            for step in Batches::new(jobs.clone().into_iter(), &args) {
                match step {
                    Step::Unreadable(job, _) => unreadable.push(job.relative),
                    Step::Batch(items) => {
                        assert!((1..=batch).contains(&items.len()));
                        let size = items[0].1.dimensions();
                        assert!(items.iter().all(|item| item.1.dimensions() == size));
                        seen.extend(items.into_iter().map(|item| item.0.relative));
                    }
                }
            }
            assert_eq!(unreadable, [PathBuf::from("7.png")]);
            if batch == 1 {
                assert_eq!(
                    seen[..3],
                    jobs[..3].iter().map(|j| j.relative.clone()).collect::<Vec<_>>()
                );
            }
            seen.sort();
            let mut all: Vec<_> = jobs.iter().map(|job| job.relative.clone()).collect();
            all.retain(|path| path != Path::new("7.png"));
            all.sort();
            assert_eq!(seen, all);
        }
        Ok(())
    }
}
