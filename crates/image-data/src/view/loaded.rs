//! A picture in memory with its maps, before or after resizing.

use image::imageops::FilterType;
use image::{GrayImage, RgbImage};

use super::{ResizeRule, ViewConfig};
use crate::resize::{self, Interpolation, adm};
use crate::{DepthImage, Result};

/// A picture and the maps of its pixels.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub image: RgbImage,
    pub labels: Option<GrayImage>,
    pub depth: Option<DepthImage>,
}

impl Loaded {
    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> u64 {
        let labels = self.labels.as_ref().map_or(0, |map| map.as_raw().len());
        let depth = self.depth.as_ref().map_or(0, |map| 4 * map.as_raw().len());
        (self.image.as_raw().len() + labels + depth) as u64
    }

    /// All of it at `width` x `height`; maps of another extent are brought there too.
    pub(crate) fn resized(self, width: u32, height: u32, view: &ViewConfig) -> Result<Self> {
        let Self { image, labels, depth } = self;
        let image = match image.dimensions() == (width, height) {
            true => image,
            false => resized_picture(&image, width, height, view.resize)?,
        };
        let nearest = |map: GrayImage| match map.dimensions() == (width, height) {
            true => Ok(map),
            false => resize::resize_u8(&map, width, height, Interpolation::Nearest),
        };
        let linear = |map: DepthImage| match map.dimensions() == (width, height) {
            true => Ok(map),
            false => resize::resize_f32(&map, width, height, Interpolation::Linear),
        };
        let labels = labels.map(nearest).transpose()?;
        let depth = depth.map(linear).transpose()?;
        Ok(Self { image, labels, depth })
    }
}

fn resized_picture(
    image: &RgbImage,
    width: u32,
    height: u32,
    rule: ResizeRule,
) -> Result<RgbImage> {
    match rule {
        ResizeRule::Taming => resize::resize_u8(image, width, height, Interpolation::Linear),
        ResizeRule::TamingCubic => resize::resize_u8(image, width, height, Interpolation::Cubic),
        ResizeRule::Adm => adm::shrink(image, width.min(height)),
        ResizeRule::Scales { .. } => {
            Ok(image::imageops::resize(image, width, height, FilterType::Triangle))
        }
    }
}
