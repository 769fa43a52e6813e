//! A loaded model, ready to use: image to codes to image, condition to codes to image.
//!
//! [`ModelSpec`] says where a model is (our model folder, a reference run
//! folder, a single weights file with its configuration) and [`Codec::load`]
//! turns it into a [`Codec`]: pictures of any size in, codes out, and back.
//! What a published configuration file calls its model is mapped here, in
//! `reference_target`; names and shapes of weights are checked by
//! `checkpoints`; the network itself is `vq-autoencoder`.
//!
//! ```no_run
//! use pipeline::{Codec, LoadOptions, ModelSpec};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let codec = Codec::load(&ModelSpec::new("models/emoji"), &LoadOptions::default())?;
//! let picture = image_data::load_rgb("cat.png".as_ref(), &image_data::Limits::default())?;
//! let codes = codec.encode_images(std::slice::from_ref(&picture))?;
//! let again = codec.decode(&codes, picture.dimensions())?;
//! # Ok(())
//! # }
//! ```
//!
//! [`GeneratorSpec`] says where a transformer is, and [`Generator`] holds it with the
//! codecs of its codes and of its condition: a class, a text, a map, a part of a
//! picture in, codes and pictures of any size out.
//!
//! This crate knows nothing of terminals, and nothing of training.

mod codec;
mod codec_input;
mod convert;
mod description;
mod detect;
mod device;
mod digest;
mod error;
mod families;
mod generator;
mod model_config;
mod model_spec;
mod network;
mod picture;
mod place;
mod reference_target;
mod scorer;
mod transformer_config;
mod transformer_folder;
mod transformer_weights;
mod weights;

pub use checkpoints::Weights;
pub use codebook::CodeGrid;
pub use codec::{Codec, LoadOptions};
pub use codec_input::CodecInput;
pub use cond_transformer::{Progress, Sampling, Stream, Wavefront, WeightFormat};
pub use convert::{
    ConvertOptions, Converted, ConvertedTransformer, Target, convert, convert_transformer,
};
pub use description::Description;
pub use detect::{Detected, Part, detect};
pub use device::{parse_device, parse_dtype};
pub use error::{Error, Result};
pub use families::Family;
pub use generator::{
    Completion, DrawRequest, Front, Generator, GeneratorDescription, GeneratorSpec,
    GuidanceOptions, Keep, PictureCondition, Scores, fit_mask, fit_picture, paste,
};
pub use hub;
pub use image::RgbImage;
pub use model_config::{KIND, model_config, vq_config};
pub use model_spec::ModelSpec;
pub use place::{Pulled, hub_id, locate, pull};
pub use scorer::{Candidate, Likelihood, Scorer};
pub use text_encoder::{TextEncoder, clean_caption};
pub use transformer_config::{
    Architecture, CaptionCondition, ClassCondition, ConditionConfig, CoordinateCondition,
    GridCondition, GridInput, LayoutCondition, SamplingChange, SamplingDefaults, StageRef,
    StartCondition, TRANSFORMER_KIND, TextCondition, TransformerConfig,
};
pub use transformer_folder::{CopyOptions, TransformerFolder, TransformerParts};
pub use transformer_weights::TransformerWeights;
pub use weights::CodecWeights;
