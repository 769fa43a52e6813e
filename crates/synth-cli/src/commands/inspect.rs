//! `inspect`: what a model, a codes file or a picture holds.

mod generator;

use std::path::{Path, PathBuf};

use anyhow::Result;
use candle_core::Device;
use checkpoints::TensorFile;
use checkpoints::codes_file::CodesFile;
use checkpoints::model_folder::ModelFolder;
use codebook::CodeUsage;
use image_data::{Limits, load_rgb, png_text};
use pipeline::{CodeGrid, CodecInput, GeneratorSpec, hub_id};
use serde_json::{Value, json};

use crate::args::{GeneratorArgs, InspectArgs};
use crate::exit::{NotFound, Outcome};
use crate::report::print_line;
use crate::session::Session;
use crate::table::shown;

/// How many names of pictures or tensors are shown.
const SHOWN: usize = 8;

/// Tells what each path holds.
///
/// # Errors
/// [`NotFound`] when nothing is there at all.
pub fn run(session: &Session, args: &InspectArgs) -> Result<Outcome> {
    let nowhere = |path: &&PathBuf| !path.exists() && hub_id(path).is_none();
    let missing: Vec<PathBuf> = args.paths.iter().filter(nowhere).cloned().collect();
    if missing.len() == args.paths.len() {
        return Err(NotFound(missing).into());
    }
    let mut outcome = Outcome::Done;
    for path in &args.paths {
        match facts(session, args, path) {
            Ok(facts) => print(session, path, &facts),
            Err(error) => {
                outcome = Outcome::Failed;
                eprintln!("synth-cli: {error:#}");
                if session.json {
                    let error = format!("{error:#}");
                    let line = json!({ "type": "failure", "source": path, "error": error });
                    print_line(&line.to_string());
                }
            }
        }
    }
    Ok(outcome)
}

/// Names and values, in the order they are shown.
type Facts = Vec<(&'static str, Value)>;

fn facts(session: &Session, args: &InspectArgs, path: &Path) -> Result<Facts> {
    let path = &match hub_id(path) {
        Some(_) => session.locate(path)?,
        None if path.exists() => path.to_path_buf(),
        None => return Err(NotFound(vec![path.to_path_buf()]).into()),
    };
    if path.is_dir() {
        return model(session, args, path);
    }
    match TensorFile::open(path) {
        Ok(file) if file.metadata().get("kind").is_some_and(|kind| kind == "synth-codes") => {
            codes(path)
        }
        Ok(file) => match model(session, args, path) {
            Ok(facts) => Ok(facts),
            // Without its configuration a weights file is still a list of tensors.
            Err(error) if args.config.is_none() => weights(session, args, path, &file, &error),
            Err(error) => Err(error),
        },
        Err(weights_error) => match load_rgb(path, &Limits::default()) {
            Ok(picture) => Ok(self::picture(path, picture.dimensions())),
            Err(image_data::Error::UnknownFormat { .. }) => Err(weights_error.into()),
            Err(error) => Err(error.into()),
        },
    }
}

fn model(session: &Session, args: &InspectArgs, path: &Path) -> Result<Facts> {
    let config = if path.is_dir() { None } else { args.config.clone() };
    let spec = GeneratorSpec { config: config.clone(), ..GeneratorSpec::new(path) };
    if spec.is_transformer() {
        let args = GeneratorArgs { config, ..GeneratorArgs::default() };
        return generator::facts(&session.load_generator(path, &args)?);
    }
    let codec = session.load_spec(&args.spec(path), None)?;
    let about = codec.describe();
    let mut facts = vec![
        ("type", json!("model")),
        ("origin", json!(about.origin)),
        ("family", json!(about.family.about())),
        ("format", json!(about.format)),
        ("weights", json!(about.weights)),
        ("sha256", json!(about.sha256)),
        ("parameters", json!(about.parameters)),
        ("factor", json!(about.factor)),
        ("codes", json!(about.codes)),
        ("loss_tensors", json!(about.loss_tensors)),
        ("ignored_tensors", json!(about.ignored_tensors)),
        ("config", serde_json::to_value(&about.config)?),
    ];
    facts.extend(provenance(&about.weights).map(|value| ("provenance", value)));
    if let Some(section) = &about.section {
        facts.insert(4, ("section", json!(section)));
    }
    if about.input != CodecInput::Pictures {
        facts.push(("input", json!(about.input)));
    }
    Ok(facts)
}

/// What the model folder of `weights` says of its training (data, steps, measurements on
/// held-out pictures) or conversion; none where there is no such folder.
fn provenance(weights: &Path) -> Option<Value> {
    let folder = ModelFolder::open(weights.parent()?).ok().filter(|f| f.weights == weights)?;
    stated(&folder.config["provenance"])
}

/// `value` without the fields that say nothing; none if nothing is left.
fn stated(value: &Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::String(text) if text.is_empty() => None,
        Value::Object(fields) => {
            let fields =
                fields.iter().filter_map(|(name, value)| Some((name.clone(), stated(value)?)));
            let fields: serde_json::Map<_, _> = fields.collect();
            (!fields.is_empty()).then_some(Value::Object(fields))
        }
        value => Some(value.clone()),
    }
}

fn codes(path: &Path) -> Result<Facts> {
    let file = CodesFile::read(path)?;
    let (h, w) = file.grid;
    let mut usage = CodeUsage::new(file.codec.codebook_len);
    let shape = (file.items.len(), h, w);
    usage.add(&CodeGrid::from_vec(file.codes.clone(), shape, &Device::Cpu)?)?;
    let names: Vec<_> = file.items.iter().take(SHOWN).map(|item| &item.name).collect();
    Ok(vec![
        ("type", json!("codes")),
        ("pictures", json!(file.items.len())),
        ("grid", json!([w, h])),
        ("codec_kind", json!(file.codec.kind)),
        ("codec_sha256", json!(file.codec.sha256)),
        ("codebook", json!(file.codec.codebook_len)),
        ("factor", json!(file.codec.factor)),
        ("used_fraction", json!(usage.used_fraction())),
        ("perplexity", json!(usage.perplexity())),
        ("first_names", json!(names)),
    ])
}

/// A file of weights that is no codec alone: the models in it, or its names.
fn weights(
    session: &Session,
    args: &InspectArgs,
    path: &Path,
    file: &TensorFile,
    why: &anyhow::Error,
) -> Result<Facts> {
    let about = pipeline::detect(path, args.spec(path).weights)?;
    let mut facts = vec![
        ("type", json!("weights")),
        ("format", json!(about.format)),
        ("tensors", json!(about.tensors)),
        ("elements", json!(about.elements)),
        ("loss_tensors", json!(about.loss_tensors)),
        ("buffers", json!(about.buffers)),
        ("sha256", json!(checkpoints::sha256_file(path)?)),
    ];
    if let Some(section) = about.section {
        facts.insert(2, ("section", json!(section)));
    }
    let blocks = file.blocks()?;
    if !blocks.is_empty() {
        facts.push(("matrices_in_blocks", json!(blocks.len())));
    }
    if session.json {
        facts.push(("parts", json!(about.parts)));
    }
    for part in about.parts.iter().filter(|_| !session.json) {
        let place = if part.place.is_empty() { "all of it" } else { part.place.as_str() };
        facts.push(("model", json!(format!("{} ({place})", part.family.about()))));
        facts.extend(part.architecture.clone().map(|architecture| ("architecture", architecture)));
        facts.extend(part.unclear.clone().map(|reason| ("unclear", json!(reason))));
    }
    if about.parts.is_empty() {
        let names: Vec<_> = file.names().take(SHOWN).collect();
        facts.push(("first_names", json!(names)));
        facts.push(("not_a_known_model", json!(format!("{why:#}"))));
    }
    Ok(facts)
}

fn picture(path: &Path, (width, height): (u32, u32)) -> Facts {
    let mut facts = vec![("type", json!("picture")), ("size", json!([width, height]))];
    // Other formats have no such chunks.
    for (keyword, text) in png_text(path).unwrap_or_default() {
        match keyword.as_str() {
            "parameters" => facts.push(("parameters", json!(text))),
            "synth" => {
                let recipe = serde_json::from_str(&text).unwrap_or(Value::String(text));
                facts.push(("synth", recipe));
            }
            _ => {}
        }
    }
    facts
}

fn print(session: &Session, path: &Path, facts: &Facts) {
    if session.json {
        let mut line = json!({ "source": path });
        for (name, value) in facts {
            line[*name] = value.clone();
        }
        print_line(&line.to_string());
        return;
    }
    print_line(&shown(&path.to_string_lossy()));
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in facts {
        let name = name.replace('_', " ");
        match value {
            Value::Object(fields) => {
                for (i, (field, value)) in fields.iter().enumerate() {
                    let name = if i == 0 { name.as_str() } else { "" };
                    print_line(&format!("  {name:width$}  {} {}", shown(field), plain(value)));
                }
            }
            Value::Array(sides) if matches!(name.as_str(), "grid" | "size") => {
                let sides: Vec<_> = sides.iter().map(plain).collect();
                print_line(&format!("  {name:width$}  {}", sides.join("x")));
            }
            value => print_line(&format!("  {name:width$}  {}", plain(value))),
        }
    }
}

/// A value without JSON's quotes and brackets; fractions to four digits.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => shown(text),
        Value::Number(number) => match number.as_f64() {
            Some(value) if number.is_f64() && value.abs() > 0.01 => {
                ((value * 1e4).round() / 1e4).to_string()
            }
            _ => number.to_string(),
        },
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            let fields =
                fields.iter().map(|(name, value)| format!("{} {}", shown(name), plain(value)));
            fields.collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}
