//! Tiles that know of their picture, against tiles that do not, with a network
//! whose weights are random.

use anyhow::Result;
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use codebook::{CodeGrid, QuantizerConfig};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vq_autoencoder::{
    ImageCodec, Layout, TileConfig, VqConfig, VqModel, decode_any_size, encode_any_size,
    reconstruct_any_size,
};

const TILES: TileConfig = TileConfig { max_pixels: 64 * 64, tile: 64, overlap: 16 };
/// Width and height of the picture: three tiles by three.
const SIDE: usize = 128;

/// Weights from the tensors' names.
struct Random;

impl SimpleBackend for Random {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let seed = name.bytes().fold(7_u64, |hash, byte| hash * 31 % 0xffff_ffff + u64::from(byte));
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let fan_in = shape.elem_count() / shape.dims().first().copied().unwrap_or(1);
        let reach = (3.0 / fan_in as f64).sqrt();
        let value = |rng: &mut ChaCha8Rng| match init {
            Init::Const(value) => value,
            _ => reach * (2.0 * rng.random::<f64>() - 1.0),
        };
        let values: Vec<f32> = (0..shape.elem_count()).map(|_| value(&mut rng) as f32).collect();
        Tensor::from_vec(values, shape, device)?.to_dtype(dtype)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("{name} has no shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

fn model() -> Result<VqModel> {
    let quantizer = QuantizerConfig::Normalized { len: 64, dim: 4, beta: 0.25, entropy_ratio: 0.0 };
    let config = VqConfig {
        layout: Layout::Taming,
        in_channels: 3,
        out_channels: 3,
        ch: 32,
        ch_mult: vec![1, 1, 2],
        num_res_blocks: 1,
        attn_resolutions: Vec::new(),
        resolution: 64,
        z_channels: 8,
        quantizer,
        dropout: 0.0,
    };
    let vb = VarBuilder::from_backend(Box::new(Random), DType::F32, Device::Cpu);
    Ok(VqModel::new(&config, vb)?)
}

/// The model as a codec whose tiles know nothing of each other.
struct Alone(VqModel);

impl ImageCodec for Alone {
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

/// Two pictures `[2, 3, SIDE, SIDE]`: a smooth sky, and a ground that is not.
fn pictures() -> Result<Tensor> {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut values = Vec::with_capacity(2 * 3 * SIDE * SIDE);
    for plane in 0..6 {
        for y in 0..SIDE {
            for x in 0..SIDE {
                let sky = 0.6 - 0.1 * plane as f32 + 0.2 * (x + y) as f32 / SIDE as f32;
                let ground = 0.8 * (x as f32 * 0.4 + y as f32 * 0.3).sin() - 0.2;
                let grain = 0.2 * (rng.random::<f32>() - 0.5);
                values.push(if y < SIDE / 2 { sky } else { ground + grain });
            }
        }
    }
    Ok(Tensor::from_vec(values, (2, 3, SIDE, SIDE), &Device::Cpu)?)
}

fn distance(a: &Tensor, b: &Tensor) -> Result<f32> {
    Ok((a - b)?.sqr()?.mean_all()?.to_scalar::<f32>()?)
}

/// By how much says little: random weights carry the borders of patches and
/// tiles far, and the gain is small. What trained ones do is measured by
/// `examples/seams.rs` and stated at `TileConfig`.
#[test]
fn tiles_that_know_of_their_picture_are_closer_to_the_whole() -> Result<()> {
    let images = pictures()?;
    let (model, alone) = (model()?, Alone(model()?));
    let codes = encode_any_size(&model, &images, &TileConfig::WHOLE)?;
    let whole = decode_any_size(&model, &codes, (SIDE, SIDE), &TileConfig::WHOLE)?;
    let equal = |codec: &dyn ImageCodec| -> Result<usize> {
        let tiled = encode_any_size(codec, &images, &TILES)?.to_vec()?;
        Ok(tiled.iter().zip(codes.to_vec()?).filter(|(a, b)| *a == b).count())
    };
    let (with, without) = (equal(&model)?, equal(&alone)?);
    assert!(with > without, "{with} equal codes, {without} of tiles alone");

    let with = decode_any_size(&model, &codes, (SIDE, SIDE), &TILES)?;
    let without = decode_any_size(&alone, &codes, (SIDE, SIDE), &TILES)?;
    let (with, without) = (distance(&with, &whole)?, distance(&without, &whole)?);
    assert!(with < without, "mean square error {with}, {without} of tiles alone");
    Ok(())
}

#[test]
fn a_picture_in_tiles_does_not_depend_on_its_company() -> Result<()> {
    let (model, images) = (model()?, pictures()?);
    let both = reconstruct_any_size(&model, &images, &TILES)?;
    for i in 0..2 {
        let alone = reconstruct_any_size(&model, &images.narrow(0, i, 1)?, &TILES)?;
        golden::close("alone", &alone, &both.narrow(0, i, 1)?, 0.0)?;
    }
    Ok(())
}

#[test]
fn a_picture_that_is_not_cut_passes_as_ever() -> Result<()> {
    let (model, images) = (model()?, pictures()?.narrow(0, 0, 1)?.contiguous()?);
    let codes = model.encode(&images)?;
    let tiled = encode_any_size(&model, &images, &TileConfig::default())?;
    assert_eq!(tiled.to_vec()?, codes.to_vec()?);
    let whole = decode_any_size(&model, &codes, (SIDE, SIDE), &TileConfig::default())?;
    golden::close("whole", &whole, &model.decode(&codes)?, 0.0)
}
