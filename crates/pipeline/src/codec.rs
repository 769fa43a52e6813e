//! Pictures to codes and back, with a model that is loaded.

use candle_core::{DType, Device, Tensor};
use codebook::CodeGrid;
use cond_transformer::WeightFormat;
use image::RgbImage;
use vq_autoencoder::{
    ImageCodec, TileConfig, VqConfig, VqModel, decode_any_size, encode_any_size, grid_size,
};

use crate::codec_input::CodecInput;
use crate::description::Description;
use crate::digest::codec_sha256;
use crate::error::{Error, Result};
use crate::model_spec::{Found, ModelSpec};
use crate::picture::Colour;
use crate::weights;

/// What a tile may take where the user sets no limit. Published models take less
/// than half of it for [`TileConfig::default`].
const DEFAULT_MEMORY: u64 = 4 << 30;

/// How a codec is loaded.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Where it computes.
    pub device: Device,
    /// In what: f32, or half precision where the device has it.
    pub dtype: DType,
    /// The most bytes of activations at a time; larger pictures are processed
    /// in tiles. `None` tiles as [`TileConfig::default`] does, or finer where
    /// that would take more than 4 GiB.
    pub memory: Option<u64>,
    /// What a transformer keeps its weights as; `None` keeps them in `dtype`. Codecs
    /// know nothing of it.
    pub weights: Option<WeightFormat>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { device: Device::Cpu, dtype: DType::F32, memory: None, weights: None }
    }
}

/// The tiles for a model that may take `memory` bytes.
///
/// Without a limit they have a fixed size, so that codes do not depend on the
/// machine; only a model that would take more than [`DEFAULT_MEMORY`] for one
/// of them (attention over very many positions) gets smaller ones.
fn tiles(config: &VqConfig, memory: Option<u64>) -> Result<TileConfig> {
    let default = TileConfig::default();
    let limit = match memory {
        Some(limit) => limit,
        None if config.peak_bytes(default.max_pixels as u64) <= DEFAULT_MEMORY => {
            return Ok(default);
        }
        None => DEFAULT_MEMORY,
    };
    Ok(TileConfig::within(limit, config)?)
}

/// A loaded image codec.
pub struct Codec {
    model: VqModel,
    /// What pictures it takes, or why it takes none.
    colour: std::result::Result<Colour, String>,
    device: Device,
    /// Of pictures and feature maps.
    dtype: DType,
    tiles: TileConfig,
    description: Description,
}

impl Codec {
    /// Finds the model, checks its weights against its configuration, name by
    /// name, and loads it.
    ///
    /// # Errors
    /// When there is no model, it is of a kind that is not known, its weights
    /// do not fit its configuration (one message lists everything), or `memory`
    /// is too little for any tile.
    pub fn load(spec: &ModelSpec, options: &LoadOptions) -> Result<Self> {
        Self::from_found(spec.find()?, options)
    }

    /// Loads a codec whose configuration and weights are found.
    pub(crate) fn from_found(found: Found, options: &LoadOptions) -> Result<Self> {
        let (tensors, report) = weights::load(&found)?;
        let config = found.config.clone();
        let description = Description {
            weights: found.weights.file.path().to_path_buf(),
            origin: found.origin,
            family: found.weights.family,
            format: found.weights.file.kind().name(),
            section: found.weights.file.section().map(str::to_owned),
            sha256: codec_sha256(
                &config,
                tensors.iter().map(|(name, tensor)| Ok((name.clone(), tensor.clone()))),
            )?,
            parameters: config.parameter_count()?,
            input: found.input.clone(),
            factor: config.factor(),
            codes: config.quantizer.len(),
            loss_tensors: report.ignored_loss,
            ignored_tensors: report.ignored_buffers + report.ignored_parts,
            config,
        };
        let tiles = tiles(&found.config, options.memory)?;
        let model = weights::build(&found, tensors, options.dtype, &options.device)?;
        Ok(Self {
            dtype: model.dtype(),
            model,
            colour: Colour::of(&found.config, &found.input).map_err(|error| error.to_string()),
            device: options.device.clone(),
            tiles,
            description,
        })
    }

    /// The architecture.
    pub fn config(&self) -> &VqConfig {
        self.model.config()
    }

    /// The network, for what this crate does not do with it.
    pub fn model(&self) -> &VqModel {
        &self.model
    }

    /// What there is to say about the codec.
    pub fn describe(&self) -> &Description {
        &self.description
    }

    /// The codec's identity: the SHA-256, in lowercase hexadecimal, of its
    /// wiring and weights. It does not depend on the file format, nor on the
    /// device and element type it is loaded with.
    pub fn sha256(&self) -> &str {
        &self.description.sha256
    }

    /// What the codec reads, pictures or maps.
    pub fn input(&self) -> &CodecInput {
        &self.description.input
    }

    /// The device that codes and pictures are computed on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Sides of a picture over sides of its code grid.
    pub fn factor(&self) -> usize {
        self.description.factor
    }

    /// The size `(width, height)` of the code grid of a picture of `(width,
    /// height)` pixels.
    pub fn grid_size(&self, (width, height): (u32, u32)) -> (usize, usize) {
        let (h, w) = grid_size((height as usize, width as usize), self.factor());
        (w, h)
    }

    /// Checks that the codec takes and gives pictures at all.
    ///
    /// # Errors
    /// When it reads maps, or its channels are not those of a picture (a segmentation
    /// model).
    pub fn check_pictures(&self) -> Result<()> {
        self.colour().map(|_| ())
    }

    /// Checks that codes which name `sha256` were made by this codec.
    ///
    /// # Errors
    /// [`Error::OtherCodec`] with both hashes.
    pub fn check_sha256(&self, sha256: &str) -> Result<()> {
        if sha256 == self.sha256() {
            return Ok(());
        }
        Err(Error::OtherCodec { expected: self.sha256().to_owned(), found: sha256.to_owned() })
    }

    /// The codes `[B, ceil(H / f), ceil(W / f)]` of pictures of one size, which
    /// may be any: they are padded to the factor, and tiled when large. A
    /// one-channel codec sees their brightness.
    ///
    /// # Errors
    /// When there are no pictures, their sizes differ, or the codec takes none.
    pub fn encode_images(&self, pictures: &[RgbImage]) -> Result<CodeGrid> {
        self.encode_tensor(&self.batch(pictures)?)
    }

    /// Pictures of one size as the network takes them, `[B, C, H, W]` in `[-1, 1]`.
    pub(crate) fn batch(&self, pictures: &[RgbImage]) -> Result<Tensor> {
        self.colour()?.batch(pictures, self.dtype, &self.device)
    }

    /// The codes `[B, ceil(H / f), ceil(W / f)]` of `[B, C, H, W]` of any size, C
    /// being the network's channels: three for colours in `[-1, 1]`, one for depth,
    /// one a label for a segmentation.
    ///
    /// # Errors
    /// When the shape does not fit the network.
    pub fn encode_tensor(&self, images: &Tensor) -> Result<CodeGrid> {
        let images = images.to_device(&self.device)?.to_dtype(self.dtype)?;
        Ok(encode_any_size(&self.model, &images, &self.tiles)?)
    }

    /// The pictures of `codes`, cropped to `size` = (width, height).
    ///
    /// # Errors
    /// When the grid is not that of a picture of this size, a code is not in
    /// the codebook, or the codec gives no pictures.
    pub fn decode(&self, codes: &CodeGrid, size: (u32, u32)) -> Result<Vec<RgbImage>> {
        let colour = self.colour()?;
        codes.check_below(self.model.codebook_len())?;
        let codes = CodeGrid::new(codes.codes().to_device(&self.device)?)?;
        let size = (size.1 as usize, size.0 as usize);
        colour.pictures(&decode_any_size(&self.model, &codes, size, &self.tiles)?)
    }

    /// What the codec makes of pictures of one size: exactly
    /// [`decode`](Self::decode) of [`encode_images`](Self::encode_images).
    ///
    /// # Errors
    /// As those two.
    pub fn reconstruct(&self, pictures: &[RgbImage]) -> Result<Vec<RgbImage>> {
        let codes = self.encode_images(pictures)?;
        match pictures.first() {
            Some(first) => self.decode(&codes, first.dimensions()),
            None => Ok(Vec::new()),
        }
    }

    fn colour(&self) -> Result<Colour> {
        self.colour.clone().map_err(Error::Pictures)
    }
}
