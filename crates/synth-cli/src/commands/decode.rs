//! `decode`: codes to pictures.

use std::path::{Path, PathBuf};

use anyhow::Result;
use checkpoints::codes_file::CodesFile;
use image_data::save_png;
use pipeline::{CodeGrid, Codec, RgbImage};

use crate::args::DecodeArgs;
use crate::commands::encode::codec_id;
use crate::exit::Outcome;
use crate::inputs;
use crate::output_names::OutputNames;
use crate::output_plan::{self, make_folder_of};
use crate::recipe::text_chunks;
use crate::report::{Layout, Record, Report};
use crate::session::Session;

/// A codes file that was read, with a file to write for each of its pictures.
struct Task {
    source: PathBuf,
    codes: CodesFile,
    outputs: Vec<PathBuf>,
}

/// Decodes every codes file.
///
/// # Errors
/// When it could not begin.
pub fn run(session: &Session, args: &DecodeArgs) -> Result<Outcome> {
    let inputs = inputs::codes_files(&args.inputs)?;
    if inputs.found.is_empty() {
        session.note("no codes files found");
        return Ok(Outcome::Nothing);
    }
    let codec = session.load(&args.model)?;
    codec.check_pictures()?;

    let mut names = OutputNames::new(&args.output, &[".png"]);
    let (mut tasks, mut refused) = (Vec::new(), Vec::new());
    for input in &inputs.found {
        match read(&codec, &input.path) {
            Err(error) => refused.push((&input.path, error)),
            Ok(codes) => {
                let outputs = codes.items.iter().map(|item| path_of_name(&item.name));
                let outputs = outputs.flat_map(|path| names.claim(&path)).collect();
                tasks.push(Task { source: input.path.clone(), codes, outputs });
            }
        }
    }
    let outputs: Vec<PathBuf> = tasks.iter().flat_map(|task| task.outputs.clone()).collect();
    let sources: Vec<_> = inputs.found.iter().map(|input| input.path.as_path()).collect();
    output_plan::check(&outputs, &sources, args.force)?;

    let pairs = tasks.iter().flat_map(|task| {
        task.outputs.iter().map(|output| (task.source.as_path(), output.as_path()))
    });
    let total = outputs.len() + refused.len() + inputs.missing.len();
    let mut report = Report::new(session, total, &Layout::new(pairs, false));
    inputs.report_missing(&mut report);
    for (path, error) in &refused {
        report.failed(path, error);
    }
    for task in &tasks {
        decode_file(&codec, args, task, &mut report);
    }
    Ok(report.finish())
}

/// Reads a codes file that `codec` made.
fn read(codec: &Codec, path: &Path) -> Result<CodesFile> {
    let codes = CodesFile::read(path)?;
    codec.check_sha256(&codes.codec.sha256)?;
    // The same codec cannot have another factor or codebook: the file lies.
    codes.check_codec(path, &codec_id(codec))?;
    Ok(codes)
}

fn decode_file(codec: &Codec, args: &DecodeArgs, task: &Task, report: &mut Report) {
    let items = &task.codes.items;
    let mut start = 0;
    while start < items.len() {
        let size = |i: usize| (items[i].width, items[i].height);
        let same = (start..items.len()).take_while(|&i| size(i) == size(start));
        let end = start + same.take(args.batch).count();
        decode_batch(codec, args, task, start..end, report);
        start = end;
    }
}

fn decode_batch(
    codec: &Codec,
    args: &DecodeArgs,
    task: &Task,
    range: std::ops::Range<usize>,
    report: &mut Report,
) {
    match decode(codec, task, range.clone()) {
        // Whatever is wrong with one picture must not take the others along.
        Err(_) if range.len() > 1 => {
            for i in range {
                decode_batch(codec, args, task, i..i + 1, report);
            }
        }
        Err(error) => {
            let error = error.context(task.codes.items[range.start].name.clone());
            report.failed(&task.source, &error);
        }
        Ok(pictures) => {
            for (i, picture) in range.zip(&pictures) {
                match write(codec, args, task, i, picture) {
                    Ok(record) => report.done(&record),
                    Err(error) => report.failed(&task.source, &error),
                }
            }
        }
    }
}

fn decode(codec: &Codec, task: &Task, range: std::ops::Range<usize>) -> Result<Vec<RgbImage>> {
    let item = &task.codes.items[range.start];
    let size = (u32::try_from(item.width)?, u32::try_from(item.height)?);
    let (h, w) = task.codes.grid;
    let codes = task.codes.codes[range.start * h * w..range.end * h * w].to_vec();
    let grid = CodeGrid::from_vec(codes, (range.len(), h, w), codec.device())?;
    Ok(codec.decode(&grid, size)?)
}

fn write(
    codec: &Codec,
    args: &DecodeArgs,
    task: &Task,
    index: usize,
    picture: &RgbImage,
) -> Result<Record> {
    let size = picture.dimensions();
    let output = &task.outputs[index];
    let text = text_chunks(codec, &task.codes.items[index].name, size);
    make_folder_of(output)?;
    save_png(output, picture, &text, args.force)?;
    Ok(Record {
        source: task.source.to_string_lossy().into_owned(),
        output: output.to_string_lossy().into_owned(),
        compare: None,
        width: size.0,
        height: size.1,
        grid: codec.grid_size(size),
        metrics: None,
    })
}

/// The path that a name in a codes file stands for. Names come from strangers:
/// what a file system or a terminal could trip over is replaced.
fn path_of_name(name: &str) -> PathBuf {
    let clean = |c: char| if c.is_control() || c == '\\' || c == ':' { '_' } else { c };
    Path::new(&name.chars().map(clean).collect::<String>()).to_path_buf()
}
