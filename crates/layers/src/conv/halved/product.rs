//! Tiles of weights times tiles of feature maps.

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;
use simd::tiles::{SIDE, Tiles};

use super::super::geometry::Geometry;
use super::super::winograd::Extras;
use super::maps::Maps;
use super::weights::{BLOCK, TILE, Tiled};
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
    let maps = Maps::new(g);
    let taps = maps.taps(g);
    let len = g.batch * g.out_channels * g.out_pixels();
    let mut y = Vec::with_capacity(len);
    let job = Job { g, maps, taps: &taps, x, weights, extras, y: SharedMut::new_spare(&mut y) };
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
    // SAFETY: there is room for `len`, and every pixel of every channel was written: each is
    // in one band and one block.
    unsafe { y.set_len(len) }
    y
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
        maps.fill(g, &x[picture * len..][..len], extras.upsample, &rows, self.words);
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
        let Job { g, maps, weights, .. } = self.job;
        let (picture, rows) = self.job.place(self.band);
        assert!(self.words.len() >= maps.words());
        let runs_per_row = g.ow.div_ceil(SIDE);
        let runs = rows.len() * runs_per_row;
        // SAFETY: the machine has the registers (the contract of `forward`).
        let mut tiles = unsafe { T::configure() };
        let mut sums = [0.0_f32; BLOCK * 2 * SIDE];
        for block in self.blocks.clone() {
            for first in (0..runs).step_by(2) {
                let mut pair = [Run { row: 0, column: 0 }; 2];
                for (i, run) in pair.iter_mut().enumerate() {
                    // The last may stand alone: then it is made twice.
                    let index = (first + i).min(runs - 1);
                    *run = Run { row: index / runs_per_row, column: index % runs_per_row * SIDE };
                }
                let starts = [self.start(pair[0]), self.start(pair[1])];
                // SAFETY: the block has tiles for all groups and taps; those of the maps end
                // within `words`, as rows are pitches and `SLACK` is there behind the last;
                // `sums` has the room for four tiles.
                unsafe {
                    tiles.zero::<0>();
                    tiles.zero::<1>();
                    tiles.zero::<2>();
                    tiles.zero::<3>();
                    let mut left = weights.block(block);
                    for group in 0..weights.groups() {
                        let pairs = self.words.as_ptr().add(group * SIDE * maps.plane);
                        for tap in self.job.taps {
                            let right = pairs.add(*tap);
                            tiles.load::<4>(left, SIDE);
                            tiles.load::<6>(right.add(starts[0]), maps.plane);
                            tiles.multiply::<0, 4, 6>();
                            tiles.load::<7>(right.add(starts[1]), maps.plane);
                            tiles.multiply::<1, 4, 7>();
                            tiles.load::<5>(left.add(TILE), SIDE);
                            tiles.multiply::<2, 5, 6>();
                            tiles.multiply::<3, 5, 7>();
                            left = left.add(2 * TILE);
                        }
                    }
                    let sums = sums.as_mut_ptr();
                    tiles.store::<0>(sums, 2 * SIDE);
                    tiles.store::<1>(sums.add(SIDE), 2 * SIDE);
                    tiles.store::<2>(sums.add(2 * TILE), 2 * SIDE);
                    tiles.store::<3>(sums.add(2 * TILE + SIDE), 2 * SIDE);
                }
                let count = (runs - first).min(2);
                for (i, run) in pair.iter().take(count).enumerate() {
                    let pixel = (rows.start + run.row) * g.ow + run.column;
                    let len = SIDE.min(g.ow - run.column);
                    // SAFETY: this function's contract; outputs of this band and block.
                    unsafe { self.finish::<S>(picture, block, pixel, len, &sums[i * SIDE..]) }
                }
            }
        }
    }
}

impl<T> Multiply<'_, T> {
    /// Where a run's first output finds the first tap.
    #[inline(always)]
    fn start(&self, run: Run) -> usize {
        run.row * self.job.g.config.stride * self.job.maps.pitch + run.column
    }

    /// Writes `len` pixels from `pixel` on of the channels of a block, whose sums are 16 in
    /// each row of 32.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`; the pixels must be this task's alone.
    #[inline(always)]
    unsafe fn finish<S: Vector>(
        &self,
        picture: usize,
        block: usize,
        pixel: usize,
        len: usize,
        sums: &[f32],
    ) {
        let Job { g, extras, y, .. } = self.job;
        let channels = block * BLOCK..((block + 1) * BLOCK).min(g.out_channels);
        for (i, channel) in channels.enumerate() {
            let sums = &sums[i * 2 * SIDE..][..SIDE];
            let bias = extras.bias.map_or(0.0, |bias| bias[channel]);
            let at = (picture * g.out_channels + channel) * g.out_pixels() + pixel;
            let residual = extras.residual.map(|residual| &residual[at..at + len]);
            let to = y.range(at, len);
            if len == SIDE {
                for vector in (0..SIDE).step_by(S::LANES) {
                    // SAFETY: whole vectors of 16 numbers.
                    unsafe {
                        let mut value = S::load(sums.as_ptr().add(vector)).plus(S::splat(bias));
                        if let Some(residual) = residual {
                            value = value.plus(S::load(residual.as_ptr().add(vector)));
                        }
                        value.store(to.add(vector));
                    }
                }
                continue;
            }
            for (j, sum) in sums.iter().take(len).enumerate() {
                let value = sum + bias + residual.map_or(0.0, |residual| residual[j]);
                // SAFETY: `len` numbers from `at` on are there.
                unsafe { to.add(j).write(value) }
            }
        }
    }
}
