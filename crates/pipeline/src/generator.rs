//! A condition to codes to a picture, with a transformer and its codecs.

mod captions;
mod completion;
mod draw;
mod find;
mod front;
mod layout;
mod llamagen;
mod picture_condition;
mod reference;
mod reference_extra;
mod score;

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use checkpoints::TensorFile;
use codebook::CodeGrid;
use cond_transformer::{Order, Permuter, WeightFormat};
use image::RgbImage;
use serde::Serialize;

pub use completion::{Completion, Keep, paste};
pub use draw::{DrawRequest, GuidanceOptions};
pub use find::GeneratorSpec;
pub use front::Front;
pub use picture_condition::{PictureCondition, fit_mask, fit_picture};
pub use score::Scores;

pub(crate) use self::find::{FoundGenerator, Stage};
pub(crate) use self::reference::{CONDITION_STAGE, FIRST_STAGE, TRANSFORMER};
pub(crate) use self::reference_extra::Extra;
use text_tokens::TextTokenizer;

use crate::codec::{Codec, LoadOptions};
use crate::error::{Error, Result};
use crate::network::{self, Network};
use crate::transformer_config::{ConditionConfig, TransformerConfig};

/// A loaded transformer with the codecs of its codes and of its condition.
pub struct Generator {
    network: Network,
    config: TransformerConfig,
    permuter: Permuter,
    codec: Codec,
    condition_codec: Option<Codec>,
    tokenizer: Option<TextTokenizer>,
    about: GeneratorDescription,
}

/// A generator in words and numbers, for people and for JSON.
#[derive(Debug, Clone, Serialize)]
pub struct GeneratorDescription {
    /// The file of the transformer's weights.
    pub weights: PathBuf,
    /// What kind of place it was found in.
    pub origin: &'static str,
    /// The transformer's identity; see [`Generator::sha256`].
    pub sha256: String,
    /// The identity of the codec of its codes.
    pub codec_sha256: String,
    /// The identity of the codec of its condition, where it has one of its own.
    pub condition_codec_sha256: Option<String>,
    /// Weights of the transformer.
    pub parameters: u64,
    /// What its weights are kept as; none: as the numbers that all is computed in.
    pub kept_as: Option<WeightFormat>,
    /// Sides of a picture over sides of its code grid.
    pub factor: usize,
    /// Width and height in pixels of what it was trained on.
    pub size: (u32, u32),
    /// Tensors in the file that are not the transformer's.
    pub ignored_tensors: usize,
    /// What it is.
    pub config: TransformerConfig,
}

impl Generator {
    /// Finds the model and its codecs, checks weights against configurations and
    /// codecs against the identities that the transformer was trained with, and
    /// loads all of it. Codecs are in `dtype` whatever `weights` are.
    ///
    /// # Errors
    /// When a part is missing, of another kind, or another codec than stated; when the
    /// device or the model cannot have weights of this format.
    pub fn load(spec: &GeneratorSpec, options: &LoadOptions) -> Result<Self> {
        let found = spec.find()?;
        if spec.first_stage.is_some() && found.first_stage_inside().is_some() {
            return Err(Error::model(
                found.weights,
                "this file holds its first stage: leave --first-stage out (`synth-cli convert` takes \
                 it, for another decoder of the same codes)",
            ));
        }
        let FoundGenerator {
            mut config,
            weights,
            prefix,
            origin,
            first_stage,
            condition_stage,
            tokenizer,
        } = found;
        let kept_as = network::kept_as(&config, options.weights)?;
        if let Some(format) = kept_as {
            network::check_format(&config.architecture, format, &options.device)?;
        }
        let codec = load_codec(first_stage, options, "first stage")?;
        let condition_codec = condition_stage
            .map(|stage| load_codec(stage, options, "condition stage"))
            .transpose()?;
        config.first_stage.codec_sha256 = codec.sha256().to_owned();
        if let (ConditionConfig::Grid(grid), Some(codec)) =
            (&mut config.condition, &condition_codec)
            && let Some(stage) = &mut grid.codec
        {
            stage.codec_sha256 = codec.sha256().to_owned();
        }
        check_codecs(&config, &codec, condition_codec.as_ref(), &weights)?;

        let file = TensorFile::open(&weights)?;
        let permuter = permuter(&config, &file)?;
        let (tensors, report) = network::load(&file, prefix, &config)?;
        let sha256 = network::transformer_sha256(&config, permuter.forward(), &tensors)?;
        let options = LoadOptions { weights: kept_as, ..options.clone() };
        let network = network::build(&config.architecture, tensors, &options)?;
        let place = weights.with_file_name("tokenizer.json");
        let tokenizer = tokenizer.map(|bytes| TextTokenizer::new(&bytes, &place)).transpose()?;
        let factor = codec.factor();
        let [height, width] = config.grid;
        let about = GeneratorDescription {
            weights,
            origin,
            sha256,
            codec_sha256: codec.sha256().to_owned(),
            condition_codec_sha256: condition_codec.as_ref().map(|codec| codec.sha256().to_owned()),
            parameters: report.elements as u64,
            kept_as,
            factor,
            size: ((width * factor) as u32, (height * factor) as u32),
            ignored_tensors: report.ignored_loss + report.ignored_buffers + report.ignored_parts,
            config: config.clone(),
        };
        Ok(Self { network, config, permuter, codec, condition_codec, tokenizer, about })
    }

    /// What it is.
    pub fn config(&self) -> &TransformerConfig {
        &self.config
    }

    /// What there is to say about it.
    pub fn describe(&self) -> &GeneratorDescription {
        &self.about
    }

    /// The codec of its codes.
    pub fn codec(&self) -> &Codec {
        &self.codec
    }

    /// The transformer's identity: the SHA-256 of its wiring and weights, whatever
    /// the file format, the device and the element type.
    pub fn sha256(&self) -> &str {
        &self.about.sha256
    }

    /// Width and height in pixels of what it was trained on.
    pub fn training_size(&self) -> (u32, u32) {
        self.about.size
    }

    /// Height and width of the code grid of a picture of `(width, height)` pixels.
    ///
    /// # Errors
    /// When the model cannot draw such a grid, saying which sizes it can.
    pub fn grid_of(&self, (width, height): (u32, u32)) -> Result<(usize, usize)> {
        let (columns, rows) = self.codec.grid_size((width, height));
        let [h, w] = self.config.grid;
        let training = self.training_size();
        if (rows, columns) == (h, w) {
            return Ok((h, w));
        }
        if rows < h || columns < w {
            return Err(Error::Condition(format!(
                "{width}x{height} pixels are less than the {}x{} that this model was trained on; \
                 it draws that or more",
                training.0, training.1
            )));
        }
        let only = |why: &str| {
            Err(Error::Condition(format!(
                "this model draws {}x{} pixels only: {why}; leave --width and --height out",
                training.0, training.1
            )))
        };
        match &self.config.condition {
            _ if self.config.permuter != Order::Identity => {
                only("its codes come in an order of their own")
            }
            ConditionConfig::Grid(grid) if grid.grid != self.config.grid => {
                only("its condition has another grid than its codes")
            }
            _ => Ok((rows, columns)),
        }
    }

    /// The pictures of `codes`, cropped to `size` = (width, height), tiled when
    /// large.
    ///
    /// # Errors
    /// When the grid is not that of a picture of this size.
    pub fn decode(&self, codes: &CodeGrid, size: (u32, u32)) -> Result<Vec<RgbImage>> {
        self.codec.decode(codes, size)
    }

    /// The device of the transformer.
    fn device(&self) -> &Device {
        self.network.model().device()
    }

    /// Refuses a condition of another kind than the model's.
    fn wrong_kind(&self, given: &str) -> Error {
        let wants = match &self.config.condition {
            ConditionConfig::Start(_) => "nothing (it is unconditional)",
            ConditionConfig::Class(_) => "a class (--class)",
            ConditionConfig::Grid(grid) => match grid.input {
                crate::GridInput::Segmentation => "a label map (--condition FILE)",
                crate::GridInput::Depth => "a depth map (--condition FILE)",
                crate::GridInput::Edges => "a picture of edges (--condition FILE)",
                crate::GridInput::Image => "a picture (--condition FILE)",
            },
            ConditionConfig::Coordinates(_) => "nothing (it knows where each part lies)",
            ConditionConfig::Layout(_) => "a layout of objects (--condition FILE.json)",
            ConditionConfig::Text(_) => "a text (--prompt)",
            ConditionConfig::Caption(_) => {
                "a caption (--prompt TEXT --text-encoder DIR, or its embeddings: --condition \
                 FILE.safetensors)"
            }
        };
        Error::Condition(format!("this model takes {wants} as its condition, not {given}"))
    }
}

/// Loads a codec and checks that it is the one that was stated.
fn load_codec(stage: Stage, options: &LoadOptions, what: &str) -> Result<Codec> {
    let place = stage.found.weights.file.path().to_path_buf();
    let codec = Codec::from_found(stage.found, options)?;
    match stage.sha256 {
        Some(stated) if stated != codec.sha256() => Err(Error::model(
            place,
            format!(
                "this is not the {what} that the transformer was trained with: it has sha256 {}, \
                 and {stated} was; its codes would mean something else",
                codec.sha256()
            ),
        )),
        _ => Ok(codec),
    }
}

/// Checks that codes and condition codes have tokens, and that grids agree.
fn check_codecs(
    config: &TransformerConfig,
    codec: &Codec,
    condition: Option<&Codec>,
    weights: &Path,
) -> Result<()> {
    codec.check_pictures()?;
    check_codes(config, codec.describe().codes, weights)?;
    let ConditionConfig::Grid(grid) = &config.condition else { return Ok(()) };
    let condition = condition.unwrap_or(codec);
    let (own, offset) = (condition.describe().codes, grid.offset as usize);
    let vocabulary = config.architecture.vocabulary();
    if offset.saturating_add(own) > vocabulary {
        return Err(Error::model(
            weights,
            format!(
                "its condition's {own} codes from {offset} on do not fit a vocabulary of \
                 {vocabulary}"
            ),
        ));
    }
    if grid.grid == config.grid && grid.downsample.is_none() && condition.factor() != codec.factor()
    {
        return Err(Error::model(
            weights,
            format!(
                "one code of its condition stands for {0}x{0} pixels, one of its pictures for \
                 {1}x{1}",
                condition.factor(),
                codec.factor()
            ),
        ));
    }
    Ok(())
}

/// Checks that a codec of so many `codes` has all that the transformer draws.
pub(crate) fn check_codes(config: &TransformerConfig, codes: usize, weights: &Path) -> Result<()> {
    if config.codes > codes {
        return Err(Error::model(
            weights,
            format!("it draws {} codes, but its codec has only {codes}", config.codes),
        ));
    }
    Ok(())
}

/// The order of the codes: that of the checkpoint where it holds one (the
/// reference's buffer), else the configuration's.
fn permuter(config: &TransformerConfig, file: &TensorFile) -> Result<Permuter> {
    const BUFFER: &str = "permuter.forward_shuffle_idx";
    let stated = config.permuter()?;
    if file.shape(BUFFER).is_none() {
        return Ok(stated);
    }
    let stored = file.tensor(BUFFER, &Device::Cpu)?.to_dtype(DType::U32)?;
    let stored = Permuter::from_forward(stored.flatten_all()?.to_vec1()?)?;
    if stored != stated {
        return Err(Error::model(
            file.path(),
            format!(
                "its permuter is not {:?} of a grid of {}x{}, as its configuration says",
                config.permuter, config.grid[0], config.grid[1]
            ),
        ));
    }
    Ok(stored)
}
