//! 3x3 convolution by Winograd's transforms (Lavin & Gray 2016): for 16 outputs 36 products instead
//! of 144 ([`unit`]), with a stride of 2 it is 81 ([`halving`]).
//!
//! Every output is the same sum in the same order whatever the tiling, the batch
//! or the threads. Its rounding error is about five times that of the direct sum
//! (largest error 5e-6 of outputs up to 3, with 128 channels). A NaN reaches all
//! outputs of the tiles that see it, up to 3 outputs further than its kernel.

mod form;
mod gradient;
mod halving;
mod outputs;
mod points;
mod product;
mod tiles;
mod unit;
mod weights;

use std::ops;

use rayon::prelude::*;

pub(super) use gradient::weight_gradient;

use super::geometry::Geometry;
use super::weight::Weight;
use crate::group_norm::Channels;
use crate::isa::Isa;
use crate::scratch::with_scratch;
use crate::shared_mut::SharedMut;
use crate::vector::{lanes, pairs, run};
use form::Form;
use halving::HALVING;
use outputs::{Finish, Multiply};
use tiles::{Grid, Maps, Order, Part, Range, Sizes, TILE, Tiles, Transform};
use unit::UNIT;
use weights::Transformed;

/// Channels from which the transforms are paid for by the products they save, by stride. With a
/// stride of 2 and 64 channels they just are, which is not worth their rounding.
const MIN_CHANNELS: [usize; 2] = [32, 128];
/// Floats of the transformed tiles of one task: a share of the second-level cache.
const TASK_FLOATS: usize = 200 << 10;
/// Tiles of one task, at least.
const MIN_TILES: usize = 16;
/// Up to so many tiles all of them are transformed first, and tasks share out the
/// output channels, so that no task reads all weights.
const FEW_TILES: usize = 128;
/// Transformed weights of an output channel that are multiplied at a time, at most: those of two
/// vectors of output channels are a share of the second-level cache.
const WEIGHTS: usize = 81 * 64;
/// Tasks to cut an input into, so that threads share it.
const TASKS: usize = 8;

/// Whether this is the fastest way: decided by one picture, so that batches do
/// not change a result.
pub(super) fn suits(g: &Geometry) -> bool {
    (g.kh, g.kw) == (3, 3)
        && (1..=2).contains(&g.config.stride)
        && g.batch > 0
        && g.in_channels.min(g.out_channels) >= MIN_CHANNELS[g.config.stride - 1]
        // Of the tiles' pixels, enough are in the picture.
        && 5 * g.out_pixels() >= 2 * TILE * TILE * Grid::new(UNIT, g).per_picture()
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
    /// Norm and SiLU that are done to the input first: not by transforms.
    pub norm: Option<&'a Channels>,
}

/// One convolution under way.
struct Job<'a, F> {
    form: F,
    isa: Option<Isa>,
    g: &'a Geometry,
    grid: Grid,
    x: &'a [f32],
    weight: Weight<'a>,
    extras: Extras<'a>,
    y: SharedMut,
}

/// `[B, in, H, W]` to `[B, out, H', W']`, kernel 3x3, stride 1 or 2.
pub(super) fn forward(
    isa: Option<Isa>,
    g: &Geometry,
    x: &[f32],
    weight: Weight,
    extras: Extras,
) -> Vec<f32> {
    match g.config.stride {
        1 => forward_by(UNIT, isa, g, x, weight, extras),
        _ => forward_by(HALVING, isa, g, x, weight, extras),
    }
}

fn forward_by<F: Form>(
    form: F,
    isa: Option<Isa>,
    g: &Geometry,
    x: &[f32],
    weight: Weight,
    extras: Extras,
) -> Vec<f32> {
    let len = g.batch * g.out_channels * g.out_pixels();
    let mut y = Vec::with_capacity(len);
    let grid = Grid::new(form, g);
    let job = Job { form, isa, g, grid, x, weight, extras, y: SharedMut::new_spare(&mut y) };
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

impl<F: Form> Job<'_, F> {
    fn lanes(&self) -> usize {
        lanes(self.isa)
    }

    /// Input channels whose products are added up before they join the others, at most.
    fn chunk(&self) -> usize {
        self.g.in_channels.min(1 << (WEIGHTS / F::ELEMENTS).ilog2())
    }

    /// Blocks of output channels.
    fn blocks(&self) -> usize {
        self.g.out_channels.div_ceil(2 * self.lanes())
    }

    fn transform_tiles(&self, range: Range, to: Tiles, at: usize) {
        let (part, maps) = (Part::Input, input_maps(self.g, self.x, self.extras.upsample));
        run(self.isa, Transform { form: self.form, grid: self.grid, part, maps, range, to, at });
    }

    /// Writes block `at` of `to`.
    fn transform_weights(
        &self,
        block: usize,
        inputs: ops::Range<usize>,
        to: Transformed,
        at: usize,
    ) {
        let Self { form, weight, .. } = *self;
        let Geometry { in_channels, out_channels, .. } = *self.g;
        run(
            self.isa,
            weights::Transform { form, weight, in_channels, out_channels, block, inputs, to, at },
        );
    }

    /// Multiplies `inputs` of as many tiles as said with as many blocks of weights as there are.
    fn multiply(
        &self,
        (tiles, count): (Tiles, usize),
        inputs: ops::Range<usize>,
        weights: Transformed,
        products: &mut [f32],
    ) {
        let form = self.form;
        run(self.isa, Multiply { form, count, tiles, inputs, weights, products });
    }

    fn finish(&self, range: Range, block: usize, products: &[f32]) {
        let Self { form, g, grid, extras: Extras { bias, residual, .. }, y, .. } = *self;
        run(self.isa, Finish { form, g, grid, range, block, products, bias, residual, y });
    }

    /// First all tiles, then every task its output channels.
    fn few_tiles(&self) {
        let (count, in_channels) = (self.grid.len(), self.g.in_channels);
        let chunk = self.chunk();
        let sizes = Sizes { elements: F::ELEMENTS, channels: in_channels, chunk, count };
        with_scratch(sizes.len(), |data| {
            let tiles = Tiles::new(Order::Tiles, sizes, data);
            let step = count.div_ceil(TASKS);
            (0..count.div_ceil(step)).into_par_iter().for_each(|task| {
                let first = task * step;
                let range = Range { first, count: step.min(count - first) };
                self.transform_tiles(range, tiles, first);
            });
            let range = Range { first: 0, count };
            let sizes = (chunk, 1);
            (0..self.blocks()).into_par_iter().for_each(|block| {
                let products_len = outputs::len::<F>(count, self.lanes());
                let weights_len = Transformed::len::<F>(sizes, self.lanes());
                with_scratch(products_len + weights_len, |scratch| {
                    let (products, data) = scratch.split_at_mut(products_len);
                    let weights = Transformed::new(self.form, sizes, self.lanes(), data);
                    for channel in (0..in_channels).step_by(chunk) {
                        let inputs = channel..in_channels.min(channel + chunk);
                        self.transform_weights(block, inputs.clone(), weights, 0);
                        self.multiply((tiles, count), inputs, weights, products);
                    }
                    self.finish(range, block, products);
                });
            });
        });
    }

    /// First all weights, then every task its tiles.
    fn many_tiles(&self) {
        let (all, channels, blocks) = (self.grid.len(), self.g.in_channels, self.blocks());
        let of_weights = (channels, blocks);
        let of_tiles = Sizes { elements: F::ELEMENTS, channels, chunk: self.chunk(), count: 1 };
        with_scratch(Transformed::len::<F>(of_weights, self.lanes()), |data| {
            let weights = Transformed::new(self.form, of_weights, self.lanes(), data);
            (0..blocks).into_par_iter().for_each(|block| {
                self.transform_weights(block, 0..channels, weights, block);
            });
            let fitting = TASK_FLOATS / of_tiles.len();
            let step = fitting.max(MIN_TILES).min(all.div_ceil(TASKS));
            // Products of as many rows as registers hold.
            let step = step.next_multiple_of(pairs(self.isa));
            (0..all.div_ceil(step)).into_par_iter().for_each(|task| {
                let first = task * step;
                let range = Range { first, count: step.min(all - first) };
                let products_len = outputs::len::<F>(range.count, self.lanes());
                let sizes = Sizes { count: range.count, ..of_tiles };
                with_scratch(blocks * products_len + sizes.len(), |scratch| {
                    let (products, data) = scratch.split_at_mut(blocks * products_len);
                    let tiles = Tiles::new(Order::Tiles, sizes, data);
                    self.transform_tiles(range, tiles, 0);
                    self.multiply((tiles, range.count), 0..channels, weights, products);
                    for (block, products) in products.chunks_exact(products_len).enumerate() {
                        self.finish(range, block, products);
                    }
                });
            });
        });
    }
}
