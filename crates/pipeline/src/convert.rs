//! Codecs from one family's files to another's.

mod codes;
mod ours;
mod plain;
mod stage;
mod taming;
mod transformer;

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use checkpoints::model_folder::{ModelFolder, Parts};
use checkpoints::{
    Copies, Derived, TensorFile, atomic_write, check_names, copy_safetensors, copy_torch,
    sha256_file,
};
use cond_transformer::WeightFormat;
use serde_json::{Value, json};
use vq_autoencoder::{Layout, VqConfig};

use self::plain::{CODEBOOK, Plain, UNIT_ROWS};
use crate::digest::codec_sha256;
use crate::error::{Error, Result};
use crate::families::{self, CodecWeights, Family};
use crate::model_config::model_config;
use crate::model_spec::{Found, ModelSpec};
use crate::transformer_config::SamplingChange;
use crate::weights;

pub(crate) use self::codes::check_substitute;
pub(crate) use self::ours::blocks_line;
pub use self::transformer::{ConvertedTransformer, convert_transformer};

/// Whose files are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Target {
    /// Our model folder.
    #[default]
    Ours,
    /// What the program that the names are from reads: `last.ckpt` with `state_dict`
    /// and a project file for taming's, `model.pt` with `model` for LlamaGen's; and
    /// the same as safetensors.
    Reference,
    /// A diffusers `VQModel` folder.
    Diffusers,
}

/// How to convert.
#[derive(Debug, Clone, Default)]
pub struct ConvertOptions {
    /// Whose files are written.
    pub target: Target,
    /// What numbers become; `None` keeps them bit for bit.
    pub dtype: Option<DType>,
    /// What the matrices of a transformer's linear layers are stored in blocks of: q8 or q4.
    /// For our folder; codecs have none.
    pub weights: Option<WeightFormat>,
    /// How a transformer draws where the user says nothing, if otherwise than before. For our
    /// folder.
    pub sampling: SamplingChange,
    /// Whether a model folder that is there is replaced.
    pub replace: bool,
    /// What the user called the model, for the provenance.
    pub source: String,
}

/// What was written.
#[derive(Debug, Clone)]
pub struct Converted {
    /// The files, the weights first.
    pub files: Vec<PathBuf>,
    /// Whose names the source had.
    pub family: Family,
    /// The codec's identity; see `Codec::sha256`. Numbers that were rounded make it
    /// another codec.
    pub sha256: String,
    /// Weights.
    pub parameters: u64,
    /// Tensors of the file that are not the codec's.
    pub left_out: usize,
    /// What is written otherwise than it was, for people.
    pub note: Option<&'static str>,
}

/// Converts the codec of `spec` to files in the folder `out`. The weights are read
/// and written one tensor at a time.
///
/// # Errors
/// When there is no codec, its weights do not fit its configuration, the target has
/// no such codec, something is in the way, or writing fails; nothing is half written.
pub fn convert(spec: &ModelSpec, out: &Path, options: &ConvertOptions) -> Result<Converted> {
    if let Some(format) = options.weights {
        return Err(Error::model(
            &spec.model,
            format!(
                "this is a codec, and {format} is for transformers: codecs stay f32, bf16 or f16 \
                 (--numbers)"
            ),
        ));
    }
    if !options.sampling.is_empty() {
        return Err(Error::model(
            &spec.model,
            format!("this is a codec, which draws nothing: {SAMPLING} are for transformers"),
        ));
    }
    convert_found(&spec.find()?, out, options)
}

/// The options that change how a transformer draws.
const SAMPLING: &str = "--temperature, --top-k, --top-p and --cfg-scale";

/// [`convert`], of a codec that was found.
fn convert_found(found: &Found, out: &Path, options: &ConvertOptions) -> Result<Converted> {
    let expected = weights::expected(&found.config)?;
    let prefix = &found.weights.prefix;
    let prefixed = expected.iter().map(|(name, shape)| (format!("{prefix}{name}"), shape.clone()));
    let prefixed = prefixed.collect();
    let uses = |name: &str| weights::key_use(prefix, name);
    let report = check_names(&found.weights.file, &prefixed, &uses)?;
    let plain = match options.target {
        Target::Ours => None,
        Target::Reference | Target::Diffusers => Plain::of(found)?,
    };
    let (config, mut others) = match &plain {
        None => (&found.config, Vec::new()),
        Some(Plain { config, rows }) => (config, vec![(CODEBOOK.to_owned(), rows.clone())]),
    };
    if options.target == Target::Reference && config.layout == Layout::Taming {
        others.extend(stage::colours(config)?.map(|colours| (stage::COLOURS.to_owned(), colours)));
    }
    let tensors = expected
        .keys()
        .filter(|name| plain.is_none() || *name != CODEBOOK)
        .map(|name| Derived::renamed(&format!("{prefix}{name}"), name));
    let (file, tensors) = (&found.weights.file, tensors.collect());
    let copies = Copies { tensors, others, ..Copies::of_all(file, options.dtype) };
    let sha256 = match &plain {
        None => identity(found, options.dtype)?,
        Some(plain) => plain.identity(found, options.dtype)?,
    };
    let files = match options.target {
        Target::Ours => ours(found, out, copies, options, &sha256)?,
        Target::Reference => reference(config, out, copies, options)?,
        Target::Diffusers => diffusers(config, out, copies, options)?,
    };
    Ok(Converted {
        files,
        note: plain.is_some().then_some(UNIT_ROWS),
        family: found.weights.family,
        sha256,
        parameters: found.config.parameter_count()?,
        left_out: report.ignored_loss + report.ignored_buffers + report.ignored_parts,
    })
}

/// The identity of a codec whose numbers become `dtype`.
pub(crate) fn identity(found: &Found, dtype: Option<DType>) -> Result<String> {
    let expected = weights::expected(&found.config)?;
    let tensors = expected.keys().map(|name| Ok((name.clone(), rounded(found, name, dtype)?)));
    codec_sha256(&found.config, tensors)
}

/// The codec's tensor `name` as it is read when it was stored as `dtype`.
fn rounded(found: &Found, name: &str, dtype: Option<DType>) -> Result<Tensor> {
    let CodecWeights { file, prefix, .. } = &found.weights;
    let tensor = file.tensor(&format!("{prefix}{name}"), &Device::Cpu)?;
    let tensor = match dtype {
        Some(dtype) => tensor.to_dtype(dtype)?,
        None => tensor,
    };
    Ok(tensor.to_dtype(DType::F32)?)
}

/// What weights were before they were converted.
fn converted_from(file: &TensorFile, options: &ConvertOptions) -> Result<Value> {
    Ok(json!({
        "source": options.source,
        "file": file.path().file_name().map(|name| name.to_string_lossy()),
        "sha256": sha256_file(file.path())?,
        "format": file.kind().name(),
        "section": file.section(),
    }))
}

fn ours(
    found: &Found,
    out: &Path,
    copies: Copies,
    options: &ConvertOptions,
    sha256: &str,
) -> Result<Vec<PathBuf>> {
    let file = copies.file;
    let mut from = converted_from(file, options)?;
    from["names"] = found.weights.family.about().into();
    let provenance = json!({
        "converted_from": from,
        "codec_sha256": sha256,
        "numbers": options.dtype.map_or("as in the source", dtype_name),
    });
    let config = model_config(&found.config, &found.input, provenance.clone())?;
    let card = card(&found.config, &provenance);
    let parts = Parts::default();
    let folder = ModelFolder::copy(out, &config, &[copies], &card, parts, options.replace)?;
    Ok(vec![folder.weights, folder.dir.join("config.json"), folder.dir.join("README.md")])
}

fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::BF16 => "bf16",
        DType::F16 => "f16",
        _ => "f32",
    }
}

fn card(config: &VqConfig, provenance: &Value) -> String {
    let from = &provenance["converted_from"];
    let plain = |value: &Value| value.as_str().unwrap_or("-").replace(['|', '\n', '\r'], " ");
    format!(
        "# {name}\n\n\
         A VQGAN first stage: pictures of any size to codes (one per {f}x{f} pixels, {len} codes) \
         and back. Converted by `synth-cli convert`; its makers' licence holds.\n\n\
         | | |\n|---|---|\n\
         | source | {source} |\n\
         | file | {file}, SHA-256 {sha256} |\n\
         | format | {format}: {names} |\n\
         | numbers | {numbers} |\n\
         | codec | {codec} |\n\n\
         ```sh\nsynth-cli reconstruct --model . PICTURE.png --compare\n```\n",
        name = plain(&from["file"]),
        f = config.factor(),
        len = config.quantizer.len(),
        source = plain(&from["source"]),
        file = plain(&from["file"]),
        sha256 = plain(&from["sha256"]),
        format = plain(&from["format"]),
        names = plain(&from["names"]),
        numbers = plain(&provenance["numbers"]),
        codec = plain(&provenance["codec_sha256"]),
    )
}

/// Files for the program whose names the network has.
fn reference(
    config: &VqConfig,
    out: &Path,
    copies: Copies,
    options: &ConvertOptions,
) -> Result<Vec<PathBuf>> {
    let (section, checkpoint) = match config.layout {
        Layout::Taming => ("state_dict", "last.ckpt"),
        Layout::LlamaGen => ("model", "model.pt"),
    };
    let mut files = vec![out.join(checkpoint), out.join("model.safetensors")];
    let project = match config.layout {
        Layout::Taming => Some((out.join("project.yaml"), families::project_file(config)?)),
        Layout::LlamaGen => None,
    };
    files.extend(project.iter().map(|(path, _)| path.clone()));
    prepare(out, &files, options.replace)?;
    let copies = [copies];
    copy_torch(&files[0], section, &copies)?;
    copy_safetensors(&files[1], &copies, [("format".to_owned(), "pt".to_owned())])?;
    if let Some((path, text)) = project {
        atomic_write(&path, |file| file.write_all(text.as_bytes()))?;
    }
    Ok(files)
}

fn diffusers(
    config: &VqConfig,
    out: &Path,
    copies: Copies,
    options: &ConvertOptions,
) -> Result<Vec<PathBuf>> {
    let described = families::diffusers_config(config).map_err(|reason| {
        Error::model(copies.file.path(), format!("{reason}, which diffusers does not have"))
    })?;
    let weights = out.join("diffusion_pytorch_model.safetensors");
    let files = vec![weights.clone(), out.join("config.json")];
    prepare(out, &files, options.replace)?;
    let renamed = copies.tensors.iter().map(|Derived { name, sources, .. }| {
        let dims = sources.first().and_then(|source| copies.file.dims(source)).unwrap_or_default();
        let (name, shape) = families::diffusers_name(name, dims, config.ch_mult.len());
        Derived { name, shape: Some(shape), sources: sources.clone() }
    });
    let renamed = Copies { tensors: renamed.collect(), ..copies };
    copy_safetensors(&weights, &[renamed], [("format".to_owned(), "pt".to_owned())])?;
    let text = format!("{described:#}\n");
    atomic_write(&files[1], |file| file.write_all(text.as_bytes()))?;
    Ok(files)
}

/// Makes the folder, and checks that nothing is in the way.
fn prepare(out: &Path, files: &[PathBuf], replace: bool) -> Result<()> {
    if !replace && let Some(there) = files.iter().find(|path| path.symlink_metadata().is_ok()) {
        return Err(checkpoints::Error::Exists { path: there.clone() }.into());
    }
    std::fs::create_dir_all(out)
        .map_err(|e| Error::model(out, format!("the folder cannot be made: {e}")))
}

#[cfg(test)]
mod tests;
