//! 8-bit pictures to what a codec takes, and what it gives to pictures.

use candle_core::{DType, Device, Tensor};
use image::{DynamicImage, RgbImage};
use image_data::{from_tensor, stack};
use vq_autoencoder::VqConfig;

use crate::codec_input::CodecInput;
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
    /// The pictures of a model of `config` that reads `input`.
    ///
    /// # Errors
    /// When it reads maps, or its channels are neither colours nor brightness.
    pub(crate) fn of(config: &VqConfig, input: &CodecInput) -> Result<Self> {
        const INSTEAD: &str = "It serves as the condition of a transformer (synth-cli generate \
                               --condition MAP). For pictures use a model with 3 channels (RGB) \
                               or 1 (gray)";
        let refuse = |what: String| Err(Error::Pictures(format!("{what}. {INSTEAD}")));
        match (input, config.in_channels, config.out_channels) {
            (CodecInput::Pictures, 3, 3) => Ok(Self::Rgb),
            (CodecInput::Pictures, 1, 1) => Ok(Self::Gray),
            (CodecInput::Depth, ..) => refuse(
                "this model reads depth maps, each scaled to its own range, not pictures"
                    .to_owned(),
            ),
            (_, from, to) if from == to => refuse(format!(
                "this is a segmentation model: it reads label maps ({from} labels, a channel each), not \
                 pictures"
            )),
            (_, from, to) => Err(Error::Pictures(format!(
                "this model takes {from} channels and gives {to}: it cannot take or give \
                 pictures; use one with 3 channels (RGB) or 1 (gray)"
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
    fn maps_are_no_pictures() {
        let channels = |n| VqConfig {
            in_channels: n,
            out_channels: n,
            ..VqConfig::preset("imagenet-f16-1024").unwrap()
        };
        let refused = |n, input: CodecInput| Colour::of(&channels(n), &input).unwrap_err();
        assert_eq!(Colour::of(&channels(1), &CodecInput::Pictures).ok(), Some(Colour::Gray));
        for labels in [
            refused(27, CodecInput::Pictures),
            refused(27, CodecInput::Labels(Vec::new())),
            // As many labels as colours.
            refused(3, CodecInput::Labels(Vec::new())),
        ] {
            assert!(labels.to_string().contains("reads label maps"), "{labels}");
        }
        assert!(refused(1, CodecInput::Depth).to_string().contains("depth maps"));
    }

    #[test]
    fn batches_that_are_none() {
        let sizes = [RgbImage::new(4, 4), RgbImage::new(4, 5)];
        assert!(Colour::Rgb.batch(&[], DType::F32, &Device::Cpu).is_err());
        assert!(Colour::Rgb.batch(&sizes, DType::F32, &Device::Cpu).is_err());
    }
}
