//! The golden group `preprocess`: taming's and LlamaGen's preprocessing as OpenCV,
//! Pillow and numpy did it.

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use image::{GrayImage, ImageBuffer, Pixel, RgbImage, RgbaImage};
use image_data::resize::{self, Interpolation, adm};
use image_data::{DepthImage, depth_from_rgba, normalize_depth, one_hot, shift_labels, to_tensor};

fn buffer<P: Pixel>(tensor: &Tensor) -> Result<ImageBuffer<P, Vec<P::Subpixel>>>
where
    P::Subpixel: candle_core::WithDType,
{
    let (height, width) = (tensor.dim(0)?, tensor.dim(1)?);
    ImageBuffer::from_raw(width as u32, height as u32, tensor.flatten_all()?.to_vec1()?)
        .context("size")
}

/// How many samples differ, and the largest difference.
fn difference(actual: &[u8], expected: &Tensor) -> Result<(usize, u8)> {
    let expected = expected.flatten_all()?.to_vec1::<u8>()?;
    ensure!(actual.len() == expected.len(), "{} samples, not {}", actual.len(), expected.len());
    let differences = actual.iter().zip(&expected).map(|(a, e)| a.abs_diff(*e));
    let (count, largest) = differences.fold((0, 0), |(n, m), d| (n + usize::from(d > 0), m.max(d)));
    Ok((count, largest))
}

fn cropped<P: Pixel + 'static>(
    image: &ImageBuffer<P, Vec<P::Subpixel>>,
    size: u32,
) -> Result<ImageBuffer<P, Vec<P::Subpixel>>> {
    let (x, y) = resize::center_origin(image.width(), image.height(), size);
    Ok(resize::crop(image, x, y, size)?)
}

#[test]
fn resizing_matches_opencv_and_pillow() -> Result<()> {
    let Some(group) = golden::group("preprocess")? else { return Ok(()) };
    let inputs = group.inputs()?;
    let outputs = group.expected("outputs.safetensors")?;
    let cases = group.manifest()["config"]["cases"].as_array().context("cases")?;
    for (i, case) in cases.iter().enumerate() {
        let size = case[2].as_u64().context("size")? as u32;
        let input = |name: &str| inputs.get(&format!("{i}/{name}")).context("input");
        let output = |name: &str| outputs.get(&format!("{i}/{name}"));
        let image: RgbImage = buffer(input("image")?)?;
        let labels: GrayImage = buffer(input("labels")?)?;
        let depth: DepthImage = buffer(input("depth")?)?;

        let (w, h) = resize::smallest_max_size(image.width(), image.height(), size);
        ensure!(output("resized_hw")?.to_vec1::<i64>()? == [i64::from(h), i64::from(w)]);

        let linear = cropped(&resize::resize_u8(&image, w, h, Interpolation::Linear)?, size)?;
        let cubic = cropped(&resize::resize_u8(&image, w, h, Interpolation::Cubic)?, size)?;
        let nearest = cropped(&resize::resize_u8(&labels, w, h, Interpolation::Nearest)?, size)?;
        let adm = adm::center_crop(&image, size)?;
        for (name, actual) in [
            ("u8_linear", linear.as_raw()),
            ("u8_cubic", cubic.as_raw()),
            ("nearest", nearest.as_raw()),
            ("adm", adm.as_raw()),
        ] {
            let (count, largest) = difference(actual, output(name)?)?;
            // The notes allow 1 for u8_linear; equal is better.
            ensure!(count == 0, "case {i}, {name}: {count} samples differ, by up to {largest}");
        }

        let depth = cropped(&resize::resize_f32(&depth, w, h, Interpolation::Linear)?, size)?;
        let depth =
            Tensor::from_vec(depth.into_raw(), (size as usize, size as usize), &Device::Cpu)?;
        let expected = output("f32_linear")?;
        let largest = expected.abs()?.max_all()?.to_scalar::<f32>()?;
        golden::close("f32_linear", &depth, expected, f64::from(1e-6 * largest))?;

        let norm = to_tensor(&linear, &Device::Cpu)?.permute((1, 2, 0))?;
        golden::close("norm_linear", &norm, output("norm_linear")?, 0.0)?;
    }
    Ok(())
}

#[test]
fn depth_and_labels_match() -> Result<()> {
    let Some(group) = golden::group("preprocess")? else { return Ok(()) };
    let inputs = group.inputs()?;
    let outputs = group.expected("outputs.safetensors")?;
    let rgba: RgbaImage = buffer(inputs.get("depth_rgba").context("depth_rgba")?)?;
    let mut depth = depth_from_rgba(&rgba);
    let tensor = |depth: &DepthImage| Tensor::new(depth.as_raw().as_slice(), &Device::Cpu);
    golden::close("depth_raw", &tensor(&depth)?, outputs.get("depth_raw")?, 0.0)?;
    normalize_depth(&mut depth)?;
    golden::close("depth_norm", &tensor(&depth)?, outputs.get("depth_norm")?, 0.0)?;

    let mut labels: GrayImage = buffer(inputs.get("seg_with_255").context("seg_with_255")?)?;
    shift_labels(&mut labels);
    let (count, _) = difference(labels.as_raw(), outputs.get("seg_shift")?)?;
    ensure!(count == 0, "{count} labels differ");
    let (width, height) = (labels.width() as usize, labels.height() as usize);
    let maps = Tensor::from_slice(labels.as_raw(), (1, height, width), &Device::Cpu)?;
    let hot = one_hot(&maps, 256)?;
    let back = hot.squeeze(0)?.argmax(0)?.to_dtype(candle_core::DType::U8)?;
    golden::close("one_hot", &back, outputs.get("seg_shift")?, 0.0)?;
    ensure!(hot.sum_all()?.to_scalar::<f32>()? == labels.len() as f32);
    Ok(())
}
