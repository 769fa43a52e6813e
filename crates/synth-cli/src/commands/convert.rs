//! `convert`: any model to our format, ours to others'.

use std::path::PathBuf;

use anyhow::Result;
use pipeline::{
    ConvertOptions, ConvertedTransformer, GeneratorSpec, ModelSpec, Target, convert,
    convert_transformer, parse_dtype,
};
use serde_json::json;

use crate::args::ConvertArgs;
use crate::exit::Outcome;
use crate::report::print_line;
use crate::session::{Session, read_names};

/// Converts one model.
///
/// # Errors
/// When there is none, its weights do not fit it, or the result cannot be written.
pub fn run(session: &Session, args: &ConvertArgs) -> Result<Outcome> {
    let spec = args.spec();
    let spec = ModelSpec { model: session.locate(&spec.model)?, ..spec };
    let first_stage = |model: &PathBuf| ModelSpec {
        model: model.clone(),
        config: args.first_stage_config.clone(),
        ..ModelSpec::default()
    };
    let transformer = GeneratorSpec {
        model: spec.model.clone(),
        config: spec.config.clone(),
        first_stage: args.first_stage.as_ref().map(first_stage),
        condition_stage: None,
        class_names: args.class_names.as_deref().map(read_names).transpose()?,
    };
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
        weights: args.weights,
        sampling: args.distribution.change(),
        replace: args.force,
        source: args.model.to_string_lossy().into_owned(),
    };
    if transformer.first_stage.is_some() || transformer.is_transformer() {
        let converted = convert_transformer(&transformer, &args.output, &options)?;
        report(session, args, &converted);
        return Ok(Outcome::Done);
    }
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

/// Says what became of a transformer.
fn report(session: &Session, args: &ConvertArgs, converted: &ConvertedTransformer) {
    for note in &converted.notes {
        session.note(note);
    }
    if session.json {
        let line = json!({
            "type": "converted",
            "source": args.model,
            "family": "transformer",
            "files": converted.files,
            "parameters": converted.parameters,
            "notes": converted.notes,
        });
        print_line(&line.to_string());
        return;
    }
    session.note(&format!("transformer of {} weights, with its codecs", converted.parameters));
    for file in &converted.files {
        print_line(&file.display().to_string());
    }
}
