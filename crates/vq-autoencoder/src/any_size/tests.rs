use anyhow::Result;
use candle_core::{IndexOp, Tensor};

use super::*;

/// A codec of a single grey channel whose code is the mean of a cell in 256
/// steps, and which writes the largest tile that it met into `seen`.
struct Mean {
    factor: usize,
    seen: std::sync::Mutex<usize>,
}

impl Mean {
    fn new(factor: usize) -> Self {
        Self { factor, seen: std::sync::Mutex::new(0) }
    }

    fn largest(&self) -> usize {
        self.seen.lock().map_or(0, |seen| *seen)
    }

    fn see(&self, pixels: usize) {
        if let Ok(mut seen) = self.seen.lock() {
            *seen = pixels.max(*seen);
        }
    }
}

impl ImageCodec for Mean {
    fn encode(&self, images: &Tensor) -> crate::Result<CodeGrid> {
        let (b, _, h, w) = images.dims4()?;
        assert_eq!(b, 1, "a picture's codes must not depend on its company");
        self.see(h * w);
        let means = images.avg_pool2d(self.factor)?.squeeze(1)?;
        Ok(CodeGrid::new(((means + 1.0)? * 127.5)?.round()?.to_dtype(DType::U32)?)?)
    }

    fn decode(&self, codes: &CodeGrid) -> crate::Result<Tensor> {
        let (b, h, w) = codes.dims();
        let f = self.factor;
        self.see(h * w * f * f);
        let grey = ((codes.codes().to_dtype(DType::F32)? / 127.5)? - 1.0)?;
        let cells = grey.reshape((b, 1, h, 1, w, 1))?.broadcast_as((b, 1, h, f, w, f))?;
        Ok(cells.reshape((b, 1, h * f, w * f))?)
    }

    fn factor(&self) -> usize {
        self.factor
    }

    fn codebook_len(&self) -> usize {
        256
    }
}

/// Pictures `[2, 1, h, w]` that differ everywhere.
fn pictures(h: usize, w: usize) -> Result<Tensor> {
    let wave =
        Tensor::arange(0_f32, (2 * h * w) as f32, &Device::Cpu)?.affine(0.0137, 0.0)?.sin()?;
    Ok(wave.reshape((2, 1, h, w))?)
}

const TILES: TileConfig = TileConfig { max_pixels: 1024, tile: 32, overlap: 8 };

#[test]
fn a_local_codec_is_the_same_in_tiles_as_whole() -> Result<()> {
    for (h, w) in [(100, 77), (33, 129), (64, 64), (7, 300), (32, 32), (1, 1)] {
        let (tiled, whole) = (Mean::new(4), Mean::new(4));
        let images = pictures(h, w)?;
        let codes = encode_any_size(&tiled, &images, &TILES)?;
        let expected = encode_any_size(&whole, &images, &TileConfig::WHOLE)?;
        assert_eq!(codes.dims(), (2, h.div_ceil(4), w.div_ceil(4)));
        assert_eq!(codes.to_vec()?, expected.to_vec()?, "{h}x{w}");

        let pixels = decode_any_size(&tiled, &codes, (h, w), &TILES)?;
        let expected = decode_any_size(&whole, &codes, (h, w), &TileConfig::WHOLE)?;
        assert_eq!(pixels.dims(), [2, 1, h, w]);
        golden::close("pixels", &pixels, &expected, 1e-6)?;
        assert!(tiled.largest() <= 1024, "a tile of {} pixels", tiled.largest());

        let both = reconstruct_any_size(&tiled, &images, &TILES)?;
        golden::close("reconstruction", &both, &pixels, 0.0)?;
    }
    Ok(())
}

#[test]
fn a_picture_of_a_batch_is_what_it_is_alone() -> Result<()> {
    let codec = Mean::new(4);
    let images = pictures(50, 45)?;
    let batch = reconstruct_any_size(&codec, &images, &TILES)?;
    for i in 0..2 {
        let alone = reconstruct_any_size(&codec, &images.i(i..i + 1)?, &TILES)?;
        golden::close("alone", &alone, &batch.i(i..i + 1)?, 0.0)?;
    }
    Ok(())
}

#[test]
fn padding_repeats_the_edge() -> Result<()> {
    let image = Tensor::new(&[[[[-1_f32, -1.0, -1.0, -1.0, 1.0]]]], &Device::Cpu)?;
    let codes = encode_any_size(&Mean::new(4), &image, &TILES)?;
    assert_eq!(codes.to_vec()?, [0, 255]);
    Ok(())
}

#[test]
fn wrong_shapes_are_refused() -> Result<()> {
    let codec = Mean::new(4);
    let empty = Tensor::zeros((1, 1, 0, 8), DType::F32, &Device::Cpu)?;
    assert!(matches!(encode_any_size(&codec, &empty, &TILES), Err(Error::Shape { .. })));
    let codes = CodeGrid::from_vec(vec![0; 6], (1, 2, 3), &Device::Cpu)?;
    assert!(decode_any_size(&codec, &codes, (8, 12), &TILES).is_ok());
    assert!(decode_any_size(&codec, &codes, (5, 9), &TILES).is_ok());
    let error = decode_any_size(&codec, &codes, (9, 12), &TILES);
    assert!(matches!(error, Err(Error::Shape { .. })));
    Ok(())
}
