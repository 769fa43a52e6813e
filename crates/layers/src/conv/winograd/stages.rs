//! The three stages of one convolution, for any instruction set: transformed input
//! tiles, transformed weights, and their products transformed back.

use super::super::geometry::Geometry;
use super::super::kernels::SharedMut;
use super::super::simd::Isa;
use super::super::vector::{Portable, Vector};
use super::product::{MAX_TILES, product};
use super::transforms::{FREQUENCIES, input_tile, output_tile, weight_tile};

/// Pixels of a tile's side.
pub const TILE: usize = 4;
/// Columns of the buffers that hold a row of tiles between NCHW and vectors of
/// channels: a multiple of every vector's lanes.
const COLUMNS: usize = 48;
/// Tiles of such a row: the 6 columns of the last one must fit.
const ROW_TILES: usize = (COLUMNS - 2) / TILE;
/// The most lanes of any vector.
const MAX_LANES: usize = 16;

/// Transformed input tiles: tile `t`, element `f`, channel `c` at
/// `f * element + t * tile + c`.
#[derive(Clone, Copy)]
pub struct Tiles {
    pub data: SharedMut,
    pub element: usize,
    pub tile: usize,
}

impl Tiles {
    /// Floats from one tile to the next: a line more than the channels, so that the
    /// same channel of many tiles does not fall into one set of the cache.
    pub fn pitch(g: &Geometry) -> usize {
        g.in_channels.next_multiple_of(MAX_LANES) + 16
    }

    /// Floats of `count` tiles of one element.
    pub fn element(g: &Geometry, count: usize) -> usize {
        count * Self::pitch(g) + 16
    }

    /// `count` tiles in `data`.
    pub fn new(g: &Geometry, count: usize, data: &mut [f32]) -> Self {
        assert!(data.len() >= FREQUENCIES * Self::element(g, count));
        let (element, tile) = (Self::element(g, count), Self::pitch(g));
        Self { data: SharedMut::new(data), element, tile }
    }
}

/// Neighbouring tiles of all pictures, row by row.
#[derive(Clone, Copy)]
pub struct Range {
    pub first: usize,
    pub count: usize,
}

/// One convolution under way.
pub struct Job<'a> {
    pub isa: Option<Isa>,
    pub g: &'a Geometry,
    pub x: &'a [f32],
    pub weight: &'a [f32],
    pub bias: Option<&'a [f32]>,
    pub y: SharedMut,
}

/// A part of a stage, for one thread.
pub enum Step<'a> {
    /// Transforms the tiles of `range`; the first goes to tile `at` of `to`.
    Input { range: Range, to: Tiles, at: usize },
    /// Transforms the weights of output block `block`.
    Weights { block: usize, to: &'a mut [f32] },
    /// Output block `block` of the tiles of `range`, all of `tiles`; `products` is
    /// working memory.
    Outputs {
        range: Range,
        block: usize,
        tiles: Tiles,
        weights: &'a [f32],
        products: &'a mut [f32],
    },
}

impl Job<'_> {
    /// Tiles per row and per column of a picture.
    pub fn grid(&self) -> (usize, usize) {
        (self.g.ow.div_ceil(TILE), self.g.oh.div_ceil(TILE))
    }

    /// Tiles of all pictures.
    pub fn tiles(&self) -> usize {
        let (columns, rows) = self.grid();
        self.g.batch * columns * rows
    }

    fn lanes(&self) -> usize {
        self.isa.map_or(Portable::LANES, Isa::lanes)
    }

    /// Output channels of one block.
    pub fn block_channels(&self) -> usize {
        2 * self.lanes()
    }

    /// Floats from one element of the transformed weights of a block to the next.
    fn weight_element(&self) -> usize {
        self.g.in_channels * self.block_channels() + 16
    }

    /// Floats of the transformed weights of one block.
    pub fn weights_len(&self) -> usize {
        FREQUENCIES * self.weight_element()
    }

    fn product_element(&self, tiles: usize) -> usize {
        tiles * self.block_channels() + 16
    }

    /// Floats of the products of `tiles` tiles with one block of weights.
    pub fn products_len(&self, tiles: usize) -> usize {
        FREQUENCIES * self.product_element(tiles)
    }

    /// Runs one step on this thread.
    pub fn run(&self, step: Step) {
        match self.isa {
            // SAFETY: the instruction set was detected.
            #[cfg(target_arch = "x86_64")]
            Some(Isa::Avx512) => unsafe { avx512(self, step) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Some(Isa::Avx2) => unsafe { avx2(self, step) },
            // SAFETY: the portable vectors need none.
            _ => unsafe { self.run_with::<Portable>(step, MAX_TILES / 2) },
        }
    }

    /// # Safety
    /// The machine must have the instruction set of `S`.
    #[inline(always)]
    unsafe fn run_with<S: Vector>(&self, step: Step, max_tiles: usize) {
        // SAFETY: this function's contract.
        unsafe {
            match step {
                Step::Input { range, to, at } => self.input::<S>(range, to, at),
                Step::Weights { block, to } => self.weights::<S>(block, to),
                Step::Outputs { range, block, tiles, weights, products } => {
                    self.products::<S>(range.count, tiles, weights, products, max_tiles);
                    self.outputs::<S>(range, block, products);
                }
            }
        }
    }

    /// The tiles of `range` as runs within a row of tiles: `(tiles before, picture,
    /// row, column, tiles)`.
    fn rows(&self, range: Range) -> impl Iterator<Item = (usize, usize, usize, usize, usize)> {
        let (columns, rows) = self.grid();
        let mut done = 0;
        std::iter::from_fn(move || {
            let left = range.count - done;
            let tile = range.first + done;
            let (row, column) = (tile / columns, tile % columns);
            let count = left.min(columns - column).min(ROW_TILES);
            let run = (done, row / rows, row % rows, column, count);
            done += count;
            (left > 0).then_some(run)
        })
    }

    #[inline(always)]
    unsafe fn input<S: Vector>(&self, range: Range, to: Tiles, at: usize) {
        let g = self.g;
        let mut pixels = [0.0_f32; 6 * COLUMNS * MAX_LANES];
        let pitch = COLUMNS * S::LANES;
        for (done, picture, row, column, count) in self.rows(range) {
            for first in (0..g.in_channels).step_by(S::LANES) {
                let channels = S::LANES.min(g.in_channels - first);
                let planes = &self.x[(picture * g.in_channels + first) * g.in_pixels()..]
                    [..channels * g.in_pixels()];
                for (y, target) in pixels.chunks_exact_mut(pitch).take(6).enumerate() {
                    let y = (TILE * row + y).checked_sub(g.config.padding.top);
                    match y.filter(|&y| y < g.h) {
                        Some(y) => {
                            let columns = (TILE * column, TILE * count + 2);
                            // SAFETY: the machine has the instruction set.
                            unsafe { self.input_row::<S>(planes, y, columns, target) }
                        }
                        None => target.fill(0.0),
                    }
                }
                for tile in 0..count {
                    let target = to.data.at((at + done + tile) * to.tile + first);
                    // SAFETY: `pixels` holds 6 columns from each tile's first; `to` holds this
                    // tile's vectors (its pitch is a multiple of the lanes), and no other task
                    // has them.
                    unsafe {
                        let from = pixels.as_ptr().add(TILE * tile * S::LANES);
                        input_tile::<S>(from, pitch, target, to.element);
                    }
                }
            }
        }
    }

    /// Row `y` of the channels `planes`, from column `columns.0` of the padded row
    /// and `columns.1` of them, as vectors of channels; zeros outside the picture.
    #[inline(always)]
    unsafe fn input_row<S: Vector>(
        &self,
        planes: &[f32],
        y: usize,
        columns: (usize, usize),
        target: &mut [f32],
    ) {
        let (g, left) = (self.g, self.g.config.padding.left);
        let channels = planes.len() / g.in_pixels();
        for at in (0..columns.1).step_by(S::LANES) {
            // In columns of the padded row; the picture is `left..left + w`.
            let start = columns.0 + at;
            let target = target[at * S::LANES..][..S::LANES * S::LANES].as_mut_ptr();
            if channels == S::LANES && start >= left && start + S::LANES <= left + g.w {
                let from = &planes[y * g.w + start - left..];
                assert!(from.len() >= (S::LANES - 1) * g.in_pixels() + S::LANES);
                // SAFETY: the rows are within `planes` (asserted), the block within `target`.
                unsafe { S::transpose(from.as_ptr(), g.in_pixels(), target, S::LANES) }
                continue;
            }
            let mut block = [0.0_f32; MAX_LANES * MAX_LANES];
            let inside = start.max(left)..(start + S::LANES).min(left + g.w);
            if !inside.is_empty() {
                let rows = planes.chunks_exact(g.in_pixels()).zip(block.chunks_exact_mut(S::LANES));
                for (plane, row) in rows {
                    let source = &plane[y * g.w + inside.start - left..][..inside.len()];
                    row[inside.start - start..][..inside.len()].copy_from_slice(source);
                }
            }
            // SAFETY: the block is `LANES` rows of `LANES`, as is the one in `target`.
            unsafe { S::transpose(block.as_ptr(), S::LANES, target, S::LANES) }
        }
    }

    #[inline(always)]
    unsafe fn weights<S: Vector>(&self, block: usize, to: &mut [f32]) {
        let g = self.g;
        let row_len = 9 * g.in_channels;
        assert!(to.len() >= self.weights_len());
        let mut taps = [0.0_f32; 9 * MAX_LANES * MAX_LANES];
        for half in 0..2 {
            let first = (2 * block + half) * S::LANES;
            let rows = g.out_channels.saturating_sub(first).min(S::LANES);
            for channel in (0..g.in_channels).step_by(S::LANES) {
                let channels = S::LANES.min(g.in_channels - channel);
                let end = 9 * (channel + channels);
                for column in (9 * channel..end).step_by(S::LANES) {
                    let width = S::LANES.min(end - column);
                    let mut edge = [0.0_f32; MAX_LANES * MAX_LANES];
                    for (row, target) in edge.chunks_exact_mut(S::LANES).take(rows).enumerate() {
                        let source = &self.weight[(first + row) * row_len + column..][..width];
                        target[..width].copy_from_slice(source);
                    }
                    let target = taps[(column - 9 * channel) * S::LANES..].as_mut_ptr();
                    // SAFETY: `edge` is `LANES` rows of `LANES`; `taps` has 9 `LANES` rows, and
                    // a block of `LANES` of them starts at a multiple of `LANES`.
                    unsafe { S::transpose(edge.as_ptr(), S::LANES, target, S::LANES) }
                }
                for c in 0..channels {
                    let at = (channel + c) * 2 * S::LANES + half * S::LANES;
                    // SAFETY: nine vectors from `9 c`; `to` has a vector for every element,
                    // channel and half (asserted).
                    unsafe {
                        let from = taps.as_ptr().add(9 * c * S::LANES);
                        weight_tile::<S>(from, to.as_mut_ptr().add(at), self.weight_element());
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn products<S: Vector>(
        &self,
        count: usize,
        tiles: Tiles,
        weights: &[f32],
        products: &mut [f32],
        max_tiles: usize,
    ) {
        assert!(weights.len() >= self.weights_len());
        assert!(products.len() >= self.products_len(count));
        let step = count.div_ceil(count.div_ceil(max_tiles).max(1));
        for element in 0..FREQUENCIES {
            for tile in (0..count).step_by(step.max(1)) {
                // SAFETY: rows of tiles, weights and products within their buffers (asserted
                // here and when `tiles` was made).
                unsafe {
                    product::<S>(
                        step.min(count - tile),
                        tiles.data.at(element * tiles.element + tile * tiles.tile),
                        tiles.tile,
                        weights.as_ptr().add(element * self.weight_element()),
                        self.g.in_channels,
                        products
                            .as_mut_ptr()
                            .add(element * self.product_element(count) + tile * 2 * S::LANES),
                    );
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn outputs<S: Vector>(&self, range: Range, block: usize, products: &[f32]) {
        let g = self.g;
        let mut pixels = [0.0_f32; TILE * COLUMNS * MAX_LANES];
        let pitch = COLUMNS * S::LANES;
        let element = self.product_element(range.count);
        for half in 0..2 {
            let first = (2 * block + half) * S::LANES;
            let channels = g.out_channels.saturating_sub(first).min(S::LANES);
            if channels == 0 {
                continue;
            }
            let mut bias = [0.0_f32; MAX_LANES];
            if let Some(values) = self.bias {
                bias[..channels].copy_from_slice(&values[first..first + channels]);
            }
            for (done, picture, row, column, count) in self.rows(range) {
                for tile in 0..count {
                    // SAFETY: this tile's products and its 4 x 4 pixels, in their buffers.
                    unsafe {
                        let bias = S::load(bias.as_ptr());
                        let from = products.as_ptr();
                        let from = from.add((done + tile) * 2 * S::LANES + half * S::LANES);
                        let to = pixels.as_mut_ptr().add(TILE * tile * S::LANES);
                        output_tile::<S>(from, element, bias, to, pitch);
                    }
                }
                let width = (TILE * count).min(g.ow - TILE * column);
                for y in 0..TILE.min(g.oh - TILE * row) {
                    let at = (picture * g.out_channels + first) * g.out_pixels()
                        + (TILE * row + y) * g.ow
                        + TILE * column;
                    // SAFETY: pixels of this range's tiles and this block's channels: inside `y`
                    // and no other task's; the machine has the instruction set.
                    unsafe { self.output_row::<S>(&pixels[y * pitch..], channels, at, width) }
                }
            }
        }
    }

    /// Writes `width` vectors of `channels` channels to one row of as many planes;
    /// the first pixel is element `at` of the output.
    #[inline(always)]
    unsafe fn output_row<S: Vector>(&self, from: &[f32], channels: usize, at: usize, width: usize) {
        let pixels = self.g.out_pixels();
        for column in (0..width).step_by(S::LANES) {
            let from = from[column * S::LANES..][..S::LANES * S::LANES].as_ptr();
            let len = S::LANES.min(width - column);
            if channels == S::LANES && len == S::LANES {
                // The last row ends inside the buffer.
                self.y.at(at + column + (S::LANES - 1) * pixels + S::LANES);
                let to = self.y.at(at + column);
                // SAFETY: a block of vectors, and rows inside the output (checked above).
                unsafe { S::transpose(from, S::LANES, to, pixels) }
                continue;
            }
            let mut block = [0.0_f32; MAX_LANES * MAX_LANES];
            // SAFETY: both are `LANES` rows of `LANES`.
            unsafe { S::transpose(from, S::LANES, block.as_mut_ptr(), S::LANES) }
            for (channel, row) in block.chunks_exact(S::LANES).take(channels).enumerate() {
                // SAFETY: pixels that only this task writes (contract).
                let target = unsafe { self.y.slice(at + column + channel * pixels, len) };
                target.copy_from_slice(&row[..len]);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512(job: &Job, step: Step) {
    // SAFETY: the machine has AVX-512 (the caller's contract).
    unsafe { job.run_with::<std::arch::x86_64::__m512>(step, MAX_TILES) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(job: &Job, step: Step) {
    // SAFETY: the machine has AVX2 and FMA (the caller's contract).
    unsafe { job.run_with::<std::arch::x86_64::__m256>(step, MAX_TILES / 2) }
}
