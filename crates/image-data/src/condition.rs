//! Depth and label maps, as the reference prepares them for its condition models.

use candle_core::Tensor;
use image::{GrayImage, ImageBuffer, Luma, RgbaImage};

use crate::{Error, Result};

/// A map of one float a pixel.
pub type DepthImage = ImageBuffer<Luma<f32>, Vec<f32>>;

/// Depth stored as the four bytes of a pixel: a little-endian f32
/// (taming `data/utils.py`, `rgba_to_depth`).
pub fn depth_from_rgba(image: &RgbaImage) -> DepthImage {
    DepthImage::from_fn(image.width(), image.height(), |x, y| {
        Luma([f32::from_le_bytes(image.get_pixel(x, y).0)])
    })
}

/// Depth scaled to [-1, 1] by its own range: `2 (d - min) / max(1e-8, max - min) - 1`
/// (taming `data/imagenet.py`, `preprocess_depth`).
///
/// # Errors
/// A value that is not finite: it would spoil the whole map.
pub fn normalize_depth(depth: &mut DepthImage) -> Result<()> {
    if depth.iter().any(|value| !value.is_finite()) {
        return Err(Error::argument("normalize_depth", "a depth is NaN or infinite"));
    }
    let min = depth.iter().copied().fold(f32::INFINITY, f32::min);
    let max = depth.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let range = (max - min).max(1e-8);
    depth.iter_mut().for_each(|value| *value = 2.0 * ((*value - min) / range) - 1.0);
    Ok(())
}

/// Adds 1 to every label; 255, which marks unlabelled pixels, becomes 0
/// (taming `data/coco.py`).
pub fn shift_labels(labels: &mut GrayImage) {
    labels.iter_mut().for_each(|label| *label = label.wrapping_add(1));
}

/// Label maps `[B, H, W]`, u8, as `[B, n, H, W]`, f32: 1 in the channel of the label, 0
/// elsewhere (the reference's `np.eye(n)[labels]`, channels first).
///
/// # Errors
/// A label that is not below `n`; another shape or type.
pub fn one_hot(labels: &Tensor, n: usize) -> Result<Tensor> {
    let (count, height, width) = labels.dims3()?;
    let values = labels.flatten_all()?.to_vec1::<u8>()?;
    if let Some(&label) = values.iter().find(|&&label| usize::from(label) >= n) {
        let reason = format!("label {label} does not fit {n} classes");
        return Err(Error::argument("one_hot", reason));
    }
    let area = height * width;
    let mut data = vec![0_f32; count * n * area];
    for (i, &label) in values.iter().enumerate() {
        let (map, pixel) = (i / area, i % area);
        data[(map * n + usize::from(label)) * area + pixel] = 1.0;
    }
    Ok(Tensor::from_vec(data, (count, n, height, width), labels.device())?)
}

/// The label of each pixel `[B, H, W]`, u8, by its scores `[B, n, H, W]`, f32, n being 1 to
/// 256: the highest, and the lowest label of equal ones. What [`one_hot`] made becomes the
/// labels again.
///
/// # Errors
/// Another shape or type.
pub fn likeliest_labels(scores: &Tensor) -> Result<Tensor> {
    let (count, n, height, width) = scores.dims4()?;
    if n == 0 || n > 256 {
        let reason = format!("{n} channels are not those of 1 to 256 labels");
        return Err(Error::argument("likeliest_labels", reason));
    }
    let values = scores.flatten_all()?.to_vec1::<f32>()?;
    let area = height * width;
    let mut labels = vec![0_u8; count * area];
    let mut best = vec![0_f32; area];
    let maps = labels.chunks_exact_mut(area.max(1));
    for (labels, scores) in maps.zip(values.chunks_exact((n * area).max(1))) {
        best.copy_from_slice(&scores[..area]);
        for (label, scores) in scores.chunks_exact(area).enumerate().skip(1) {
            for ((place, best), &score) in labels.iter_mut().zip(&mut best).zip(scores) {
                if score > *best {
                    (*place, *best) = (label as u8, score);
                }
            }
        }
    }
    Ok(Tensor::from_vec(labels, (count, height, width), scores.device())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn depth_survives_its_bytes() -> anyhow::Result<()> {
        let values = [0.5_f32, -2.0, 7.25, 1e-20];
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let rgba = RgbaImage::from_raw(2, 2, bytes).ok_or_else(|| anyhow::anyhow!("size"))?;
        let mut depth = depth_from_rgba(&rgba);
        assert_eq!(depth.as_raw(), &values);
        normalize_depth(&mut depth)?;
        assert_eq!((depth.as_raw()[1], depth.as_raw()[2]), (-1.0, 1.0));
        let mut flat = DepthImage::from_pixel(2, 1, Luma([3.0]));
        normalize_depth(&mut flat)?;
        assert_eq!(flat.as_raw(), &[-1.0, -1.0]);
        flat.as_mut()[0] = f32::NAN;
        assert!(normalize_depth(&mut flat).is_err());
        Ok(())
    }

    #[test]
    fn labels_shift_and_spread() -> anyhow::Result<()> {
        let mut labels = GrayImage::from_fn(3, 1, |x, _| Luma([[0, 1, 255][x as usize]]));
        shift_labels(&mut labels);
        assert_eq!(labels.as_raw(), &[1, 2, 0]);
        let maps = Tensor::new(&[[[1_u8, 2, 0]], [[0, 0, 1]]], &Device::Cpu)?;
        let hot = one_hot(&maps, 3)?;
        assert_eq!(hot.dims(), [2, 3, 1, 3]);
        assert_eq!(
            hot.squeeze(2)?.to_vec3::<f32>()?,
            [
                [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
                [[1.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
            ]
        );
        assert!(one_hot(&maps, 2).is_err());
        Ok(())
    }

    #[test]
    fn the_likeliest_label_is_the_lowest_of_the_highest() -> anyhow::Result<()> {
        let maps = Tensor::new(&[[[1_u8, 2, 0]], [[0, 0, 1]]], &Device::Cpu)?;
        let again = likeliest_labels(&one_hot(&maps, 3)?)?;
        assert_eq!(again.to_vec3::<u8>()?, maps.to_vec3::<u8>()?);
        let scores = Tensor::new(&[-3_f32, -1.0, 0.0, 5.0, -1.0, 0.0], &Device::Cpu)?;
        // Pixels (-3, 5), (-1, -1), (0, 0), not contiguous.
        let scores = scores.reshape((1, 2, 1, 3))?.transpose(2, 3)?;
        assert_eq!(likeliest_labels(&scores)?.to_vec3::<u8>()?, [[[1], [0], [0]]]);
        let empty = Tensor::zeros((0, 3, 2, 2), candle_core::DType::F32, &Device::Cpu)?;
        assert_eq!(likeliest_labels(&empty)?.dims(), [0, 2, 2]);
        assert!(
            likeliest_labels(&Tensor::zeros(
                (1, 257, 1, 1),
                candle_core::DType::F32,
                &Device::Cpu
            )?)
            .is_err()
        );
        Ok(())
    }
}
