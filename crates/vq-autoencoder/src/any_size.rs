//! Pictures of any size through a codec: padding, tiles, blending.
//!
//! A picture is padded at the right and the bottom, by repeating its last
//! column and row, to multiples of the factor; decoding crops back. A large
//! one is processed in overlapping tiles, so that memory is bounded by the
//! tile and not by the picture. What group norm and attention make of the whole
//! picture comes from a sample of it ([`PictureContext`]), for all tiles the
//! same. They still differ slightly where they meet: codes are taken from the
//! tile whose centre is nearer, and pixels are blended linearly.
//!
//! Pictures of a batch are processed one by one: a picture's codes and pixels
//! never depend on its company.

use candle_core::{DType, Device, Tensor};
use codebook::CodeGrid;
use serde::{Deserialize, Serialize};

use crate::codec::ImageCodec;
use crate::error::{Error, Result};
use crate::picture_context::PictureContext;
use crate::tiles::{Span, cover, sample};

/// When and how a picture is cut into tiles. All lengths are in pixels.
///
/// The default, tiles of up to 512x512 that share 128, takes about 0.8 GB of
/// activations with the f16 presets in f32, however large the picture (see
/// [`VqConfig::peak_bytes`](crate::VqConfig::peak_bytes));
/// [`within`](Self::within) chooses tiles for another limit.
///
/// # Time
/// Besides its tiles, a picture that is cut takes a sample of a tile's size
/// through the codec, for what its tiles are to know of the whole: 3x3 tiles
/// cost as much as ten. It needs no more memory than a tile.
///
/// # Seams
/// A tile that is normalised by its own statistics and attends to itself alone
/// differs in tone from its neighbours, and a flat one is amplified until other
/// codes fit it better. So tiles take both from the sample
/// ([`PictureContext`](crate::PictureContext)). Measured by `examples/seams.rs`
/// on a hard case: an f4 model that had been trained for 2440 steps on 64x64
/// pictures of emoji, four photographs with sky scaled to 384x384, 4x4 tiles of
/// at most 144 that share 32. Compared is with the same picture whole; the tone
/// step is how much the difference to it changes from one side of a border
/// between tiles to the other, averaged over 24 pixels, in 1/255.
///
/// | tiles | codes as whole | PSNR | PSNR, same codes | tone step | where flat |
/// |---|---|---|---|---|---|
/// | each on its own | 27 % | 16.8 dB | 17.0 dB | 18.9 | 17.8 |
/// | norms from the sample | 65 % | 22.7 dB | 24.0 dB | 7.6 | 9.5 |
/// | norms and attention from the sample | 72 % | 26.5 dB | 29.3 dB | 3.6 | 3.5 |
///
/// (The second row is of two of the photographs with coarser samples, for
/// which the third would read 68 %, 25.0 dB, 26.4 dB, 3.9 and 2.2.)
///
/// So what was a checkerboard of skies is one sky. A tiled picture is still not
/// the whole one: more than a quarter of the codes differ, and with contrast
/// raised fourfold faint lines along borders can be found in a flat sky, near
/// where the network sees the zeros around a tile. More overlap helps against
/// those; with an f8 model and tiles of 256, before tiles
/// knew of their picture, the mean absolute difference of neighbouring pixels
/// within the fade (2.4 to 2.7 in the untiled picture) was:
///
/// | overlap in cells | 0 | 1 | 2 | 4 | 8 |
/// |---|---|---|---|---|---|
/// | step | 22.9 | 7.3 | 3.7 | 3.0 | 2.7 |
///
/// No trained published model has been measured.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct TileConfig {
    /// A picture of more pixels (after padding) is tiled.
    pub max_pixels: usize,
    /// Longest side of a tile, rounded down to a multiple of the factor.
    pub tile: usize,
    /// What neighbouring tiles share at least, rounded up to a multiple of the
    /// factor; at most a quarter of `tile`.
    pub overlap: usize,
}

impl Default for TileConfig {
    fn default() -> Self {
        Self { max_pixels: 512 * 512, tile: 512, overlap: 128 }
    }
}

impl TileConfig {
    /// Never tiles: memory grows with the picture, and with the square of its
    /// pixels where there is attention.
    pub const WHOLE: Self = Self { max_pixels: usize::MAX, tile: usize::MAX, overlap: 0 };

    /// The tiles of a grid of `h` x `w` cells.
    fn cover(&self, (h, w): (usize, usize), factor: usize) -> Result<Tiles> {
        let pixels = h.saturating_mul(w).saturating_mul(factor * factor);
        let (rows, columns) = if pixels <= self.max_pixels {
            (vec![Span::whole(h, factor)], vec![Span::whole(w, factor)])
        } else {
            let (tile, overlap) = (self.tile / factor, self.overlap.div_ceil(factor));
            (cover(h, tile, overlap, factor)?, cover(w, tile, overlap, factor)?)
        };
        Ok(Tiles { rows, columns })
    }
}

/// The tiles of a picture.
struct Tiles {
    rows: Vec<Span>,
    columns: Vec<Span>,
}

impl Tiles {
    /// The only tile, if the picture is not cut.
    fn whole(&self) -> Option<(&Span, &Span)> {
        match (&*self.rows, &*self.columns) {
            ([row], [column]) => Some((row, column)),
            _ => None,
        }
    }

    /// Calls `each` for every tile, with what is known of the whole picture
    /// after `learn` has been called with the cells of a sample.
    fn each(
        &self,
        learn: impl FnOnce(&[u32], &[u32], &mut PictureContext) -> Result<()>,
        mut each: impl FnMut(&Span, &Span, &mut PictureContext) -> Result<()>,
    ) -> Result<()> {
        let mut picture = PictureContext::new();
        learn(&sample(&self.rows), &sample(&self.columns), &mut picture)?;
        for row in &self.rows {
            for column in &self.columns {
                picture.begin_tile();
                each(row, column, &mut picture)?;
            }
        }
        Ok(())
    }
}

/// The size `(h, w)` in cells of the code grid of a picture of `(h, w)` pixels.
pub fn grid_size((h, w): (usize, usize), factor: usize) -> (usize, usize) {
    (h.div_ceil(factor), w.div_ceil(factor))
}

/// The codes `[B, ceil(H / f), ceil(W / f)]` of pictures `[B, C, H, W]` in
/// `[-1, 1]` of any size.
///
/// # Errors
/// If the pictures are empty or do not fit the codec, or the tiles are
/// impossible for its factor.
pub fn encode_any_size(
    codec: &dyn ImageCodec,
    images: &Tensor,
    tiles: &TileConfig,
) -> Result<CodeGrid> {
    let (b, _, height, width) = images.dims4()?;
    if images.elem_count() == 0 {
        return Err(Error::Shape {
            op: "encode_any_size",
            got: format!("{:?}", images.dims()),
            expected: "[B, C, H, W] without an empty side".to_owned(),
        });
    }
    let factor = codec.factor();
    let (h, w) = grid_size((height, width), factor);
    let tiles = tiles.cover((h, w), factor)?;
    let mut codes = Vec::with_capacity(b * h * w);
    for i in 0..b {
        let image = images.narrow(0, i, 1)?;
        let crop = |row: &Span, column: &Span| padded_crop(&image, row, column, factor);
        if let Some((row, column)) = tiles.whole() {
            let grid = codec.encode(&crop(row, column)?)?;
            expect_grid(&grid, row, column)?;
            codes.extend(grid.to_vec()?);
            continue;
        }
        let mut grid = vec![0; h * w];
        tiles.each(
            |rows, columns, picture| {
                codec.encode_tile(&pixels_of_cells(&image, rows, columns, factor)?, picture)?;
                Ok(())
            },
            |row, column, picture| {
                let tile = codec.encode_tile(&crop(row, column)?, picture)?;
                expect_grid(&tile, row, column)?;
                copy_owned(&tile, row, column, &mut grid, w)
            },
        )?;
        codes.extend(grid);
    }
    Ok(CodeGrid::from_vec(codes, (b, h, w), images.device())?)
}

/// The pictures `[B, C, H, W]` of codes `[B, ceil(H / f), ceil(W / f)]`, not
/// clamped, for `size` = (H, W).
///
/// # Errors
/// If the grid is not the one of a picture of that size, a code is not in the
/// codebook, or the tiles are impossible for the codec's factor.
pub fn decode_any_size(
    codec: &dyn ImageCodec,
    codes: &CodeGrid,
    size: (usize, usize),
    tiles: &TileConfig,
) -> Result<Tensor> {
    let (b, h, w) = codes.dims();
    let factor = codec.factor();
    if grid_size(size, factor) != (h, w) || b * h * w == 0 {
        let (gh, gw) = grid_size(size, factor);
        return Err(Error::Shape {
            op: "decode_any_size",
            got: format!("codes {:?}", (b, h, w)),
            expected: format!(
                "(B, {gh}, {gw}) for pictures of {}x{} (height x width) at factor {factor}",
                size.0, size.1
            ),
        });
    }
    let tiles = tiles.cover((h, w), factor)?;
    let images = (0..b).map(|i| {
        let grid = codes.codes().narrow(0, i, 1)?;
        let crop = |row: &Span, column: &Span| -> Result<CodeGrid> {
            let tile = grid.narrow(1, row.cells.start, row.cells.len())?.narrow(
                2,
                column.cells.start,
                column.cells.len(),
            )?;
            Ok(CodeGrid::new(tile.contiguous()?)?)
        };
        if let Some((row, column)) = tiles.whole() {
            let whole = codec.decode(&crop(row, column)?)?;
            expect_tile(&whole, row, column, factor)?;
            return Ok(whole.narrow(2, 0, size.0)?.narrow(3, 0, size.1)?);
        }
        let mut canvas = Canvas::new(size);
        tiles.each(
            |rows, columns, picture| {
                let cells = |list: &[u32]| Tensor::new(list, grid.device());
                let sample = grid.index_select(&cells(rows)?, 1)?;
                let sample = sample.index_select(&cells(columns)?, 2)?;
                codec.decode_tile(&CodeGrid::new(sample)?, picture)?;
                Ok(())
            },
            |row, column, picture| {
                let tile = codec.decode_tile(&crop(row, column)?, picture)?;
                expect_tile(&tile, row, column, factor)?;
                canvas.blend(&tile, row, column, factor)
            },
        )?;
        canvas.finish(codes.codes().device())
    });
    let images = images.collect::<Result<Vec<_>>>()?;
    Ok(Tensor::cat(&images, 0)?)
}

/// What encoding and decoding makes of pictures `[B, C, H, W]`, in their size.
///
/// # Errors
/// As [`encode_any_size`] and [`decode_any_size`].
pub fn reconstruct_any_size(
    codec: &dyn ImageCodec,
    images: &Tensor,
    tiles: &TileConfig,
) -> Result<Tensor> {
    let (_, _, h, w) = images.dims4()?;
    let codes = encode_any_size(codec, images, tiles)?;
    decode_any_size(codec, &codes, (h, w), tiles)
}

/// The pixels of a tile of `image` `[1, C, H, W]`; what lies outside repeats
/// the last row and column.
fn padded_crop(image: &Tensor, row: &Span, column: &Span, factor: usize) -> Result<Tensor> {
    let mut crop = image.clone();
    for (dim, span) in [(2, row), (3, column)] {
        let (start, len) = (span.cells.start * factor, span.cells.len() * factor);
        let inside = len.min(crop.dim(dim)? - start);
        crop = crop.narrow(dim, start, inside)?.pad_with_same(dim, 0, len - inside)?;
    }
    Ok(crop.contiguous()?)
}

/// The pixels of the given rows and columns of cells of `image` `[1, C, H, W]`;
/// what lies outside repeats the last row and column.
fn pixels_of_cells(image: &Tensor, rows: &[u32], columns: &[u32], factor: usize) -> Result<Tensor> {
    let mut sample = image.clone();
    for (dim, cells) in [(2, rows), (3, columns)] {
        let last = image.dim(dim)?.saturating_sub(1);
        let pixels = cells.iter().flat_map(|&cell| (0..factor).map(move |i| (cell, i)));
        let list: Vec<u32> =
            pixels.map(|(cell, i)| (cell as usize * factor + i).min(last) as u32).collect();
        sample = sample.index_select(&Tensor::new(list, image.device())?, dim)?;
    }
    Ok(sample)
}

/// Copies the codes that a tile owns into the `grid` of `w` columns.
fn copy_owned(
    tile: &CodeGrid,
    row: &Span,
    column: &Span,
    grid: &mut [u32],
    w: usize,
) -> Result<()> {
    let codes = tile.to_vec()?;
    let from_x = column.owned.start - column.cells.start;
    for y in row.owned.clone() {
        let from = (y - row.cells.start) * column.cells.len() + from_x;
        let to = y * w + column.owned.start;
        let n = column.owned.len();
        grid[to..to + n].copy_from_slice(&codes[from..from + n]);
    }
    Ok(())
}

fn expect_grid(tile: &CodeGrid, row: &Span, column: &Span) -> Result<()> {
    let expected = (1, row.cells.len(), column.cells.len());
    if tile.dims() == expected {
        return Ok(());
    }
    Err(Error::Shape {
        op: "encode_any_size",
        got: format!("codes {:?} of a tile", tile.dims()),
        expected: format!("{expected:?}"),
    })
}

fn expect_tile(image: &Tensor, row: &Span, column: &Span, factor: usize) -> Result<()> {
    let (h, w) = (row.cells.len() * factor, column.cells.len() * factor);
    match *image.dims() {
        [1, _, ih, iw] if (ih, iw) == (h, w) => Ok(()),
        _ => Err(Error::Shape {
            op: "decode_any_size",
            got: format!("{:?} from the codec", image.dims()),
            expected: format!("[1, C, {h}, {w}]"),
        }),
    }
}

/// A picture being put together from weighted tiles.
struct Canvas {
    pixels: Vec<f32>,
    channels: usize,
    size: (usize, usize),
    dtype: DType,
}

impl Canvas {
    fn new(size: (usize, usize)) -> Self {
        Self { pixels: Vec::new(), channels: 0, size, dtype: DType::F32 }
    }

    /// Adds a tile `[1, C, h, w]` with its weights.
    fn blend(&mut self, tile: &Tensor, row: &Span, column: &Span, factor: usize) -> Result<()> {
        let (_, channels, tile_h, tile_w) = tile.dims4()?;
        let (height, width) = self.size;
        if self.pixels.is_empty() {
            self.pixels = vec![0.0; channels * height * width];
            (self.channels, self.dtype) = (channels, tile.dtype());
        }
        let values = tile.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let (top, left) = (row.cells.start * factor, column.cells.start * factor);
        let weights: Vec<f32> =
            (left..width.min(left + tile_w)).map(|x| column.weight(x)).collect();
        for c in 0..channels.min(self.channels) {
            for y in top..height.min(top + tile_h) {
                let vertical = row.weight(y);
                let from = (c * tile_h + y - top) * tile_w;
                let to = (c * height + y) * width + left;
                let canvas = &mut self.pixels[to..to + weights.len()];
                for ((sum, value), weight) in canvas.iter_mut().zip(&values[from..]).zip(&weights) {
                    *sum += vertical * weight * value;
                }
            }
        }
        Ok(())
    }

    /// The picture `[1, C, H, W]`.
    fn finish(self, device: &Device) -> Result<Tensor> {
        let (h, w) = self.size;
        let image = Tensor::from_vec(self.pixels, (1, self.channels, h, w), device)?;
        Ok(image.to_dtype(self.dtype)?)
    }
}

#[cfg(test)]
#[path = "any_size/tests.rs"]
mod tests;
