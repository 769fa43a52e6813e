//! `encode`: pictures to codes.
//!
//! One codes file per picture, whatever their sizes, or with `--single` one
//! file of all, whose code grids must then have one size: that is the shape
//! that training on codes reads. Which of the two is written depends on the
//! command line alone, never on the pictures.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use checkpoints::codes_file::{CodecId, CodesFile, CodesItem};
use pipeline::{Codec, RgbImage};

use crate::args::EncodeArgs;
use crate::batches::{Batches, Job, Step};
use crate::exit::Outcome;
use crate::inputs::{self, CODES_SUFFIX, Inputs};
use crate::output_names::OutputNames;
use crate::output_plan::{self, make_folder_of};
use crate::report::{Layout, Record, Report};
use crate::session::Session;

/// Encodes every picture.
///
/// # Errors
/// When it could not begin; when the one file of `--single` cannot be written.
pub fn run(session: &Session, args: &EncodeArgs) -> Result<Outcome> {
    let inputs = inputs::pictures(&args.pictures.inputs)?;
    let jobs = match &args.single {
        Some(file) => single_jobs(&inputs, file),
        None => picture_jobs(&inputs, &args.output, &[CODES_SUFFIX]),
    };
    let sources: Vec<_> = jobs.iter().map(|job| job.source.as_path()).collect();
    let outputs: Vec<PathBuf> = match &args.single {
        Some(file) => vec![file.clone()],
        None => jobs.iter().flat_map(|job| job.outputs.clone()).collect(),
    };
    output_plan::check(&outputs, &sources, args.force)?;
    if jobs.is_empty() {
        session.note("no pictures found");
        return Ok(Outcome::Nothing);
    }
    let codec = session.load(&args.model)?;
    codec.check_pictures()?;

    let names = jobs.iter().map(|job| (job.source.as_path(), job.outputs[0].as_path()));
    let layout = Layout::new(names, false);
    let mut encoder = Encoder {
        report: Report::new(session, jobs.len() + inputs.missing.len(), &layout),
        single: args.single.as_ref().map(|_| Single::new(&jobs)),
        codec: &codec,
        force: args.force,
    };
    inputs.report_missing(&mut encoder.report);
    for step in Batches::new(jobs.into_iter(), &args.pictures) {
        match step {
            Step::Unreadable(job, error) => encoder.report.failed(&job.source, &error),
            Step::Batch(batch) => encoder.encode(&batch),
        }
    }
    let Encoder { report, single, .. } = encoder;
    if let (Some(file), Some(single)) = (&args.single, single) {
        single.write(&codec, file, args.force)?;
    }
    Ok(report.finish())
}

/// A job for each picture, with its own names in `folder`.
pub fn picture_jobs(inputs: &Inputs, folder: &Path, suffixes: &[&'static str]) -> Vec<Job> {
    let mut names = OutputNames::new(folder, suffixes);
    inputs
        .found
        .iter()
        .map(|input| Job {
            source: input.path.clone(),
            relative: input.relative.clone(),
            outputs: names.claim(&input.relative),
        })
        .collect()
}

fn single_jobs(inputs: &Inputs, file: &Path) -> Vec<Job> {
    inputs
        .found
        .iter()
        .map(|input| Job {
            source: input.path.clone(),
            relative: input.relative.clone(),
            outputs: vec![file.to_path_buf()],
        })
        .collect()
}

/// The identity of `codec` as codes files state it.
pub fn codec_id(codec: &Codec) -> CodecId {
    CodecId {
        kind: pipeline::KIND.to_owned(),
        sha256: codec.sha256().to_owned(),
        codebook_len: codec.describe().codes,
        factor: codec.factor(),
    }
}

/// What is needed to encode a batch and put its codes where they belong.
struct Encoder<'a> {
    codec: &'a Codec,
    report: Report,
    single: Option<Single>,
    force: bool,
}

impl Encoder<'_> {
    fn encode(&mut self, batch: &[(Job, RgbImage)]) {
        let pictures: Vec<_> = batch.iter().map(|(_, picture)| picture.clone()).collect();
        match self.codec.encode_images(&pictures).and_then(|grid| Ok((grid.to_vec()?, grid))) {
            // Whatever is wrong with one picture must not take the others along.
            Err(_) if batch.len() > 1 => {
                for item in batch {
                    self.encode(std::slice::from_ref(item));
                }
            }
            Err(error) => self.report.failed(&batch[0].0.source, &error.into()),
            Ok((codes, grid)) => {
                let (_, h, w) = grid.dims();
                for ((job, picture), codes) in batch.iter().zip(codes.chunks_exact(h * w)) {
                    match self.keep(job, picture, (h, w), codes) {
                        Ok(record) => self.report.done(&record),
                        Err(error) => self.report.failed(&job.source, &error),
                    }
                }
            }
        }
    }

    fn keep(
        &mut self,
        job: &Job,
        picture: &RgbImage,
        grid: (usize, usize),
        codes: &[u32],
    ) -> Result<Record> {
        let (width, height) = picture.dimensions();
        let item = CodesItem { name: job.name(), height: height as usize, width: width as usize };
        match &mut self.single {
            Some(single) => single.add(&job.source, grid, item, codes)?,
            None => {
                let codec = codec_id(self.codec);
                let file = CodesFile { codec, items: vec![item], grid, codes: codes.to_vec() };
                write(&file, &job.outputs[0], self.force)?;
            }
        }
        Ok(Record {
            source: job.source.to_string_lossy().into_owned(),
            output: job.outputs[0].to_string_lossy().into_owned(),
            compare: None,
            width,
            height,
            grid: (grid.1, grid.0),
            metrics: None,
        })
    }
}

fn write(file: &CodesFile, path: &Path, force: bool) -> Result<()> {
    // Checked before the work began, but that may be hours ago.
    ensure!(force || path.symlink_metadata().is_err(), "{}: exists already", path.display());
    make_folder_of(path)?;
    Ok(file.write(path)?)
}

/// The codes of all pictures, to be written to one file in the order of the
/// inputs, whatever the order they were encoded in.
struct Single {
    order: Vec<PathBuf>,
    /// The grid of the first, height and width.
    grid: Option<(usize, usize)>,
    encoded: Vec<(PathBuf, CodesItem, Vec<u32>)>,
}

impl Single {
    fn new(jobs: &[Job]) -> Self {
        let order = jobs.iter().map(|job| job.source.clone()).collect();
        Self { order, grid: None, encoded: Vec::new() }
    }

    fn add(
        &mut self,
        source: &Path,
        (h, w): (usize, usize),
        item: CodesItem,
        codes: &[u32],
    ) -> Result<()> {
        let (first_h, first_w) = *self.grid.get_or_insert((h, w));
        if (first_h, first_w) != (h, w) {
            bail!(
                "{}: its code grid is {w}x{h}, and one file holds grids of one size, here \
                 {first_w}x{first_h}; encode it without --single",
                source.display()
            );
        }
        self.encoded.push((source.to_path_buf(), item, codes.to_vec()));
        Ok(())
    }

    fn write(mut self, codec: &Codec, path: &Path, force: bool) -> Result<()> {
        let Some(grid) = self.grid else { return Ok(()) };
        let place: std::collections::HashMap<_, _> =
            self.order.iter().enumerate().map(|(i, source)| (source, i)).collect();
        self.encoded.sort_by_key(|(source, ..)| place.get(source).copied());
        let mut file =
            CodesFile { codec: codec_id(codec), items: Vec::new(), grid, codes: Vec::new() };
        for (_, item, codes) in self.encoded {
            file.items.push(item);
            file.codes.extend(codes);
        }
        write(&file, path, force)
    }
}
