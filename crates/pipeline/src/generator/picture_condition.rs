//! Pictures and maps as conditions.

use std::path::Path;

use candle_core::Tensor;
use codebook::CodeGrid;
use image::{GrayImage, ImageBuffer, Pixel, RgbImage};
use image_data::resize::{Interpolation, pillow, resize_f32, resize_u8};
use image_data::{
    DepthImage, Limits, Location, decode_depth, decode_labels, decode_rgb, normalize_depth,
};

use super::{Front, Generator};
use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::transformer_config::{ConditionConfig, GridCondition, GridInput};

/// What a condition's codec is to encode.
#[derive(Clone, Debug)]
pub enum PictureCondition {
    /// A label a pixel.
    Labels(GrayImage),
    /// A distance a pixel, in any unit: each map is scaled by its own range.
    Depth(DepthImage),
    /// A picture, or edges.
    Picture(RgbImage),
    /// `[1, C, H, W]`, exactly as the codec takes it.
    Tensor(Tensor),
}

impl PictureCondition {
    /// Reads the file `path` as a condition of kind `input`.
    ///
    /// # Errors
    /// When it cannot be read, or is of another kind: a label map in colours, say.
    pub fn read(path: &Path, input: GridInput) -> Result<Self> {
        let limits = Limits::default();
        let bytes = Location::File(path.to_path_buf()).read(&limits)?;
        Ok(match input {
            GridInput::Segmentation => Self::Labels(decode_labels(&bytes, path, &limits)?),
            GridInput::Depth => Self::Depth(decode_depth(&bytes, path, &limits)?),
            GridInput::Edges | GridInput::Image => {
                Self::Picture(decode_rgb(&bytes, path, &limits)?)
            }
        })
    }

    /// Width and height.
    ///
    /// # Errors
    /// When a tensor has other dimensions.
    pub fn size(&self) -> Result<(u32, u32)> {
        Ok(match self {
            Self::Labels(map) => map.dimensions(),
            Self::Depth(map) => map.dimensions(),
            Self::Picture(picture) => picture.dimensions(),
            Self::Tensor(tensor) => {
                let (_, _, height, width) = tensor.dims4()?;
                (width as u32, height as u32)
            }
        })
    }

    /// Scaled until it covers `size` = (width, height), and cropped to it about the
    /// middle: labels by the nearest pixel, depth without, pictures with
    /// anti-aliasing.
    ///
    /// # Errors
    /// When a side is 0; a tensor stays as it is.
    pub fn fit(&self, size: (u32, u32)) -> Result<Self> {
        if self.size()? == size {
            return Ok(self.clone());
        }
        let (w, h) = cover(self.size()?, size);
        Ok(match self {
            Self::Labels(map) => {
                Self::Labels(middle(&resize_u8(map, w, h, Interpolation::Nearest)?, size))
            }
            Self::Depth(map) => {
                Self::Depth(middle(&resize_f32(map, w, h, Interpolation::Linear)?, size))
            }
            Self::Picture(picture) => Self::Picture(fit_picture(picture, size)?),
            Self::Tensor(_) => {
                return Err(Error::Condition("a tensor is not scaled".to_owned()));
            }
        })
    }

    /// The codes `[1, H / f, W / f]` that `codec` makes of it, scaled to a square of side
    /// `downsample` first, where there is one, by the nearest pixel (the reference's
    /// `downsample_cond_size`). `names` of labels are for messages.
    ///
    /// # Errors
    /// When `codec` reads something else, or knows fewer labels.
    pub fn encode(
        &self,
        codec: &Codec,
        names: &[String],
        downsample: Option<usize>,
    ) -> Result<CodeGrid> {
        let mut pixels = match self {
            Self::Tensor(tensor) => tensor.clone(),
            Self::Labels(map) => labels(map, names, codec)?,
            Self::Depth(map) => {
                let mut map = map.clone();
                normalize_depth(&mut map)?;
                let (width, height) = map.dimensions();
                let shape = (1, 1, height as usize, width as usize);
                Tensor::from_vec(map.into_raw(), shape, codec.device())?
            }
            Self::Picture(picture) => codec.batch(std::slice::from_ref(picture))?,
        };
        if let Some(side) = downsample {
            pixels = pixels.upsample_nearest2d(side, side)?;
        }
        codec.encode_tensor(&pixels)
    }
}

/// `picture` scaled with anti-aliasing until it covers `size`, and cropped to it about
/// the middle.
///
/// # Errors
/// When a side is 0.
pub fn fit_picture(picture: &RgbImage, size: (u32, u32)) -> Result<RgbImage> {
    if picture.dimensions() == size {
        return Ok(picture.clone());
    }
    let (w, h) = cover(picture.dimensions(), size);
    Ok(middle(&pillow::resize(picture, w, h, pillow::Filter::Bicubic)?, size))
}

/// A mask fitted as the picture it belongs to, by the nearest pixel.
///
/// # Errors
/// When a side is 0.
pub fn fit_mask(mask: &GrayImage, size: (u32, u32)) -> Result<GrayImage> {
    let (w, h) = cover(mask.dimensions(), size);
    Ok(middle(&resize_u8(mask, w, h, Interpolation::Nearest)?, size))
}

/// The size of a picture of `from` scaled until it covers `to`.
fn cover((w, h): (u32, u32), to: (u32, u32)) -> (u32, u32) {
    let scale = (f64::from(to.0) / f64::from(w.max(1))).max(f64::from(to.1) / f64::from(h.max(1)));
    let side = |n: u32, least: u32| ((f64::from(n) * scale).round() as u32).max(least);
    (side(w, to.0), side(h, to.1))
}

/// The middle of an image that covers `size`.
fn middle<P>(
    image: &ImageBuffer<P, Vec<P::Subpixel>>,
    size: (u32, u32),
) -> ImageBuffer<P, Vec<P::Subpixel>>
where
    P: Pixel + 'static,
{
    let (x, y) = ((image.width() - size.0) / 2, (image.height() - size.1) / 2);
    image::imageops::crop_imm(image, x, y, size.0, size.1).to_image()
}

impl Generator {
    /// What kind of picture the condition is, if it is one.
    pub fn condition_input(&self) -> Option<GridInput> {
        match &self.config.condition {
            ConditionConfig::Grid(grid) => Some(grid.input),
            _ => None,
        }
    }

    /// Whether a condition may have another size than the picture that is drawn.
    pub fn condition_is_scaled(&self) -> bool {
        matches!(&self.config.condition, ConditionConfig::Grid(grid) if grid.downsample.is_some())
    }

    /// The condition of a picture or map, for a picture of `grid` = (rows, columns)
    /// codes.
    ///
    /// # Errors
    /// When it is of another kind than the model's, has labels that the model does not
    /// know, or another size than what is drawn.
    pub fn front_of_picture(
        &self,
        picture: &PictureCondition,
        grid: (usize, usize),
    ) -> Result<Front> {
        let ConditionConfig::Grid(condition) = &self.config.condition else {
            return Err(self.wrong_kind("a picture"));
        };
        let codec = self.condition_codec.as_ref().unwrap_or(&self.codec);
        let size = picture.size()?;
        self.check_kind(picture, condition)?;
        let names = condition.labels.as_deref().unwrap_or_default();
        let codes = picture.encode(codec, names, condition.downsample)?;
        let (_, height, width) = codes.dims();
        let wanted = match condition.grid == self.config.grid {
            true => grid,
            false => (condition.grid[0], condition.grid[1]),
        };
        if (height, width) != wanted {
            let factor = codec.factor();
            return Err(Error::Condition(format!(
                "the condition is {}x{} pixels; for this picture it must be {}x{}",
                size.0,
                size.1,
                wanted.1 * factor,
                wanted.0 * factor
            )));
        }
        let tokens = codes.to_vec()?.into_iter().map(|code| code + condition.offset).collect();
        Ok(Front::Grid { height, width, tokens })
    }

    fn check_kind(&self, picture: &PictureCondition, condition: &GridCondition) -> Result<()> {
        match (picture, condition.input) {
            (PictureCondition::Tensor(_), _)
            | (PictureCondition::Labels(_), GridInput::Segmentation)
            | (PictureCondition::Depth(_), GridInput::Depth)
            | (PictureCondition::Picture(_), GridInput::Edges | GridInput::Image) => Ok(()),
            (PictureCondition::Labels(_), _) => Err(self.wrong_kind("a label map")),
            (PictureCondition::Depth(_), _) => Err(self.wrong_kind("a depth map")),
            (PictureCondition::Picture(_), _) => Err(self.wrong_kind("a picture")),
        }
    }
}

/// One channel a label.
fn labels(map: &GrayImage, names: &[String], codec: &Codec) -> Result<Tensor> {
    let known = codec.config().in_channels;
    if let Some(label) = map.iter().find(|&&label| usize::from(label) >= known) {
        let named = match names {
            [] => String::new(),
            names => format!(" ({})", names[..names.len().min(8)].join(", ")),
        };
        return Err(Error::Condition(format!(
            "the label map has label {label}, and this model knows {known}{named}, numbered from 0"
        )));
    }
    let (width, height) = map.dimensions();
    let shape = (1, height as usize, width as usize);
    let map = Tensor::from_slice(map.as_raw(), shape, codec.device())?;
    Ok(image_data::one_hot(&map, known)?)
}

#[cfg(test)]
mod tests {
    use image::{Luma, Rgb};

    use super::*;

    #[test]
    fn pictures_and_maps_cover_and_are_cropped_alike() -> anyhow::Result<()> {
        // Left half 1, right half 2, 40x10: to 10x10, the middle is half and half.
        let map = GrayImage::from_fn(40, 10, |x, _| Luma([1 + u8::from(x >= 20)]));
        let PictureCondition::Labels(fitted) = PictureCondition::Labels(map).fit((10, 10))? else {
            anyhow::bail!("not labels")
        };
        assert_eq!(fitted.dimensions(), (10, 10));
        assert!((0..10).all(|x| fitted.get_pixel(x, 7)[0] == 1 + u8::from(x >= 5)));
        let picture = RgbImage::from_fn(40, 10, |x, _| Rgb([if x < 20 { 9 } else { 200 }; 3]));
        let fitted = fit_picture(&picture, (20, 20))?;
        assert_eq!(fitted.dimensions(), (20, 20));
        assert_eq!((fitted.get_pixel(2, 5)[0], fitted.get_pixel(18, 5)[0]), (9, 200));
        for (from, to) in [((7, 3), (5, 5)), ((1, 1), (640, 480)), ((1000, 999), (16, 16))] {
            let (w, h) = cover(from, to);
            assert!(w >= to.0 && h >= to.1 && (w == to.0 || h == to.1), "{from:?} {to:?}");
        }
        Ok(())
    }
}
