//! How far pictures in tiles are from the same pictures whole.
//!
//! ```text
//! cargo run --release -p vq-autoencoder --example seams -- \
//!     MODEL_FOLDER OUT_FOLDER SIDE TILE OVERLAP PICTURE...
//! ```
//!
//! Pictures are scaled and cropped (from the top: sky) to SIDE x SIDE pixels.
//! Printed, for tiles on their own and tiles that know of their picture: how
//! many codes are those of the whole picture; PSNR of the reconstruction against the whole picture's; and the
//! tone step, which is how much the difference to the whole picture's
//! reconstruction changes, on average over bands of 24 pixels, from one side
//! of a border between tiles to the other, in 1/255, everywhere and where the
//! picture is flat. OUT_FOLDER gets the pictures side by side (whole, on
//! their own, as they are), above the same with contrast raised.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use checkpoints::TensorFile;
use checkpoints::model_folder::ModelFolder;
use codebook::CodeGrid;
use image::RgbImage;
use image::imageops::{self, FilterType};
use image_data::{Limits, from_tensor, load_rgb, save_png, to_tensor};
use vq_autoencoder::{ImageCodec, TileConfig, VqConfig, VqModel, decode_any_size, encode_any_size};

/// A codec whose tiles know nothing of each other.
struct Alone<'a>(&'a VqModel);

impl ImageCodec for Alone<'_> {
    fn encode(&self, images: &Tensor) -> vq_autoencoder::Result<CodeGrid> {
        self.0.encode(images)
    }

    fn decode(&self, codes: &CodeGrid) -> vq_autoencoder::Result<Tensor> {
        self.0.decode(codes)
    }

    fn factor(&self) -> usize {
        self.0.factor()
    }

    fn codebook_len(&self) -> usize {
        self.0.codebook_len()
    }
}

/// Pixels on each side of a border over which tones are averaged.
const BAND: usize = 24;
/// A picture is flat where its standard deviation in a band is below this,
/// in 1/255.
const FLAT: f64 = 6.0;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, out, side, tile, overlap, pictures @ ..] = &*args else {
        anyhow::bail!("arguments: MODEL_FOLDER OUT_FOLDER SIDE TILE OVERLAP PICTURE...")
    };
    let (side, tile, overlap) = (side.parse()?, tile.parse()?, overlap.parse()?);
    let model = load(Path::new(model))?;
    let codecs: [(&str, &dyn ImageCodec); 2] = [("alone", &Alone(&model)), ("as they are", &model)];
    let mut table = vec![Row::default(); codecs.len()];
    for path in pictures {
        let path = Path::new(path);
        let picture = square(&load_rgb(path, &Limits::default())?, side);
        let x = to_tensor(&picture, &Device::Cpu)?.unsqueeze(0)?;
        let size = (side as usize, side as usize);
        let codes = encode_any_size(&model, &x, &TileConfig::WHOLE)?;
        let whole = decode_any_size(&model, &codes, size, &TileConfig::WHOLE)?;
        let mut shown = vec![picture_of(&whole)?];
        for ((name, codec), total) in codecs.iter().zip(&mut table) {
            let tiles = TileConfig { max_pixels: 1, tile, overlap };
            let tiled_codes = encode_any_size(*codec, &x, &tiles)?;
            let tiled = decode_any_size(*codec, &tiled_codes, size, &tiles)?;
            let same_codes = decode_any_size(*codec, &codes, size, &tiles)?;
            let (expected, found) = (codes.to_vec()?, tiled_codes.to_vec()?);
            let equal = expected.iter().zip(&found).filter(|(a, b)| a == b);
            let row = Row {
                equal: equal.count() as f64 / expected.len() as f64,
                psnr: psnr(&tiled, &whole)?,
                decoder_psnr: psnr(&same_codes, &whole)?,
                steps: steps(&x, &(&tiled - &whole)?, tile, overlap, model.config().factor())?,
            };
            println!("{}, tiles {name}: {row:?}", path.display());
            total.add(&row, pictures.len());
            shown.push(picture_of(&tiled)?);
        }
        let name = path.file_stem().and_then(|stem| stem.to_str()).context("a picture's name")?;
        let to = Path::new(out).join(format!("{name}.png"));
        save_png(&to, &side_by_side(&shown), &[], true)?;
    }
    for ((name, _), row) in codecs.iter().zip(&table) {
        println!("mean, tiles {name}: {row:?}");
    }
    Ok(())
}

#[derive(Debug, Default, Clone)]
struct Row {
    equal: f64,
    psnr: f64,
    decoder_psnr: f64,
    /// Everywhere, and where it is flat.
    steps: (f64, f64),
}

impl Row {
    fn add(&mut self, other: &Self, of: usize) {
        let n = of as f64;
        self.equal += other.equal / n;
        self.psnr += other.psnr / n;
        self.decoder_psnr += other.decoder_psnr / n;
        self.steps.0 += other.steps.0 / n;
        self.steps.1 += other.steps.1 / n;
    }
}

fn load(folder: &Path) -> Result<VqModel> {
    let folder = ModelFolder::open(folder)?;
    let config: VqConfig = serde_json::from_value(folder.config["architecture"].clone())?;
    let file = TensorFile::open(&folder.weights)?;
    let weights = file
        .names()
        .map(|name| Ok((name.to_owned(), file.tensor(name, &Device::Cpu)?)))
        .collect::<Result<HashMap<_, _>>>()?;
    Ok(VqModel::new(&config, VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu))?)
}

fn square(picture: &RgbImage, side: u32) -> RgbImage {
    let (w, h) = picture.dimensions();
    let scale = f64::from(side) / f64::from(w.min(h));
    let scaled = |len: u32| ((f64::from(len) * scale).round() as u32).max(side);
    let small = imageops::resize(picture, scaled(w), scaled(h), FilterType::Triangle);
    imageops::crop_imm(&small, (small.width() - side) / 2, 0, side, side).to_image()
}

fn picture_of(x: &Tensor) -> Result<RgbImage> {
    Ok(from_tensor(&x.squeeze(0)?)?)
}

fn psnr(a: &Tensor, b: &Tensor) -> Result<f64> {
    let clamp = |x: &Tensor| x.clamp(-1_f32, 1_f32);
    let mse = (clamp(a)? - clamp(b)?)?.sqr()?.mean_all()?.to_scalar::<f32>()?;
    Ok(10.0 * (4.0 / f64::from(mse)).log10())
}

/// The tone step at borders, of `difference` to the whole picture's
/// reconstruction: everywhere, and where `x` is flat.
fn steps(
    x: &Tensor,
    difference: &Tensor,
    tile: usize,
    overlap: usize,
    factor: usize,
) -> Result<(f64, f64)> {
    let side = x.dim(3)?;
    let borders = borders(side / factor, tile / factor, overlap.div_ceil(factor));
    let (mut all, mut flat) = (Vec::new(), Vec::new());
    for border in borders {
        let border = border * factor;
        let fade = overlap / 2;
        for along in (0..side - 2 * BAND + 1).step_by(2 * BAND) {
            for (across, other) in [(2, 3), (3, 2)] {
                let band = |x: &Tensor, from: usize| {
                    x.narrow(across, from, BAND)?.narrow(other, along, 2 * BAND)
                };
                let (before, after) = (border - fade - BAND, border + fade);
                let tone = |from| -> Result<Vec<f32>> {
                    Ok(band(difference, from)?.mean((0, 2, 3))?.to_vec1::<f32>()?)
                };
                let step: f64 = tone(before)?
                    .iter()
                    .zip(tone(after)?)
                    .map(|(a, b)| f64::from((a - b).abs()) * 127.5 / 3.0)
                    .sum();
                let spread = |from| -> Result<f64> {
                    let values = band(x, from)?.mean(1)?.flatten_all()?;
                    Ok(f64::from(values.var(0)?.to_scalar::<f32>()?).sqrt() * 127.5)
                };
                all.push(step);
                if spread(before)?.max(spread(after)?) < FLAT {
                    flat.push(step);
                }
            }
        }
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    Ok((mean(&all), mean(&flat)))
}

/// The cells at which one tile's ownership ends and the next one's begins.
fn borders(len: usize, tile: usize, overlap: usize) -> Vec<usize> {
    let count = (len - overlap).div_ceil(tile - overlap).max(1);
    let tile = (len + (count - 1) * overlap).div_ceil(count);
    let start = |i: usize| i * (len - tile) / (count - 1).max(1);
    (1..count).map(|i| (start(i - 1) + tile + start(i)) / 2).collect()
}

/// The pictures in a row, above the same with contrast raised around the mean
/// of the upper third.
fn side_by_side(pictures: &[RgbImage]) -> RgbImage {
    let (w, h) = pictures[0].dimensions();
    let upper = imageops::crop_imm(&pictures[0], 0, 0, w, h / 3).to_image();
    let mut mean = [0.0_f32; 3];
    for pixel in upper.pixels() {
        for (mean, value) in mean.iter_mut().zip(pixel.0) {
            *mean += f32::from(value) / (w * (h / 3)) as f32;
        }
    }
    let mut sheet = RgbImage::new(w * pictures.len() as u32, 2 * h);
    for (picture, i) in pictures.iter().zip(0_u32..) {
        imageops::replace(&mut sheet, picture, i64::from(i * w), 0);
        let mut raised = picture.clone();
        for pixel in raised.pixels_mut() {
            for (value, mean) in pixel.0.iter_mut().zip(mean) {
                *value = ((f32::from(*value) - mean) * 4.0 + 128.0) as u8;
            }
        }
        imageops::replace(&mut sheet, &raised, i64::from(i * w), i64::from(h));
    }
    sheet
}
