//! `reconstruct`: pictures through the codec and back.

use std::path::PathBuf;

use anyhow::Result;
use image_data::{grid, save_png};
use perceptual::{Rgb8, psnr_rgb8, ssim_rgb8};
use pipeline::{Codec, RgbImage};

use crate::args::ReconstructArgs;
use crate::batches::{Batches, Job, Step};
use crate::commands::encode::picture_jobs;
use crate::exit::Outcome;
use crate::inputs;
use crate::output_plan::{self, make_folder_of};
use crate::recipe::text_chunks;
use crate::report::{Layout, Metrics, Record, Report};
use crate::session::Session;

/// Pixels between an original and its reconstruction.
const GAP: u32 = 8;

/// Reconstructs every picture.
///
/// # Errors
/// When it could not begin.
pub fn run(session: &Session, args: &ReconstructArgs) -> Result<Outcome> {
    let inputs = inputs::pictures(&args.pictures.inputs)?;
    let suffixes: &[_] = if args.compare { &[".png", "-compare.png"] } else { &[".png"] };
    let jobs = picture_jobs(&inputs, &args.output, suffixes);
    let outputs: Vec<PathBuf> = jobs.iter().flat_map(|job| job.outputs.clone()).collect();
    let sources: Vec<_> = jobs.iter().map(|job| job.source.as_path()).collect();
    output_plan::check(&outputs, &sources, args.force)?;
    if jobs.is_empty() {
        session.note("no pictures found");
        return Ok(Outcome::Nothing);
    }
    let codec = session.load(&args.model)?;
    codec.check_pictures()?;

    let names = jobs.iter().map(|job| (job.source.as_path(), job.outputs[0].as_path()));
    let layout = Layout::new(names, args.metrics);
    let mut report = Report::new(session, jobs.len() + inputs.missing.len(), &layout);
    inputs.report_missing(&mut report);
    for step in Batches::new(jobs.into_iter(), &args.pictures) {
        match step {
            Step::Unreadable(job, error) => report.failed(&job.source, &error),
            Step::Batch(batch) => reconstruct(&codec, args, &batch, &mut report),
        }
    }
    Ok(report.finish())
}

fn reconstruct(
    codec: &Codec,
    args: &ReconstructArgs,
    batch: &[(Job, RgbImage)],
    report: &mut Report,
) {
    let pictures: Vec<_> = batch.iter().map(|(_, picture)| picture.clone()).collect();
    match codec.reconstruct(&pictures) {
        // Whatever is wrong with one picture must not take the others along.
        Err(_) if batch.len() > 1 => {
            for item in batch {
                reconstruct(codec, args, std::slice::from_ref(item), report);
            }
        }
        Err(error) => report.failed(&batch[0].0.source, &error.into()),
        Ok(results) => {
            for ((job, original), result) in batch.iter().zip(&results) {
                match write(codec, args, job, original, result) {
                    Ok(record) => report.done(&record),
                    Err(error) => report.failed(&job.source, &error),
                }
            }
        }
    }
}

fn write(
    codec: &Codec,
    args: &ReconstructArgs,
    job: &Job,
    original: &RgbImage,
    result: &RgbImage,
) -> Result<Record> {
    let size = original.dimensions();
    let metrics = if args.metrics { Some(measure(original, result)?) } else { None };
    let text = text_chunks(codec, &job.name(), size);
    make_folder_of(&job.outputs[0])?;
    save_png(&job.outputs[0], result, &text, args.force)?;
    let compare = job.outputs.get(1);
    if let Some(path) = compare {
        let pair = grid(&[original.clone(), result.clone()], 2, GAP);
        save_png(path, &pair, &text, args.force)?;
    }
    Ok(Record {
        source: job.source.to_string_lossy().into_owned(),
        output: job.outputs[0].to_string_lossy().into_owned(),
        compare: compare.map(|path| path.to_string_lossy().into_owned()),
        width: size.0,
        height: size.1,
        grid: codec.grid_size(size),
        metrics,
    })
}

fn measure(original: &RgbImage, result: &RgbImage) -> Result<Metrics> {
    let (a, b) = (view(original)?, view(result)?);
    Ok(Metrics { psnr: psnr_rgb8(a, b)?, ssim: ssim_rgb8(a, b)? })
}

fn view(picture: &RgbImage) -> Result<Rgb8<'_>> {
    Ok(Rgb8::new(picture.width(), picture.height(), picture.as_raw())?)
}
