//! 3x3 convolution of stride 1 by Winograd's F(4x4, 3x3) (Lavin & Gray 2016): 36
//! multiplications for 16 outputs instead of 144.
//!
//! Every output is the same sum in the same order whatever the tiling, the batch
//! or the threads. Its rounding error is about five times that of the direct sum
//! (largest error 5e-6 of outputs up to 3, with 128 channels). A NaN reaches all
//! outputs of the tiles that see it, up to 3 pixels further than its kernel.

mod gradient;
mod outputs;
mod product;
mod tiles;
mod transforms;
mod weights;

use rayon::prelude::*;

pub(super) use gradient::weight_gradient;

use super::geometry::Geometry;
use super::weight::Weight;
use crate::isa::Isa;
use crate::scratch::with_scratch;
use crate::shared_mut::SharedMut;
use crate::vector::{lanes, run};
use outputs::{Finish, Multiply};
use tiles::{Grid, Maps, Order, Part, Range, TILE, Tiles, Transform};

/// Channels from which the transforms are paid for by the products they save.
const MIN_CHANNELS: usize = 32;
/// Floats of the transformed tiles of one task: a share of the second-level cache.
const TASK_FLOATS: usize = 200 << 10;
/// Tiles of one task, at least.
const MIN_TILES: usize = 16;
/// Up to so many tiles all of them are transformed first, and tasks share out the
/// output channels, so that no task reads all weights.
const FEW_TILES: usize = 128;
/// Input channels whose weights are transformed at a time there.
const FEW_CHANNELS: usize = 64;
/// Tasks to cut an input into, so that threads share it.
const TASKS: usize = 8;

/// Whether this is the fastest way: decided by one picture, so that batches do
/// not change a result.
pub(super) fn suits(g: &Geometry) -> bool {
    (g.kh, g.kw, g.config.stride) == (3, 3, 1)
        && g.batch > 0
        && g.in_channels.min(g.out_channels) >= MIN_CHANNELS
        // Of the tiles' pixels, enough are in the picture.
        && 5 * g.batch * g.out_pixels() >= 2 * TILE * TILE * Grid::new(g).len()
}

fn input_maps<'a>(g: &Geometry, x: &'a [f32], doubled: bool) -> Maps<'a> {
    let before = (g.config.padding.top, g.config.padding.left);
    let (h, w) = if doubled { (g.h / 2, g.w / 2) } else { (g.h, g.w) };
    Maps { data: x, channels: g.in_channels, h, w, doubled, before }
}

/// What is done on the way, so that it needs no feature map of its own.
#[derive(Clone, Copy, Default)]
pub(super) struct Extras<'a> {
    /// `[out]`, added to every pixel.
    pub bias: Option<&'a [f32]>,
    /// `[B, out, H', W']`, added to the output.
    pub residual: Option<&'a [f32]>,
    /// Whether the input is upsampled first (nearest, 2x), from `[B, in, H/2, W/2]`.
    pub upsample: bool,
}

/// One convolution under way.
struct Job<'a> {
    isa: Option<Isa>,
    g: &'a Geometry,
    grid: Grid,
    x: &'a [f32],
    weight: Weight<'a>,
    extras: Extras<'a>,
    y: SharedMut,
}

/// `[B, in, H, W]` to `[B, out, H', W']`, kernel 3x3, stride 1.
pub(super) fn forward(
    isa: Option<Isa>,
    g: &Geometry,
    x: &[f32],
    weight: Weight,
    extras: Extras,
) -> Vec<f32> {
    let len = g.batch * g.out_channels * g.out_pixels();
    let mut y = Vec::with_capacity(len);
    let grid = Grid::new(g);
    let job = Job { isa, g, grid, x, weight, extras, y: SharedMut::new_spare(&mut y) };
    if grid.len() <= FEW_TILES {
        job.few_tiles()
    } else {
        job.many_tiles()
    }
    // SAFETY: there is room for `len`, and every pixel of every channel was written:
    // each is in one tile, and every block of every tile was finished.
    unsafe { y.set_len(len) }
    y
}

impl Job<'_> {
    fn lanes(&self) -> usize {
        lanes(self.isa)
    }

    /// Blocks of output channels.
    fn blocks(&self) -> usize {
        self.g.out_channels.div_ceil(2 * self.lanes())
    }

    fn transform_tiles(&self, range: Range, to: Tiles, at: usize) {
        let (part, maps) = (Part::Input, input_maps(self.g, self.x, self.extras.upsample));
        run(self.isa, Transform { grid: self.grid, part, maps, range, to, at });
    }

    fn transform_weights(&self, block: usize, inputs: std::ops::Range<usize>, to: &mut [f32]) {
        let Geometry { in_channels, out_channels, .. } = *self.g;
        let weight = self.weight;
        run(self.isa, weights::Transform { weight, in_channels, out_channels, block, inputs, to });
    }

    fn finish(&self, range: Range, block: usize, products: &[f32]) {
        let Self { g, grid, extras: Extras { bias, residual, .. }, y, .. } = *self;
        run(self.isa, Finish { g, grid, range, block, products, bias, residual, y });
    }

    /// First all tiles, then every task its output channels.
    fn few_tiles(&self) {
        let (count, in_channels) = (self.grid.len(), self.g.in_channels);
        with_scratch(Tiles::len(in_channels, count), |data| {
            let tiles = Tiles::new(Order::Tiles, in_channels, count, data);
            let step = count.div_ceil(TASKS);
            (0..count.div_ceil(step)).into_par_iter().for_each(|task| {
                let first = task * step;
                let range = Range { first, count: step.min(count - first) };
                self.transform_tiles(range, tiles, first);
            });
            let range = Range { first: 0, count };
            (0..self.blocks()).into_par_iter().for_each(|block| {
                let products_len = outputs::len(count, self.lanes());
                let weights_len = weights::len(FEW_CHANNELS, self.lanes());
                with_scratch(products_len + weights_len, |scratch| {
                    let (products, weights) = scratch.split_at_mut(products_len);
                    for channel in (0..in_channels).step_by(FEW_CHANNELS) {
                        let channels = FEW_CHANNELS.min(in_channels - channel);
                        self.transform_weights(block, channel..channel + channels, weights);
                        let adds = channel > 0;
                        let (weights, products) = (&*weights, &mut *products);
                        run(
                            self.isa,
                            Multiply { count, tiles, channel, channels, weights, products, adds },
                        );
                    }
                    self.finish(range, block, products);
                });
            });
        });
    }

    /// First all weights, then every task its tiles.
    fn many_tiles(&self) {
        let (all, channels) = (self.grid.len(), self.g.in_channels);
        let len = weights::len(channels, self.lanes());
        with_scratch(self.blocks() * len, |weights| {
            weights.par_chunks_exact_mut(len).enumerate().for_each(|(block, to)| {
                self.transform_weights(block, 0..channels, to);
            });
            let fitting = TASK_FLOATS / Tiles::len(channels, 1);
            let step = fitting.max(MIN_TILES).min(all.div_ceil(TASKS));
            let products_len = outputs::len(step, self.lanes());
            (0..all.div_ceil(step)).into_par_iter().for_each(|task| {
                let first = task * step;
                let range = Range { first, count: step.min(all - first) };
                with_scratch(products_len + Tiles::len(channels, range.count), |scratch| {
                    let (products, data) = scratch.split_at_mut(products_len);
                    let tiles = Tiles::new(Order::Tiles, channels, range.count, data);
                    self.transform_tiles(range, tiles, 0);
                    for (block, weights) in weights.chunks_exact(len).enumerate() {
                        let (count, channel, adds) = (range.count, 0, false);
                        let products = &mut *products;
                        run(
                            self.isa,
                            Multiply { count, tiles, channel, channels, weights, products, adds },
                        );
                        self.finish(range, block, products);
                    }
                });
            });
        });
    }
}
