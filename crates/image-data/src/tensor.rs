//! Pictures to tensors and back.

use std::borrow::Borrow;

use candle_core::{DType, Device, Tensor};
use image::RgbImage;

use crate::{Error, Result};

/// `image` as a tensor `[3, H, W]`, f32, `x / 127.5 - 1`: 0..=255 becomes [-1, 1]
/// (taming `data/base.py`).
pub fn to_tensor(image: &RgbImage, device: &Device) -> Result<Tensor> {
    Ok(stack(&[image], device)?.squeeze(0)?)
}

/// Pictures of one size as a tensor `[B, 3, H, W]`, f32 in [-1, 1], as [`to_tensor`].
///
/// # Errors
/// No pictures, or pictures of different sizes.
pub fn stack<I: Borrow<RgbImage>>(images: &[I], device: &Device) -> Result<Tensor> {
    let Some(first) = images.first() else {
        return Err(Error::argument("stack", "no pictures to put in a batch"));
    };
    let (width, height) = first.borrow().dimensions();
    let area = width as usize * height as usize;
    // As the reference: in f64, cast at the end.
    let levels: [f32; 256] = std::array::from_fn(|value| (value as f64 / 127.5 - 1.0) as f32);
    let mut data = vec![0_f32; images.len() * 3 * area];
    for (image, out) in images.iter().zip(data.chunks_exact_mut((3 * area).max(1))) {
        let image: &RgbImage = image.borrow();
        if image.dimensions() != (width, height) {
            let (w, h) = image.dimensions();
            let reason = format!("pictures of {width}x{height} and {w}x{h} in one batch");
            return Err(Error::argument("stack", reason));
        }
        for (i, pixel) in image.chunks_exact(3).enumerate() {
            for (channel, &value) in pixel.iter().enumerate() {
                out[channel * area + i] = levels[usize::from(value)];
            }
        }
    }
    let shape = (images.len(), 3, height as usize, width as usize);
    Ok(Tensor::from_vec(data, shape, device)?)
}

/// How values in [-1, 1] become 0..=255.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quantization {
    /// To the nearest value: `(x + 1) * 127.5`, rounded. The inverse of [`to_tensor`].
    #[default]
    Nearest,
    /// The reference's `custom_to_pil`: `255 * ((x + 1) / 2)`, truncated; half a level
    /// darker on average. For parity only.
    Truncate,
}

/// A tensor `[3, H, W]` (or `[1, H, W]`, shown as gray) in [-1, 1] as a picture:
/// clamped, rounded to nearest. Any float type, any device.
///
/// # Errors
/// Another shape; a value that is NaN.
pub fn from_tensor(tensor: &Tensor) -> Result<RgbImage> {
    from_tensor_with(tensor, Quantization::Nearest)
}

/// As [`from_tensor`], with the formula of choice.
pub fn from_tensor_with(tensor: &Tensor, quantization: Quantization) -> Result<RgbImage> {
    const OP: &str = "from_tensor";
    let (channels, height, width) = match tensor.dims() {
        &[channels @ (1 | 3), height, width] => (channels, height, width),
        dims => {
            let reason = format!("shape {dims:?} is not [3, H, W] or [1, H, W]");
            return Err(Error::argument(OP, reason));
        }
    };
    let side = |n: usize| u32::try_from(n).map_err(|e| Error::argument(OP, e.to_string()));
    let mut image = RgbImage::new(side(width)?, side(height)?);
    let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    if values.iter().any(|value| value.is_nan()) {
        return Err(Error::argument(OP, "the tensor has NaN values: the model's output is broken"));
    }
    let area = width * height;
    for (i, pixel) in image.chunks_exact_mut(3).enumerate() {
        for (channel, out) in pixel.iter_mut().enumerate() {
            let value = values[(channel % channels) * area + i].clamp(-1.0, 1.0);
            *out = match quantization {
                Quantization::Nearest => ((value + 1.0) * 127.5).round() as u8,
                Quantization::Truncate => (255.0 * ((value + 1.0) / 2.0)) as u8,
            };
        }
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_survives_the_round_trip() -> anyhow::Result<()> {
        let image = RgbImage::from_fn(16, 17, |x, y| {
            let v = (y * 16 + x) as u8;
            image::Rgb([v, 255 - v, v / 2])
        });
        let tensor = to_tensor(&image, &Device::Cpu)?;
        assert_eq!(tensor.dims(), [3, 17, 16]);
        assert_eq!(from_tensor(&tensor)?, image);
        let bounds = (tensor.min_all()?.to_scalar::<f32>()?, tensor.max_all()?.to_scalar::<f32>()?);
        assert_eq!(bounds, (-1.0, 1.0));
        Ok(())
    }

    #[test]
    fn clamps_rounds_and_truncates() -> anyhow::Result<()> {
        let x = Tensor::new(&[[[-3.0_f32, 3.0, 0.0, 0.99]]], &Device::Cpu)?;
        assert_eq!(
            from_tensor(&x)?.as_raw().iter().step_by(3).collect::<Vec<_>>(),
            [&0, &255, &128, &254]
        );
        let truncated = from_tensor_with(&x, Quantization::Truncate)?;
        assert_eq!(
            truncated.as_raw().iter().step_by(3).collect::<Vec<_>>(),
            [&0, &255, &127, &253]
        );
        Ok(())
    }

    #[test]
    fn refuses_what_is_no_picture() -> anyhow::Result<()> {
        let nan = Tensor::full(f32::NAN, (3, 2, 2), &Device::Cpu)?;
        assert!(from_tensor(&nan).is_err());
        assert!(from_tensor(&Tensor::zeros((2, 2, 2), DType::F32, &Device::Cpu)?).is_err());
        assert!(stack::<RgbImage>(&[], &Device::Cpu).is_err());
        let sizes = [RgbImage::new(2, 2), RgbImage::new(3, 2)];
        let error = stack(&[&sizes[0], &sizes[1]], &Device::Cpu);
        assert!(error.is_err_and(|e| e.to_string().contains("2x2 and 3x2")));
        Ok(())
    }
}
