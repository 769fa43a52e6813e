//! From a picture as stored to the square that training sees.

mod cache;
mod geometry;
mod loaded;

use image::imageops;
use serde::{Deserialize, Serialize};

use crate::resize;
use crate::{Error, Limits, Result};

pub(crate) use cache::Cache;
pub(crate) use geometry::Geometry;
pub(crate) use loaded::Loaded;

/// Where the square is cut out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Crop {
    /// In the middle.
    #[default]
    Center,
    /// Anywhere, drawn anew every epoch.
    Random,
}

/// How pictures are brought to size.
///
/// Label maps are resized to the same extent with nearest neighbours, depth maps
/// bilinearly, both as OpenCV does it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResizeRule {
    /// taming: the smaller side to `size` with OpenCV's bilinear interpolation, without
    /// anti-aliasing.
    #[default]
    Taming,
    /// The same with bicubic interpolation: taming's sets with label maps.
    TamingCubic,
    /// LlamaGen: ADM's crops with Pillow's anti-aliased resizing; a random crop also
    /// draws its scale, 0.8 to 1.
    Adm,
    /// Squares out of pictures at many scales, for first stages that must work at any: the
    /// smaller side is drawn from `smallest..=largest`, anti-aliased with a triangle. Centre
    /// crops are of `largest`-sized pictures.
    Scales {
        /// The smallest smaller side, in pixels; what is below `size` (0, the default) is
        /// `size`. With `largest`, all crops are of pictures of that one size.
        #[serde(default)]
        smallest: u32,
        /// The largest smaller side, in pixels; at least `size`.
        largest: u32,
        /// The share of examples whose smaller side is `size` exactly: (nearly) whole
        /// pictures among the details.
        whole: f64,
    },
}

/// How what a catalog lists becomes examples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViewConfig {
    /// Width and height of an example, in pixels.
    pub size: u32,
    /// Where the square is cut out.
    #[serde(default)]
    pub crop: Crop,
    /// Whether examples are mirrored left to right, half of the time.
    #[serde(default)]
    pub flip: bool,
    /// How pictures are brought to size.
    #[serde(default)]
    pub resize: ResizeRule,
    /// Whether labels count from 1 and 255 becomes 0, "unlabelled" (taming's COCO).
    #[serde(default)]
    pub shift_labels: bool,
    /// Bytes of decoded pictures that may be kept in memory; 0 keeps none. Default 256 MiB.
    #[serde(default = "default_cache_bytes")]
    pub cache_bytes: u64,
    /// What a picture may cost.
    #[serde(default)]
    pub limits: Limits,
}

fn default_cache_bytes() -> u64 {
    256 << 20
}

impl ViewConfig {
    /// Centre crops of `size`, nothing random.
    pub fn new(size: u32) -> Self {
        Self {
            size,
            crop: Crop::default(),
            flip: false,
            resize: ResizeRule::default(),
            shift_labels: false,
            cache_bytes: default_cache_bytes(),
            limits: Limits::default(),
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |reason: String| Err(Error::argument("ViewConfig", reason));
        if self.size == 0 {
            return refuse("the size of examples is 0".to_string());
        }
        if let ResizeRule::Scales { smallest, largest, whole } = self.resize {
            if largest < self.size {
                let size = self.size;
                return refuse(format!("the largest side {largest} is below the size {size}"));
            }
            if smallest > largest {
                return refuse(format!(
                    "the smallest side {smallest} is above {largest}, the largest"
                ));
            }
            if !(0.0..=1.0).contains(&whole) {
                return refuse(format!("the share of whole pictures {whole} is not in 0..=1"));
            }
        }
        Ok(())
    }
}

impl Loaded {
    /// The part of the preparation that is the same in every epoch, so that a cache may
    /// keep its result.
    pub(crate) fn prepare(self, view: &ViewConfig) -> Result<Self> {
        match (view.crop, view.resize) {
            (Crop::Center, _) => {
                let geometry = Geometry::center(self.image.dimensions(), view)?;
                self.cut(&geometry, view)
            }
            (Crop::Random, ResizeRule::Taming | ResizeRule::TamingCubic) => {
                let (width, height) = self.image.dimensions();
                let (width, height) = resize::smallest_max_size(width, height, view.size);
                self.resized(width, height, view)
            }
            (Crop::Random, ResizeRule::Adm | ResizeRule::Scales { .. }) => Ok(self),
        }
    }

    /// The square `geometry` out of picture and maps.
    pub(crate) fn cut(self, geometry: &Geometry, view: &ViewConfig) -> Result<Self> {
        let &Geometry { width, height, x, y, size, flip } = geometry;
        let resized = self.resized(width, height, view)?;
        let whole = (width, height) == (size, size);
        let mut cut = match whole {
            true => resized,
            false => Self {
                image: resize::crop(&resized.image, x, y, size)?,
                labels: resized.labels.map(|map| resize::crop(&map, x, y, size)).transpose()?,
                depth: resized.depth.map(|map| resize::crop(&map, x, y, size)).transpose()?,
            },
        };
        if flip {
            imageops::flip_horizontal_in_place(&mut cut.image);
            cut.labels.iter_mut().for_each(imageops::flip_horizontal_in_place);
            cut.depth.iter_mut().for_each(imageops::flip_horizontal_in_place);
        }
        Ok(cut)
    }
}
