//! `convert`: any model to our format, ours to others'.

use anyhow::Result;
use pipeline::{ConvertOptions, ModelSpec, Target, convert, parse_dtype};
use serde_json::json;

use crate::args::ConvertArgs;
use crate::exit::Outcome;
use crate::report::print_line;
use crate::session::Session;

/// Converts one model.
///
/// # Errors
/// When there is none, its weights do not fit it, or the result cannot be written.
pub fn run(session: &Session, args: &ConvertArgs) -> Result<Outcome> {
    let spec = args.spec();
    let spec = ModelSpec { model: session.locate(&spec.model)?, ..spec };
    let options = ConvertOptions {
        target: match args.to.as_str() {
            "ours" => Target::Ours,
            "diffusers" => Target::Diffusers,
            _ => Target::Reference,
        },
        dtype: match args.numbers.as_str() {
            "keep" => None,
            name => Some(parse_dtype(name)?),
        },
        replace: args.force,
        source: args.model.to_string_lossy().into_owned(),
    };
    let converted = convert(&spec, &args.output, &options)?;
    if let Some(note) = converted.note {
        session.note(note);
    }
    if session.json {
        let line = json!({
            "type": "converted",
            "source": args.model,
            "family": converted.family,
            "files": converted.files,
            "codec_sha256": converted.sha256,
            "parameters": converted.parameters,
            "left_out": converted.left_out,
            "note": converted.note,
        });
        print_line(&line.to_string());
    } else {
        session.note(&format!(
            "{}, {} weights; {} tensors of the source are not part of it",
            converted.family.about(),
            converted.parameters,
            converted.left_out
        ));
        for file in &converted.files {
            print_line(&file.display().to_string());
        }
    }
    Ok(Outcome::Done)
}
