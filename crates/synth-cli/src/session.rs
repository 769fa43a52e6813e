//! What the common and the model options mean, resolved once.

use anyhow::Result;
use candle_core::{DType, Device};
use pipeline::{Codec, LoadOptions, ModelSpec, parse_device, parse_dtype};

use crate::args::{Common, ModelArgs};

const MIB: u64 = 1 << 20;

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
        let spec = ModelSpec { model: args.model.clone(), config: args.config.clone() };
        self.load_spec(&spec, args.memory)
    }

    /// Loads a model; `memory` is in MiB.
    ///
    /// # Errors
    /// When there is none, or it is not an image codec.
    pub fn load_spec(&self, spec: &ModelSpec, memory: Option<u64>) -> Result<Codec> {
        let options = LoadOptions {
            device: self.device.clone(),
            dtype: self.dtype,
            memory: memory.map(|mib| mib * MIB),
        };
        let codec = Codec::load(spec, &options)?;
        let about = codec.describe();
        if about.loss_tensors > 0 {
            self.note(&format!(
                "{}: {} tensors of the loss module are not needed and not loaded",
                about.weights.display(),
                about.loss_tensors
            ));
        }
        Ok(codec)
    }

    /// Tells the user something that is no result and no error.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            eprintln!("note: {text}");
        }
    }
}
