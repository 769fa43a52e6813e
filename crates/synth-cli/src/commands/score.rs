//! `score`: how well a transformer knows given pictures.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, bail};
use image_data::{Limits, load_rgb, save_png};
use pipeline::{Generator, Scores, fit_picture};
use serde_json::{Value, json};

use crate::args::{ConditionArgs, ScoreArgs};
use crate::commands::generate::{self, Subject};
use crate::exit::Outcome;
use crate::inputs;
use crate::output_names::OutputNames;
use crate::output_plan::{self, make_folder_of};
use crate::report::print_line;
use crate::session::Session;
use crate::table::{Column, Table, shown};

const MAP_SUFFIX: &str = "-bits.png";

/// Scores every picture.
///
/// # Errors
/// When it could not begin.
pub fn run(session: &Session, args: &ScoreArgs) -> Result<Outcome> {
    let inputs = inputs::pictures(&args.pictures.inputs)?;
    let maps: Vec<Option<PathBuf>> = match &args.output {
        None => vec![None; inputs.found.len()],
        Some(folder) => {
            let mut names = OutputNames::new(folder, &[MAP_SUFFIX]);
            let claim = |input: &inputs::Input| Some(names.claim(&input.relative).remove(0));
            inputs.found.iter().map(claim).collect()
        }
    };
    let sources: Vec<_> = inputs.found.iter().map(|input| input.path.as_path()).collect();
    output_plan::check(&maps.iter().flatten().cloned().collect::<Vec<_>>(), &sources, args.force)?;
    if inputs.found.is_empty() {
        session.note("no pictures found");
        return Ok(Outcome::Nothing);
    }
    let generator = generate::load(session, &args.model)?;
    let condition = ConditionArgs {
        class: args.class.iter().cloned().collect(),
        prompt: args.prompt.iter().cloned().collect(),
        condition: args.condition.iter().cloned().collect(),
    };
    let text_encoder = args.model.text_encoder.as_deref();
    let mut subjects = Subject::all(session, &generator, &condition, text_encoder)?;
    let (Some(subject), true) = (subjects.pop(), subjects.is_empty()) else {
        bail!("a picture is scored under one condition: name one class, not all");
    };
    let mut report = Report::new(session, &inputs.found);
    for path in &inputs.missing {
        report.failed(path, &anyhow::anyhow!("no such file or folder"));
    }
    for (input, map) in inputs.found.iter().zip(maps) {
        match score(args, &generator, &subject, &input.path, map.as_deref()) {
            Ok(scored) => report.done(&input.path, &scored),
            Err(error) => report.failed(&input.path, &error),
        }
    }
    Ok(report.finish())
}

/// A picture's scores, in the size it was scored in.
struct Scored {
    size: (u32, u32),
    scores: Scores,
    map: Option<PathBuf>,
}

fn score(
    args: &ScoreArgs,
    generator: &Generator,
    subject: &Subject,
    path: &Path,
    map: Option<&Path>,
) -> Result<Scored> {
    let limits = args.pictures.max_pixels.map(Limits::with_max_pixels).unwrap_or_default();
    let mut picture = load_rgb(path, &limits)?;
    if !args.full_size {
        picture = fit_picture(&picture, generator.training_size())?;
    }
    let size = picture.dimensions();
    let front = subject.front(generator, size, true)?;
    let codes = generator.codec().encode_images(&[picture])?;
    let scores = generator.score(&front, &codes, &mut |_| ())?;
    if let Some(map) = map {
        let chance = (generator.config().codes as f64).log2();
        let picture = scores.map(generator.codec().factor(), chance);
        make_folder_of(map)?;
        save_png(map, &picture, &text_chunks(path, generator, &scores), args.force)?;
    }
    Ok(Scored { size, scores, map: map.map(Path::to_path_buf) })
}

fn text_chunks(path: &Path, generator: &Generator, scores: &Scores) -> Vec<(String, String)> {
    let source = shown(&path.to_string_lossy());
    let people = format!(
        "{source}: {:.4} bits a code; black 0, white {:.1} or more",
        scores.mean(),
        (generator.config().codes as f64).log2()
    );
    let synth = json!({
        "task": "score",
        "source": source,
        "sha256": generator.sha256(),
        "codec_sha256": generator.codec().sha256(),
        "weights": generator.describe().kept_as,
        "bits_per_code": scores.mean(),
        "grid": [scores.grid.1, scores.grid.0],
        "bits": scores.bits,
        "version": env!("CARGO_PKG_VERSION"),
    });
    vec![("parameters".to_owned(), people), ("synth".to_owned(), synth.to_string())]
}

/// Tells the scores as they come, and their mean.
struct Report<'a> {
    session: &'a Session,
    table: Table,
    started: Instant,
    done: u64,
    failed: u64,
    bits: f64,
    codes: u64,
}

impl<'a> Report<'a> {
    fn new(session: &'a Session, inputs: &[inputs::Input]) -> Self {
        let longest =
            inputs.iter().map(|input| shown(&input.path.to_string_lossy()).chars().count());
        let table = Table::new(vec![
            Column::text("picture", longest.max().unwrap_or(0)),
            Column::number("size", "9999x9999".len()),
            Column::number("bits/code", 0),
            Column::number("bits", "9999999".len()),
            Column::text("map", 0),
        ]);
        if !session.json {
            print_line(&table.header());
        }
        Self { session, table, started: Instant::now(), done: 0, failed: 0, bits: 0.0, codes: 0 }
    }

    fn done(&mut self, path: &Path, scored: &Scored) {
        let Scored { size: (width, height), scores, map } = scored;
        self.done += 1;
        self.bits += scores.total();
        self.codes += scores.bits.len() as u64;
        if self.session.json {
            self.json(json!({
                "type": "picture",
                "source": path,
                "width": width,
                "height": height,
                "grid": [scores.grid.1, scores.grid.0],
                "bits": scores.total(),
                "bits_per_code": scores.mean(),
                "map": map,
            }));
            return;
        }
        let map = map.as_ref().map_or(String::new(), |map| shown(&map.to_string_lossy()));
        print_line(&self.table.line([
            shown(&path.to_string_lossy()),
            format!("{width}x{height}"),
            format!("{:.4}", scores.mean()),
            format!("{:.1}", scores.total()),
            map,
        ]));
    }

    fn failed(&mut self, path: &Path, error: &anyhow::Error) {
        self.failed += 1;
        let (source, error) = (path.to_string_lossy(), shown(&format!("{error:#}")));
        // Most messages begin with the file they are about.
        match error.starts_with(shown(&source).as_str()) {
            true => eprintln!("synth-cli: {error}"),
            false => eprintln!("synth-cli: {}: {error}", shown(&source)),
        }
        if self.session.json {
            self.json(json!({ "type": "failure", "source": source, "error": error }));
        }
    }

    fn json(&self, line: Value) {
        print_line(&line.to_string());
    }

    fn finish(self) -> Outcome {
        let mean = self.bits / self.codes.max(1) as f64;
        let seconds = self.started.elapsed().as_secs_f64();
        if self.session.json {
            self.json(json!({ "type": "summary", "done": self.done, "failed": self.failed,
                              "bits_per_code": mean, "seconds": seconds }));
        } else if self.done > 0 {
            print_line(&format!("mean {mean:.4} bits a code"));
        }
        match (self.done, self.failed) {
            (_, 1..) => Outcome::Failed,
            (0, 0) => Outcome::Nothing,
            _ => Outcome::Done,
        }
    }
}
