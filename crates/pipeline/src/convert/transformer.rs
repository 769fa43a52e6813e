//! Transformers over codes, with their codecs, for the programs whose names they have.

use std::path::{Path, PathBuf};

use candle_core::Device;
use checkpoints::{Copies, Derived, TensorFile, atomic_write, copy_safetensors, copy_torch};
use cond_transformer::{GptConfig, LlamaConfig, Order, PrefixConfig};

use super::codes::substituted;
use super::stage::Stage;
use super::{ConvertOptions, SAMPLING, Target, convert_found, ours, prepare, taming};
use crate::error::{Error, Result};
use crate::generator::{
    CONDITION_STAGE, Extra, FIRST_STAGE, FoundGenerator, GeneratorSpec, TRANSFORMER,
};
use crate::network;
use crate::transformer_config::{Architecture, ConditionConfig, StageRef, UNKNOWN};
use crate::transformer_folder::{CopyOptions, TransformerFolder};

/// What was written.
#[derive(Debug, Clone)]
pub struct ConvertedTransformer {
    /// The files, the weights first.
    pub files: Vec<PathBuf>,
    /// Weights of the transformer alone.
    pub parameters: u64,
    /// What is written otherwise than it was, and what whoever reads it must know.
    pub notes: Vec<String>,
}

/// Converts the transformer of `spec` and its codecs to files in the folder `out`: a run
/// folder of taming-transformers, a checkpoint of LlamaGen beside its codec, or our
/// folder. Weights are read and written one tensor at a time.
///
/// # Errors
/// When the target has no such model, the weights do not fit the configuration, a codec
/// that is named in the place of the model's own makes other codes, something is in the way,
/// or writing fails.
pub fn convert_transformer(
    spec: &GeneratorSpec,
    out: &Path,
    options: &ConvertOptions,
) -> Result<ConvertedTransformer> {
    let found = spec.find()?;
    let file = TensorFile::open(&found.weights)?;
    let (tensors, parameters) = names(&found, &file)?;
    check_weights(&found, options)?;
    if !options.sampling.is_empty() && options.target != Target::Ours {
        return Err(Error::model(
            &found.weights,
            format!(
                "{SAMPLING} change the config.json of our format (--to ours); others have none"
            ),
        ));
    }
    let dir = found.weights.parent().unwrap_or(Path::new(""));
    if options.target == Target::Ours && TransformerFolder::is_one(dir) {
        // Ours is copied with its card and all that it says of its training.
        let &ConvertOptions { dtype, weights, replace, .. } = options;
        let copy = CopyOptions {
            dtype,
            weights,
            replace,
            first_stage: spec.first_stage.clone(),
            sampling: options.sampling.clone(),
            class_names: spec.class_names.clone(),
            ..CopyOptions::default()
        };
        let folder = TransformerFolder::open(dir)?.copy(out, &copy)?;
        let files = vec![folder.weights, folder.dir.join("config.json")];
        return Ok(ConvertedTransformer { files, parameters, notes: Vec::new() });
    }
    let found = substituted(found, spec)?;
    match (options.target, &found.config.architecture) {
        (Target::Ours, _) => {
            let files = ours::write(&found, &file, &tensors, out, options)?;
            Ok(ConvertedTransformer { files, parameters, notes: Vec::new() })
        }
        (Target::Diffusers, _) => Err(Error::model(
            &found.weights,
            "diffusers has no such transformer; its first stage alone can be converted (name \
             first_stage/ in this folder)",
        )),
        (Target::Reference, Architecture::Gpt(gpt)) => {
            let (files, notes) = to_taming(&found, gpt, &file, tensors, out, options)?;
            Ok(ConvertedTransformer { files, parameters, notes })
        }
        (Target::Reference, Architecture::Llama(llama)) => {
            let (files, notes) = to_llamagen(&found, llama, &file, tensors, out, options)?;
            Ok(ConvertedTransformer { files, parameters, notes })
        }
    }
}

/// The network's names of the weights, which are all there, and how many numbers they are.
fn names(found: &FoundGenerator, file: &TensorFile) -> Result<(Vec<String>, u64)> {
    let checked = network::check(file, found.prefix, &found.config)?;
    Ok((checked.names().cloned().collect(), checked.report.elements as u64))
}

/// Refuses matrices in blocks where the target has none, or the model has others.
fn check_weights(found: &FoundGenerator, options: &ConvertOptions) -> Result<()> {
    let Some(format) = network::kept_as(&found.config, options.weights)? else { return Ok(()) };
    if options.target != Target::Ours {
        return Err(Error::model(
            &found.weights,
            match found.config.weights {
                Some(_) => format!(
                    "its weights are stored as {format}, which only our format has: convert the \
                     model that they were made of"
                ),
                None => {
                    format!("{format} is for our format (--to ours); others have no such blocks")
                }
            },
        ));
    }
    if format.block().is_none() {
        return Err(Error::model(
            &found.weights,
            format!("{format} is no format of blocks: those are q8 and q4; --numbers {format}"),
        ));
    }
    network::check_format(&found.config.architecture, format, &Device::Cpu)
}

/// A run folder, as the reference's programs look for one.
fn to_taming(
    found: &FoundGenerator,
    gpt: &GptConfig,
    file: &TensorFile,
    names: Vec<String>,
    out: &Path,
    options: &ConvertOptions,
) -> Result<(Vec<PathBuf>, Vec<String>)> {
    let mut config = found.config.clone();
    let first = Stage::new(&found.first_stage.found, 0)?;
    let mut condition = None;
    let mut notes = Vec::new();
    let mut shared = false;
    if let ConditionConfig::Grid(grid) = &mut config.condition {
        let offset = std::mem::take(&mut grid.offset) as usize;
        shared = found.condition_stage.is_none() && offset == 0;
        if !shared {
            let stage = found.condition_stage.as_ref().unwrap_or(&found.first_stage);
            condition = Some(Stage::new(&stage.found, offset)?);
            grid.codec = Some(StageRef::at("condition_stage", UNKNOWN));
        }
        if offset > 0 {
            notes.push(format!(
                "the condition's codes are tokens from {offset} on, and the reference counts codes \
                 from 0: its codec is written with {offset} rows in front that no vector is \
                 nearest to, so that it counts from there"
            ));
        }
    }
    if let ConditionConfig::Class(classes) = &config.condition
        && classes.offset > 0
    {
        notes.push(format!(
            "class n is label {} + n for the reference; the project file lists them",
            classes.offset
        ));
    }
    if first.unit_rows || condition.as_ref().is_some_and(|stage| stage.unit_rows) {
        notes.push(super::plain::UNIT_ROWS.to_owned());
    }
    let extra = Extra {
        condition: config.condition.clone(),
        grid: config.grid,
        sampling: config.sampling.clone(),
    };
    let written = condition.as_ref().map(|stage| &stage.config);
    let project =
        taming::project_file(&found.config, gpt, &first.config, written)? + &extra.lines();

    let tensors = names.iter().map(|name| {
        Derived::renamed(&format!("{}{name}", found.prefix), format!("{TRANSFORMER}{name}"))
    });
    let others = taming::buffers(&config, gpt)?;
    let tensors = tensors.collect();
    let mut copies = vec![Copies { tensors, others, ..Copies::of_all(file, options.dtype) }];
    copies.push(first.copies(FIRST_STAGE, options.dtype)?);
    match &condition {
        Some(stage) => copies.push(stage.copies(CONDITION_STAGE, options.dtype)?),
        // The reference saves the one codec under both names.
        None if shared => copies.push(first.copies(CONDITION_STAGE, options.dtype)?),
        None => {}
    }
    let (configs, checkpoints) = (out.join("configs"), out.join("checkpoints"));
    let files = vec![
        checkpoints.join("last.ckpt"),
        out.join("model.safetensors"),
        configs.join("converted-project.yaml"),
    ];
    prepare(out, &files, options.replace)?;
    for folder in [configs, checkpoints] {
        std::fs::create_dir_all(&folder)
            .map_err(|e| Error::model(folder, format!("the folder cannot be made: {e}")))?;
    }
    copy_torch(&files[0], "state_dict", &copies)?;
    copy_safetensors(&files[1], &copies, [("format".to_owned(), "pt".to_owned())])?;
    atomic_write(&files[2], |file| file.write_all(project.as_bytes()))?;
    Ok((files, notes))
}

/// A checkpoint of the transformer alone, as LlamaGen's are, and its codec beside it.
fn to_llamagen(
    found: &FoundGenerator,
    llama: &LlamaConfig,
    file: &TensorFile,
    names: Vec<String>,
    out: &Path,
    options: &ConvertOptions,
) -> Result<(Vec<PathBuf>, Vec<String>)> {
    let config = &found.config;
    let refuse =
        |reason: String| Err(Error::Target { target: "LlamaGen's GPT".to_owned(), reason });
    let [height, width] = config.grid;
    if config.permuter != Order::Identity {
        return refuse(format!("it draws codes row by row, this model as {:?}", config.permuter));
    }
    if height != width || height * width != llama.block_size {
        return refuse(format!(
            "its grids are squares that fill all positions; this one is {height}x{width}, and the \
             model has {} positions",
            llama.block_size
        ));
    }
    let files = vec![out.join("model.pt"), out.join("model.safetensors")];
    prepare(out, &files, options.replace)?;
    let tensors = names
        .iter()
        .map(|name| Derived::renamed(&format!("{}{name}", found.prefix), name))
        .collect();
    let copies = [Copies { tensors, ..Copies::of_all(file, options.dtype) }];
    let codec = convert_found(&found.first_stage.found, &out.join("first_stage"), options)?;
    copy_torch(&files[0], "model", &copies)?;
    copy_safetensors(&files[1], &copies, [("format".to_owned(), "pt".to_owned())])?;
    let mut notes = vec![model_args(llama, config.codes)];
    notes.extend(codec.note.map(str::to_owned));
    Ok((files.into_iter().chain(codec.files).collect(), notes))
}

/// How the reference builds the network, whose checkpoints do not state it.
fn model_args(llama: &LlamaConfig, codes: usize) -> String {
    let front = match &llama.prefix {
        PrefixConfig::Class { classes } => {
            format!("num_classes={classes}, model_type=\"c2i\", cls_token_num=1")
        }
        PrefixConfig::Caption { positions, dim } => {
            format!("caption_dim={dim}, model_type=\"t2i\", cls_token_num={positions}")
        }
    };
    let none = || "None".to_owned();
    let only = match codes < llama.vocab_size {
        true => format!("; only codes below {codes} may be drawn"),
        false => String::new(),
    };
    format!(
        "build it with Transformer(ModelArgs(dim={}, n_layer={}, n_head={}, n_kv_head={}, \
         multiple_of={}, ffn_dim_multiplier={}, rope_base={:?}, norm_eps={:e}, vocab_size={}, \
         block_size={}, {front})){only}",
        llama.dim,
        llama.n_layer,
        llama.n_head,
        llama.n_kv_head.map_or_else(none, |n| n.to_string()),
        llama.multiple_of,
        llama.ffn_dim_multiplier.map_or_else(none, |n| format!("{n:?}")),
        llama.rope_base,
        llama.norm_eps,
        llama.vocab_size,
        llama.block_size,
    )
}

#[cfg(test)]
#[path = "transformer/tests.rs"]
mod tests;
