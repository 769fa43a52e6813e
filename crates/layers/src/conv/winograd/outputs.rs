//! Products of tiles and weights, and the way back to pixels.

use super::super::geometry::Geometry;
use super::product::{Left, Right, block_rows, product};
use super::tiles::{COLUMNS, Grid, Range, TILE, Tiles};
use super::transforms::{FREQUENCIES, output_tile};
use super::weights;
use crate::shared_mut::SharedMut;
use crate::vector::{Kernel, MAX_LANES, Vector};

fn element(tiles: usize, lanes: usize) -> usize {
    tiles * 2 * lanes + 16
}

/// Floats of the products of `tiles` tiles with one block of weights.
pub fn len(tiles: usize, lanes: usize) -> usize {
    FREQUENCIES * element(tiles, lanes)
}

/// Multiplies the input channels from `channel` on of `count` tiles with as many
/// of one block of weights.
pub struct Multiply<'a> {
    pub count: usize,
    pub tiles: Tiles,
    pub channel: usize,
    pub channels: usize,
    pub weights: &'a [f32],
    pub products: &'a mut [f32],
    /// Whether to add to what `products` holds.
    pub adds: bool,
}

impl Kernel for Multiply<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        assert!(self.weights.len() >= weights::len(self.channels, S::LANES));
        assert!(self.products.len() >= len(self.count, S::LANES));
        let step = block_rows::<S>(self.count);
        let (width, element) = (2 * S::LANES, element(self.count, S::LANES));
        for f in 0..FREQUENCIES {
            let weights = self.weights[f * weights::element(self.channels, S::LANES)..].as_ptr();
            let right = Right { data: weights, row: width };
            for tile in (0..self.count).step_by(step) {
                let data = f * self.tiles.element + tile * self.tiles.tile + self.channel;
                let left = Left { data: self.tiles.data.at(data), row: self.tiles.tile, depth: 1 };
                let out = self.products[f * element + tile * width..].as_mut_ptr();
                let rows = step.min(self.count - tile);
                // SAFETY: rows of tiles, weights and products are within their buffers
                // (asserted here and when `tiles` was made).
                unsafe { product::<S>(rows, left, right, self.channels, out, self.adds) }
            }
        }
    }
}

/// Transforms the products of one block of outputs and the tiles of `range` to
/// pixels.
pub struct Finish<'a> {
    pub g: &'a Geometry,
    pub grid: Grid,
    pub range: Range,
    pub block: usize,
    pub products: &'a [f32],
    pub bias: Option<&'a [f32]>,
    /// Added to the output, of the same shape.
    pub residual: Option<&'a [f32]>,
    /// The whole output, of which no other task writes these tiles and channels.
    pub y: SharedMut,
}

impl Kernel for Finish<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let g = self.g;
        let (pitch, element) = (COLUMNS * S::LANES, element(self.range.count, S::LANES));
        assert!(self.products.len() >= len(self.range.count, S::LANES));
        let mut pixels = [0.0_f32; TILE * COLUMNS * MAX_LANES];
        for half in 0..2 {
            let first = (2 * self.block + half) * S::LANES;
            let channels = g.out_channels.saturating_sub(first).min(S::LANES);
            if channels == 0 {
                continue;
            }
            let mut bias = [0.0_f32; MAX_LANES];
            if let Some(values) = self.bias {
                bias[..channels].copy_from_slice(&values[first..first + channels]);
            }
            for run in self.grid.runs(self.range) {
                for tile in 0..run.count {
                    let from = (2 * (run.done + tile) + half) * S::LANES;
                    // SAFETY: this tile's products and its 4 x 4 pixels, in their buffers.
                    unsafe {
                        let bias = S::load(bias.as_ptr());
                        let from = self.products.as_ptr().add(from);
                        let to = pixels.as_mut_ptr().add(TILE * tile * S::LANES);
                        output_tile::<S>(from, element, bias, to, pitch);
                    }
                }
                let width = (TILE * run.count).min(g.ow - TILE * run.column);
                for y in 0..TILE.min(g.oh - TILE * run.row) {
                    let at = (run.picture * g.out_channels + first) * g.out_pixels()
                        + (TILE * run.row + y) * g.ow
                        + TILE * run.column;
                    // SAFETY: pixels of this range's tiles and this block's channels: inside `y`
                    // and no other task's; the machine has the instruction set.
                    unsafe { self.write::<S>(&pixels[y * pitch..], channels, at, width) }
                }
            }
        }
    }
}

impl Finish<'_> {
    /// Writes `width` vectors of `channels` channels to one row of as many planes;
    /// the first pixel is element `at` of the output.
    #[inline(always)]
    unsafe fn write<S: Vector>(&self, from: &[f32], channels: usize, at: usize, width: usize) {
        let pixels = self.g.out_pixels();
        for column in (0..width).step_by(S::LANES) {
            let from = from[column * S::LANES..][..S::LANES * S::LANES].as_ptr();
            let (at, len) = (at + column, S::LANES.min(width - column));
            let whole = channels == S::LANES && len == S::LANES;
            if whole && self.residual.is_none() {
                // SAFETY: a block of vectors, and rows inside the output.
                unsafe { S::transpose(from, S::LANES, self.rows(at, channels, len), pixels) }
                continue;
            }
            let mut block = [0.0_f32; MAX_LANES * MAX_LANES];
            // SAFETY: both are `LANES` rows of `LANES`.
            unsafe { S::transpose(from, S::LANES, block.as_mut_ptr(), S::LANES) }
            let to = self.rows(at, channels, len);
            for (channel, row) in block.chunks_exact_mut(S::LANES).take(channels).enumerate() {
                if let Some(residual) = self.residual {
                    let residual = &residual[at + channel * pixels..][..len];
                    row.iter_mut().zip(residual).for_each(|(y, residual)| *y += residual);
                }
                // SAFETY: `len` pixels of a row inside the output, which only this task writes.
                unsafe { to.add(channel * pixels).copy_from_nonoverlapping(row.as_ptr(), len) }
            }
        }
    }

    /// The first of `len` pixels of `channels` planes, all inside the output.
    #[inline(always)]
    fn rows(&self, at: usize, channels: usize, len: usize) -> *mut f32 {
        // Panics where the last row would end outside.
        self.y.at(at + (channels - 1) * self.g.out_pixels() + len);
        self.y.at(at)
    }
}
