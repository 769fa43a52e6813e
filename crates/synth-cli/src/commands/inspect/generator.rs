//! What a transformer is.

use anyhow::Result;
use pipeline::{Architecture, ConditionConfig, Generator};
use serde_json::{Value, json};

use super::{Facts, SHOWN, provenance, stated};

/// The facts of a transformer and its codecs.
///
/// # Errors
/// When a part of it has no JSON.
pub fn facts(generator: &Generator) -> Result<Facts> {
    let about = generator.describe();
    let config = &about.config;
    let (layout, sizes) = match &config.architecture {
        Architecture::Gpt(sizes) => ("gpt", serde_json::to_value(sizes)?),
        Architecture::Llama(sizes) => ("llama", serde_json::to_value(sizes)?),
    };
    let mut facts = vec![
        ("type", json!("generator")),
        ("origin", json!(about.origin)),
        ("weights", json!(about.weights)),
        ("sha256", json!(about.sha256)),
        ("codec_sha256", json!(about.codec_sha256)),
    ];
    if let Some(sha256) = &about.condition_codec_sha256 {
        facts.push(("condition_codec_sha256", json!(sha256)));
    }
    facts.extend([
        ("parameters", json!(about.parameters)),
        ("kept_as", json!(about.kept_as)),
        ("factor", json!(about.factor)),
        ("codes", json!(config.codes)),
        ("size", json!([about.size.0, about.size.1])),
        ("grid", json!([config.grid[1], config.grid[0]])),
        ("order", serde_json::to_value(config.permuter)?),
        ("condition", json!(config.condition.kind())),
    ]);
    facts.extend(condition(&config.condition));
    facts.extend([
        ("sampling", serde_json::to_value(&config.sampling)?),
        ("layout", json!(layout)),
        ("config", sizes),
        ("provenance", stated(&config.provenance).unwrap_or_default()),
        ("first_stage", provenance(&generator.codec().describe().weights).unwrap_or_default()),
    ]);
    Ok(facts.into_iter().filter(|(_, value)| !value.is_null()).collect())
}

/// What a user must know to give a condition.
fn condition(condition: &ConditionConfig) -> Facts {
    let names = |names: &[String]| -> Value {
        let shown: Vec<_> = names.iter().take(SHOWN).collect();
        json!(shown)
    };
    match condition {
        ConditionConfig::Class(classes) => vec![
            ("classes", json!(classes.names.len())),
            ("first_names", names(&classes.names)),
            ("guidance", json!(classes.null.is_some())),
        ],
        ConditionConfig::Grid(grid) => vec![
            ("input", json!(grid.input)),
            ("condition_grid", json!(grid.grid)),
            ("first_names", grid.labels.as_deref().map_or(Value::Null, names)),
            ("guidance", json!(grid.null.is_some())),
        ],
        ConditionConfig::Layout(layout) => vec![
            ("categories", json!(layout.names.len())),
            ("first_names", names(&layout.names)),
            ("objects", json!(layout.tokens.max_objects)),
        ],
        ConditionConfig::Text(text) => {
            vec![("text_tokens", json!(text.tokens)), ("guidance", json!(text.null.is_some()))]
        }
        ConditionConfig::Caption(caption) => vec![("text_encoder", json!(caption.encoder))],
        ConditionConfig::Start(_) | ConditionConfig::Coordinates(_) => Vec::new(),
    }
}
