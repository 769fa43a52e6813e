//! What the common and the model options mean, resolved once.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::{DType, Device};
use pipeline::{
    Codec, Generator, GeneratorSpec, LoadOptions, ModelSpec, TextEncoder, parse_device, parse_dtype,
};

use crate::args::{Common, GeneratorArgs, ModelArgs};
use crate::download_bar::DownloadBar;

const MIB: u64 = 1 << 20;

/// The longest file of class names.
const MAX_NAMES_BYTES: u64 = 16 << 20;

/// Where and how to compute, and how to talk about it.
pub struct Session {
    device: Device,
    dtype: DType,
    /// Results as JSON lines.
    pub json: bool,
    /// Nothing but errors on stderr.
    pub quiet: bool,
}

impl Session {
    /// Opens the device.
    ///
    /// # Errors
    /// When there is no such device, or this build cannot use it.
    pub fn new(common: &Common) -> Result<Self> {
        Ok(Self {
            device: parse_device(&common.device)?,
            dtype: parse_dtype(&common.dtype)?,
            json: common.json,
            quiet: common.quiet,
        })
    }

    /// Loads the model that `args` name.
    ///
    /// # Errors
    /// When there is none, or it is not an image codec.
    pub fn load(&self, args: &ModelArgs) -> Result<Codec> {
        self.load_spec(&args.spec(), args.memory)
    }

    /// Loads a model; `memory` is in MiB.
    ///
    /// # Errors
    /// When there is none, or it is not an image codec.
    pub fn load_spec(&self, spec: &ModelSpec, memory: Option<u64>) -> Result<Codec> {
        let spec = ModelSpec { model: self.locate(&spec.model)?, ..spec.clone() };
        let codec = Codec::load(&spec, &self.options(memory))?;
        let about = codec.describe();
        if about.origin != "model folder" {
            let section = about.section.as_deref().map(|s| format!(", `{s}`")).unwrap_or_default();
            self.note(&format!(
                "{}: {}, {} codes, factor {} ({}{section})",
                about.weights.display(),
                about.family.about(),
                about.codes,
                about.factor,
                about.format,
            ));
        }
        if about.loss_tensors > 0 {
            self.note(&format!(
                "{}: {} tensors of the loss module are not needed and not loaded",
                about.weights.display(),
                about.loss_tensors
            ));
        }
        Ok(codec)
    }

    /// Loads the transformer at `model`, with its codecs.
    ///
    /// # Errors
    /// When a part is missing or of another kind.
    pub fn load_generator(&self, model: &Path, args: &GeneratorArgs) -> Result<Generator> {
        let stage = |path: &Option<std::path::PathBuf>, config: Option<&std::path::PathBuf>| {
            let model = path.clone()?;
            Some(ModelSpec { model, config: config.cloned(), ..ModelSpec::default() })
        };
        let spec = GeneratorSpec {
            model: self.locate(model)?,
            config: args.config.clone(),
            first_stage: stage(&args.first_stage, args.first_stage_config.as_ref()),
            condition_stage: stage(&args.condition_stage, None),
            class_names: args.class_names.as_deref().map(read_names).transpose()?,
        };
        let options = LoadOptions { weights: args.weights, ..self.options(args.memory) };
        Ok(Generator::load(&spec, &options)?)
    }

    /// Loads the text encoder that is at `place`.
    ///
    /// # Errors
    /// When there is none, or it is of another kind than the model was trained with.
    pub fn load_text_encoder(&self, place: &Path, generator: &Generator) -> Result<TextEncoder> {
        Ok(generator.text_encoder(&self.locate(place)?)?)
    }

    /// The same, computing in what `name` says.
    ///
    /// # Errors
    /// When it is the name of no element type.
    pub fn with_dtype(&self, name: &str) -> Result<Self> {
        Ok(Self {
            device: self.device.clone(),
            dtype: parse_dtype(name)?,
            json: self.json,
            quiet: self.quiet,
        })
    }

    /// `f32`, `bf16` or `f16`.
    pub fn dtype_name(&self) -> &'static str {
        self.dtype.as_str()
    }

    /// `cpu`, `cuda` or `metal`.
    pub fn device_name(&self) -> &'static str {
        match self.device {
            Device::Cpu => "cpu",
            Device::Cuda(_) => "cuda",
            Device::Metal(_) => "metal",
        }
    }

    fn options(&self, memory: Option<u64>) -> LoadOptions {
        LoadOptions {
            device: self.device.clone(),
            dtype: self.dtype,
            memory: memory.map(|mib| mib * MIB),
            ..LoadOptions::default()
        }
    }

    /// Where a model is: `model` itself, or where the hub's is in the cache, which
    /// is downloaded if it is not there yet.
    ///
    /// # Errors
    /// When it is neither here nor on the hub, or the hub does not answer.
    pub fn locate(&self, model: &Path) -> Result<PathBuf> {
        let mut bar = DownloadBar::new(self.quiet);
        Ok(pipeline::locate(model, &mut bar)?)
    }

    /// Tells the user something that is no result and no error.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            eprintln!("note: {text}");
        }
    }
}

/// Names, one a line.
///
/// # Errors
/// When the file cannot be read, or is too long for names.
pub fn read_names(path: &Path) -> Result<Vec<String>> {
    let about = std::fs::metadata(path).with_context(|| path.display().to_string())?;
    anyhow::ensure!(about.len() <= MAX_NAMES_BYTES, "{}: too long for names", path.display());
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect())
}
