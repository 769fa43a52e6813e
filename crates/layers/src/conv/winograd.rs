//! 3x3 convolution of stride 1 by Winograd's F(4x4, 3x3) (Lavin & Gray 2016): 36
//! multiplications for 16 outputs instead of 144.
//!
//! Every output is the same sum in the same order whatever the tiling, the batch
//! or the threads. Its rounding error is about five times that of the direct sum
//! (largest error 5e-6 of outputs up to 3, with 128 channels). A NaN reaches all
//! outputs of the tiles that see it, up to 3 pixels further than its kernel.

mod product;
mod stages;
mod transforms;

use rayon::prelude::*;

use super::geometry::Geometry;
use super::kernels::SharedMut;
use super::simd::Isa;
use crate::scratch::with_scratch;
use stages::{Job, Range, Step, TILE, Tiles};
use transforms::FREQUENCIES;

/// Channels from which the transforms are paid for by the products they save.
const MIN_CHANNELS: usize = 32;
/// Floats of the transformed tiles of one task: a share of the second-level cache.
const TASK_FLOATS: usize = 320 << 10;
/// Tiles of one task, at least.
const MIN_TILES: usize = 24;
/// Up to so many tiles all of them are transformed first, and tasks share out the
/// output channels, so that no task reads all weights.
const FEW_TILES: usize = 128;
/// Tasks to cut an input into, so that threads share it.
const TASKS: usize = 8;

/// Whether this is the fastest way: decided by one picture, so that batches do
/// not change a result.
pub(super) fn suits(g: &Geometry) -> bool {
    let tiles = g.oh.div_ceil(TILE) * g.ow.div_ceil(TILE);
    (g.kh, g.kw, g.config.stride) == (3, 3, 1)
        && g.in_channels.min(g.out_channels) >= MIN_CHANNELS
        // Of the tiles' pixels, enough are in the picture.
        && 5 * g.out_pixels() >= 2 * TILE * TILE * tiles
}

/// `[B, in, H, W]` to `[B, out, H', W']`, kernel 3x3, stride 1.
pub(super) fn forward(
    isa: Option<Isa>,
    g: &Geometry,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let mut y = vec![0.0; g.batch * g.out_channels * g.out_pixels()];
    let job = Job { isa, g, x, weight, bias, y: SharedMut::new(&mut y) };
    if job.tiles() <= FEW_TILES {
        few_tiles(&job)
    } else {
        many_tiles(&job)
    }
    y
}

/// First all tiles, then every task its output channels.
fn few_tiles(job: &Job) {
    let count = job.tiles();
    with_scratch(FREQUENCIES * Tiles::element(job.g, count), |data| {
        let tiles = Tiles::new(job.g, count, data);
        let step = count.div_ceil(TASKS);
        (0..count.div_ceil(step)).into_par_iter().for_each(|task| {
            let first = task * step;
            let range = Range { first, count: step.min(count - first) };
            job.run(Step::Input { range, to: tiles, at: first });
        });
        (0..job.g.out_channels.div_ceil(job.block_channels())).into_par_iter().for_each(|block| {
            with_scratch(job.weights_len(), |weights| {
                job.run(Step::Weights { block, to: weights });
                with_scratch(job.products_len(count), |products| {
                    let range = Range { first: 0, count };
                    job.run(Step::Outputs { range, block, tiles, weights, products });
                });
            });
        });
    });
}

/// First all weights, then every task its tiles.
fn many_tiles(job: &Job) {
    let count = job.tiles();
    let blocks = job.g.out_channels.div_ceil(job.block_channels());
    let len = job.weights_len();
    with_scratch(blocks * len, |weights| {
        weights.par_chunks_exact_mut(len).enumerate().for_each(|(block, to)| {
            job.run(Step::Weights { block, to });
        });
        let fitting = TASK_FLOATS / (FREQUENCIES * Tiles::pitch(job.g));
        let step = fitting.max(MIN_TILES).min(count.div_ceil(TASKS));
        (0..count.div_ceil(step)).into_par_iter().for_each(|task| {
            let first = task * step;
            let range = Range { first, count: step.min(count - first) };
            with_scratch(FREQUENCIES * Tiles::element(job.g, range.count), |data| {
                let tiles = Tiles::new(job.g, range.count, data);
                job.run(Step::Input { range, to: tiles, at: 0 });
                with_scratch(job.products_len(range.count), |products| {
                    for (block, weights) in weights.chunks_exact(len).enumerate() {
                        job.run(Step::Outputs { range, block, tiles, weights, products });
                    }
                });
            });
        });
    });
}
