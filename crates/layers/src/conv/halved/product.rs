//! Tiles of feature maps times tiles of weights: four registers hold sums of 64 pixels and 16
//! output channels, so that a tile of weights, which comes from the second-level cache, meets four
//! of maps, which the taps of a group find in the first.

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;
use simd::tiles::{AWAKE, SIDE, Tiles};

use super::super::geometry::Geometry;
use super::super::square::Planes;
use super::super::winograd::Extras;
use super::maps::{Maps, Source};
use super::weights::{TILE, Tiled};
use crate::isa::Isa;
use crate::scratch::with_scratch;
use crate::shared_mut::SharedMut;
use crate::vector::{Kernel, Vector, run};

/// Tasks to cut a convolution into, so that threads share it.
const MIN_TASKS: usize = 8;

/// `[B, in, H, W]` to `[B, out, H', W']`. No size is 0.
///
/// # Safety
/// The machine must have the registers of `T`.
pub unsafe fn forward<T: Tiles>(
    isa: Option<Isa>,
    g: &Geometry,
    x: &[f32],
    weights: &Tiled,
    extras: Extras,
) -> Vec<f32> {
    let len = g.batch * g.out_channels * g.out_pixels();
    let mut y = Vec::with_capacity(len);
    let target = SharedMut::new_spare(&mut y);
    // SAFETY: this function's contract; there is room for `len`, which nothing else uses, and
    // every pixel of every channel is written.
    unsafe {
        forward_into::<T>(isa, g, x, weights, extras, target);
        y.set_len(len);
    }
    y
}

/// [`forward`] to `y`, whose numbers are all written: each is in one band and one block.
///
/// # Safety
/// As there, and nothing else may use `y` meanwhile.
pub unsafe fn forward_into<T: Tiles>(
    isa: Option<Isa>,
    g: &Geometry,
    x: &[f32],
    weights: &Tiled,
    extras: Extras,
    y: SharedMut,
) {
    let maps = Maps::new(g);
    let taps = maps.taps(g);
    let job = Job { g, maps, taps: &taps, x, weights, extras, y };
    let (bands, words) = (g.batch * maps.bands, maps.words());
    if bands >= MIN_TASKS {
        (0..bands).into_par_iter().for_each(|band| {
            with_scratch(words, |words| {
                run(isa, Fill { job, band, words: &mut *words });
                let blocks = 0..weights.blocks();
                run(isa, Multiply::<T> { job, band, words, blocks, tiles: PhantomData });
            });
        });
    } else {
        // First all maps; then tasks share out the output channels, so that each weight is
        // read once.
        with_scratch(bands * words, |all| {
            all.par_chunks_exact_mut(words)
                .enumerate()
                .for_each(|(band, words)| run(isa, Fill { job, band, words }));
            let (all, blocks) = (&*all, weights.blocks());
            (0..bands * blocks).into_par_iter().for_each(|task| {
                let (band, block) = (task % bands, task / bands);
                let words = &all[band * words..][..words];
                let blocks = block..block + 1;
                run(isa, Multiply::<T> { job, band, words, blocks, tiles: PhantomData });
            });
        });
    }
}

/// One convolution under way.
#[derive(Clone, Copy)]
struct Job<'a> {
    g: &'a Geometry,
    maps: Maps,
    /// See [`Maps::taps`].
    taps: &'a [usize],
    x: &'a [f32],
    weights: &'a Tiled,
    extras: Extras<'a>,
    y: SharedMut,
}

impl Job<'_> {
    /// Picture and output rows of a band.
    fn place(&self, band: usize) -> (usize, Range<usize>) {
        (band / self.maps.bands, self.maps.range(self.g, band % self.maps.bands))
    }
}

/// Makes the maps of one band.
struct Fill<'a> {
    job: Job<'a>,
    band: usize,
    words: &'a mut [f32],
}

impl Kernel for Fill<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let Job { g, maps, x, extras, .. } = self.job;
        let (picture, rows) = self.job.place(self.band);
        let len = x.len() / g.batch;
        let image = &x[picture * len..][..len];
        // SAFETY: this function's contract.
        unsafe { maps.fill::<S>(g, Source { image, picture, extras }, &rows, self.words) }
    }
}

/// Some blocks of output channels of one band.
struct Multiply<'a, T> {
    job: Job<'a>,
    band: usize,
    words: &'a [f32],
    blocks: Range<usize>,
    tiles: PhantomData<T>,
}

/// Tiles of sums.
const SUMS: usize = 4;

/// 16 neighbouring outputs of a row.
#[derive(Clone, Copy)]
struct Run {
    /// Row in the band, and first column.
    row: usize,
    column: usize,
}

impl<T: Tiles> Kernel for Multiply<'_, T> {
    // No closures around vectors: they would be compiled without the instruction set.
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let Job { g, maps, weights, extras, .. } = self.job;
        let (picture, rows) = self.job.place(self.band);
        assert!(self.words.len() >= maps.words());
        let runs_per_row = g.ow.div_ceil(SIDE);
        let runs = rows.len() * runs_per_row;
        // SAFETY: the machine has the registers (the contract of `forward`).
        let mut tiles = unsafe { T::configure() };
        let mut sums = [0.0_f32; SUMS * TILE];
        let mut unread = [0.0_f32; TILE];
        for block in self.blocks.clone() {
            let channels = block * SIDE..((block + 1) * SIDE).min(g.out_channels);
            let mut bias = [0.0_f32; SIDE];
            if let Some(all) = extras.bias {
                bias[..channels.len()].copy_from_slice(&all[channels.clone()]);
            }
            for first in (0..runs).step_by(SUMS) {
                let mut four = [Run { row: 0, column: 0 }; SUMS];
                let mut starts = [0; SUMS];
                for (i, (run, start)) in four.iter_mut().zip(&mut starts).enumerate() {
                    // Where fewer are left the last is made again.
                    let index = (first + i).min(runs - 1);
                    *run = Run { row: index / runs_per_row, column: index % runs_per_row * SIDE };
                    *start = (run.row * g.config.stride * maps.pitch + run.column) * SIDE;
                }
                // SAFETY: the block has tiles for all groups and taps; those of the maps end
                // within `words`, where 16 lines follow the last plane; `sums` has the room for
                // four tiles.
                unsafe {
                    // All rows are the bias.
                    tiles.load::<0>(bias.as_ptr(), 0);
                    tiles.load::<1>(bias.as_ptr(), 0);
                    tiles.load::<2>(bias.as_ptr(), 0);
                    tiles.load::<3>(bias.as_ptr(), 0);
                    let (mut right, mut since) = (weights.block(block), 0);
                    for group in 0..weights.groups() {
                        let plane = self.words.as_ptr().add(group * maps.plane * SIDE);
                        for tap in self.job.taps {
                            let left = plane.add(tap * SIDE);
                            tiles.load::<4>(right, SIDE);
                            tiles.load::<5>(left.add(starts[0]), SIDE);
                            tiles.multiply::<0, 5, 4>();
                            tiles.load::<6>(left.add(starts[1]), SIDE);
                            tiles.multiply::<1, 6, 4>();
                            tiles.load::<7>(left.add(starts[2]), SIDE);
                            tiles.multiply::<2, 7, 4>();
                            tiles.load::<5>(left.add(starts[3]), SIDE);
                            tiles.multiply::<3, 5, 4>();
                            right = right.add(TILE);
                        }
                        since += SUMS * self.job.taps.len();
                        if since >= AWAKE {
                            tiles.store::<6>(unread.as_mut_ptr(), SIDE);
                            since = 0;
                        }
                    }
                    let sums = sums.as_mut_ptr();
                    tiles.store::<0>(sums, SIDE);
                    tiles.store::<1>(sums.add(TILE), SIDE);
                    tiles.store::<2>(sums.add(2 * TILE), SIDE);
                    tiles.store::<3>(sums.add(3 * TILE), SIDE);
                }
                let count = (runs - first).min(SUMS);
                for (run, sums) in four.iter().zip(sums.chunks_exact(TILE)).take(count) {
                    let pixel = (rows.start + run.row) * g.ow + run.column;
                    let at = (picture * g.out_channels + channels.start) * g.out_pixels() + pixel;
                    let len = SIDE.min(g.ow - run.column);
                    // SAFETY: this function's contract; outputs of this band and block.
                    unsafe { self.job.finish::<S>(at, channels.len(), len, sums) }
                }
            }
        }
    }
}

impl Job<'_> {
    /// Writes `len` pixels of `channels` channels, the first element `at` of the output: a tile of
    /// pixels by channels.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`; the pixels must be this task's alone.
    #[inline(always)]
    unsafe fn finish<S: Vector>(&self, at: usize, channels: usize, len: usize, sums: &[f32]) {
        let (pixels, residual) = (self.g.out_pixels(), self.extras.residual);
        let planes = Planes { y: self.y, pixels, residual };
        assert!(sums.len() >= TILE);
        for first in (0..channels).step_by(S::LANES) {
            for start in (0..len).step_by(S::LANES) {
                let at = at + first * pixels + start;
                let count = (S::LANES.min(channels - first), S::LANES.min(len - start));
                // SAFETY: this function's contract; `LANES` rows of a tile of 16 by 16, of which
                // `LANES` divides the sides.
                unsafe {
                    let from = sums.as_ptr().add(start * SIDE + first);
                    planes.write::<S>((from, SIDE), at, count);
                }
            }
        }
    }
}
