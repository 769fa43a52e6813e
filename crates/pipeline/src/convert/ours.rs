//! Anybody's transformer as our model folder, its codecs inside.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use checkpoints::model_folder::{ModelFolder, Parts};
use checkpoints::{Copies, Derived, TensorFile};
use cond_transformer::WeightFormat;
use serde_json::{Value, json};

use super::{ConvertOptions, Target, convert_found, converted_from, dtype_name};
use crate::error::{Error, Result};
use crate::generator::{FoundGenerator, Stage};
use crate::network;
use crate::transformer_config::{ConditionConfig, SamplingChange, StageRef, TransformerConfig};

/// Writes the folder; `names` are the network's.
///
/// # Errors
/// When a codec is not to be written, something is in the way, or writing fails; then
/// nothing is written.
pub(super) fn write(
    found: &FoundGenerator,
    file: &TensorFile,
    names: &[String],
    out: &Path,
    options: &ConvertOptions,
) -> Result<Vec<PathBuf>> {
    if !options.replace && out.symlink_metadata().is_ok() {
        return Err(checkpoints::Error::Exists { path: out.to_path_buf() }.into());
    }
    let mut config = found.config.clone();
    config.change_sampling(&options.sampling)?;
    let scratch = Scratch::beside(out)?;
    let stage = |name: &str, stage: &Stage| -> Result<(PathBuf, StageRef)> {
        let folder = scratch.0.join(name);
        let options = ConvertOptions {
            target: Target::Ours,
            replace: false,
            weights: None,
            sampling: SamplingChange::default(),
            ..options.clone()
        };
        let sha256 = convert_found(&stage.found, &folder, &options)?.sha256;
        Ok((folder, StageRef::at(name, sha256)))
    };
    let (first, named) = stage("first_stage", &found.first_stage)?;
    config.first_stage = named;
    let mut condition = None;
    if let (ConditionConfig::Grid(grid), Some(own)) =
        (&mut config.condition, &found.condition_stage)
    {
        let (folder, named) = stage("condition_stage", own)?;
        grid.codec = Some(named);
        condition = Some(folder);
    }
    config.provenance = json!({
        "converted_from": converted_from(file, options)?,
        "numbers": options.dtype.map_or("as in the source", dtype_name),
    });
    config.weights = config.weights.or(options.weights);
    if let Some(format) = config.weights {
        config.provenance["weights"] = format.name().into();
    }
    let blocks = match config.weights {
        Some(format) => network::block_names(&config.architecture, format)?,
        None => BTreeMap::new(),
    };
    let tensors =
        names.iter().map(|name| Derived::renamed(&format!("{}{name}", found.prefix), name));
    let copies =
        Copies { tensors: tensors.collect(), blocks, ..Copies::of_all(file, options.dtype) };
    let parts = Parts {
        tokenizer: found.tokenizer.as_deref(),
        first_stage: Some(&first),
        condition_stage: condition.as_deref(),
        stage_dtype: None,
    };
    let (value, card) = (config.to_value()?, card(&config));
    let folder = ModelFolder::copy(out, &value, &[copies], &card, parts, options.replace)?;
    Ok(vec![folder.weights, folder.dir.join("config.json"), folder.dir.join("README.md")])
}

fn card(config: &TransformerConfig) -> String {
    let from = &config.provenance["converted_from"];
    let plain = |value: &Value| value.as_str().unwrap_or("-").replace(['|', '\n', '\r'], " ");
    format!(
        "# {name}\n\n\
         A transformer that draws {h}x{w} codes of the first stage in `first_stage`; its condition \
         is of kind {kind}. Converted by `synth-cli convert`; its makers' licence holds.\n\n\
         | | |\n|---|---|\n\
         | source | {source} |\n\
         | file | {name}, SHA-256 {sha256} |\n\
         | format | {format} |\n\
         | numbers | {numbers} |\n\n\
         ```sh\nsynth-cli generate --model .\n```\n{blocks}",
        name = plain(&from["file"]),
        h = config.grid[0],
        w = config.grid[1],
        kind = config.condition.kind(),
        source = plain(&from["source"]),
        sha256 = plain(&from["sha256"]),
        format = plain(&from["format"]),
        numbers = plain(&config.provenance["numbers"]),
        blocks = config.weights.map(blocks_line).unwrap_or_default(),
    )
}

/// What a card says of matrices in blocks.
pub(crate) fn blocks_line(format: WeightFormat) -> String {
    format!(
        "\nMatrices of linear layers are stored as {format} (blocks of {bits} bits), for drawing on \
         a CPU. What goes on learning needs the model that they were made of.\n",
        bits = if format == WeightFormat::Q4 { 4 } else { 8 },
    )
}

/// A folder for the codecs until they are copied, gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn beside(out: &Path) -> Result<Self> {
        let name = out.file_name().unwrap_or_default().to_string_lossy();
        let path = out.with_file_name(format!(".{name}.{}.stages", std::process::id()));
        std::fs::create_dir(&path)
            .map_err(|e| Error::model(&path, format!("the folder cannot be made: {e}")))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left of it is in nobody's way, and nothing can be told from here.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
