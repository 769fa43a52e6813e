//! 8-bit pictures to what a codec takes, and what it gives to pictures.

use candle_core::{DType, Device, Tensor};
use image::{DynamicImage, RgbImage};
use image_data::{from_tensor, stack};
use vq_autoencoder::VqConfig;

use crate::error::{Error, Result};

/// The pictures that a codec takes and gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    /// Three channels.
    Rgb,
    /// One channel: brightness in, three equal channels out.
    Gray,
}

impl Colour {
    /// The pictures of a model of `config`.
    ///
    /// # Errors
    /// When its channels are neither colours nor brightness.
    pub(crate) fn of(config: &VqConfig) -> Result<Self> {
        match (config.in_channels, config.out_channels) {
            (3, 3) => Ok(Self::Rgb),
            (1, 1) => Ok(Self::Gray),
            (from, to) => Err(Error::Pictures(format!(
                "this model takes {from} channels and gives {to} (a segmentation model has one \
                 per label): it cannot take or give pictures; use one with 3 channels (RGB) or 1 \
                 (gray)"
            ))),
        }
    }

    /// Pictures of one size as `[B, C, H, W]` in `[-1, 1]`, C being 3 or 1.
    ///
    /// # Errors
    /// When there is none, or sizes differ.
    pub(crate) fn batch(
        self,
        pictures: &[RgbImage],
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let batch = match self {
            Self::Rgb => stack(pictures, device)?,
            Self::Gray => {
                let gray: Vec<_> = pictures.iter().map(gray).collect();
                stack(&gray, device)?.narrow(1, 0, 1)?
            }
        };
        Ok(batch.to_dtype(dtype)?)
    }

    /// The pictures of `[B, C, H, W]`; values beyond `[-1, 1]` are clamped.
    pub(crate) fn pictures(self, batch: &Tensor) -> Result<Vec<RgbImage>> {
        let batch = batch.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
        (0..batch.dim(0)?).map(|i| Ok(from_tensor(&batch.get(i)?)?)).collect()
    }
}

/// The same brightness in all three channels.
fn gray(picture: &RgbImage) -> RgbImage {
    DynamicImage::ImageLuma8(DynamicImage::ImageRgb8(picture.clone()).into_luma8()).into_rgb8()
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn there_and_back() -> anyhow::Result<()> {
        let picture = RgbImage::from_fn(5, 3, |x, y| Rgb([x as u8 * 50, y as u8 * 90, 7]));
        let pictures = [picture.clone(), picture];
        let batch = Colour::Rgb.batch(&pictures, DType::F32, &Device::Cpu)?;
        assert_eq!(batch.dims(), [2, 3, 3, 5]);
        assert_eq!(Colour::Rgb.pictures(&batch)?, pictures);

        let batch = Colour::Gray.batch(&pictures, DType::F32, &Device::Cpu)?;
        assert_eq!(batch.dims(), [2, 1, 3, 5]);
        let back = Colour::Gray.pictures(&batch)?;
        assert!(back[0].pixels().all(|p| p[0] == p[1] && p[1] == p[2]));
        assert_eq!(back[0], gray(&pictures[0]));
        Ok(())
    }

    #[test]
    fn batches_that_are_none() {
        let sizes = [RgbImage::new(4, 4), RgbImage::new(4, 5)];
        assert!(Colour::Rgb.batch(&[], DType::F32, &Device::Cpu).is_err());
        assert!(Colour::Rgb.batch(&sizes, DType::F32, &Device::Cpu).is_err());
    }
}
