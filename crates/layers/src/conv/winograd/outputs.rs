//! Products of tiles and weights, and the way back to pixels.

use std::ops;

use super::super::geometry::Geometry;
use super::super::square::Planes;
use super::form::Form;
use super::product::{Left, Right, Terms, block_rows, product};
use super::tiles::{COLUMNS, Grid, Range, TILE, Tiles};
use super::weights::Transformed;
use crate::shared_mut::SharedMut;
use crate::vector::{Kernel, MAX_LANES, Vector};

fn element(tiles: usize, lanes: usize) -> usize {
    tiles * 2 * lanes + 16
}

/// Floats of the products of `tiles` tiles with one block of weights.
pub fn len<F: Form>(tiles: usize, lanes: usize) -> usize {
    F::FREQUENCIES * element(tiles, lanes)
}

/// Multiplies the input channels `inputs` of `count` tiles with as many of some blocks of weights,
/// and adds to what `products` holds where they are not the first.
///
/// One frequency after the other, so that its tiles stay in the cache while the weights of all
/// blocks pass by.
pub struct Multiply<'a, F> {
    pub form: F,
    pub count: usize,
    pub tiles: Tiles,
    pub inputs: ops::Range<usize>,
    /// Of as many input channels.
    pub weights: Transformed,
    /// [`len`] for each block.
    pub products: &'a mut [f32],
}

impl<F: Form> Kernel for Multiply<'_, F> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let channels = self.inputs.len();
        let products_len = len::<F>(self.count, S::LANES);
        let blocks = self.weights.blocks;
        assert!(self.weights.block >= channels * 2 * S::LANES);
        assert!(self.inputs.start.is_multiple_of(self.tiles.chunk));
        assert!(self.products.len() >= blocks * products_len);
        let step = block_rows::<S>(self.count);
        let (width, element) = (2 * S::LANES, element(self.count, S::LANES));
        for f in 0..F::FREQUENCIES {
            let elements = self.form.elements(f);
            for channel in self.inputs.clone().step_by(self.tiles.chunk) {
                let depth = self.tiles.chunk.min(self.inputs.end - channel);
                let terms = Terms { matrices: elements.len(), depth };
                let adds = channel > 0;
                for block in 0..blocks {
                    let at = elements.start * self.weights.element
                        + block * self.weights.block
                        + (channel - self.inputs.start) * width;
                    let data = self.weights.data.at(at);
                    for tile in (0..self.count).step_by(step) {
                        let (next, fetch) = (self.weights.element, tile == 0);
                        let right = Right { data, row: width, next, fetch };
                        let (pitch, next) = (self.tiles.tile, self.tiles.element);
                        let data = self.tiles.at(elements.start, tile, channel);
                        let left = Left { data, pitch, next };
                        let at = block * products_len + f * element + tile * width;
                        let out = self.products[at..].as_mut_ptr();
                        let rows = step.min(self.count - tile);
                        // SAFETY: rows of tiles, weights and products are within their buffers
                        // (asserted here and when `tiles` was made).
                        unsafe { product::<S, true>(rows, left, right, terms, out, adds) }
                    }
                }
            }
        }
    }
}

/// Transforms the products of one block of outputs and the tiles of `range` to
/// pixels.
pub struct Finish<'a, F> {
    pub form: F,
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

impl<F: Form> Kernel for Finish<'_, F> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let g = self.g;
        let (pitch, element) = (COLUMNS * S::LANES, element(self.range.count, S::LANES));
        assert!(self.products.len() >= len::<F>(self.range.count, S::LANES));
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
                        self.form.output::<S>(from, element, bias, to, pitch);
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

impl<F: Form> Finish<'_, F> {
    /// Writes `width` vectors of `channels` channels to one row of as many planes;
    /// the first pixel is element `at` of the output.
    #[inline(always)]
    unsafe fn write<S: Vector>(&self, from: &[f32], channels: usize, at: usize, width: usize) {
        let (pixels, residual) = (self.g.out_pixels(), self.residual);
        let planes = Planes { y: self.y, pixels, residual };
        for column in (0..width).step_by(S::LANES) {
            let from = from[column * S::LANES..][..S::LANES * S::LANES].as_ptr();
            let count = (channels, S::LANES.min(width - column));
            // SAFETY: this function's contract; a block of vectors.
            unsafe { planes.write::<S>((from, S::LANES), at + column, count) }
        }
    }
}
