//! Tiles of feature maps times tiles of weights. Of rounded numbers four registers hold sums of 64
//! pixels and 16 output channels, so that a tile of weights, which comes from the second-level
//! cache, meets four of maps, which the taps of a group find in the first. Of parts, of which each
//! is multiplied twice on average, they hold 32 pixels and 32 channels.

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;
use simd::tiles::{AWAKE, SIDE, Tiles};

use super::super::geometry::Geometry;
use super::super::winograd::Extras;
use super::maps::{Maps, Source, TASKS};
use super::outputs::{Outputs, Runs};
use super::weights::{TILE, Tiled};
use crate::isa::Isa;
use crate::matrix::tiled::registers::{Words, add_tile, products};
use crate::scratch::with_scratch;
use crate::shared_mut::SharedMut;
use crate::vector::{Kernel, Vector, run};

/// `[B, in, H, W]` to `[B, out, H', W']`. No size is 0.
///
/// # Safety
/// The machine must have the registers of `T`.
pub unsafe fn forward<T: Tiles, const PARTS: usize>(
    isa: Option<Isa>,
    g: &Geometry,
    x: &[f32],
    weights: &Tiled<PARTS>,
    extras: Extras,
) -> Vec<f32> {
    let len = g.batch * g.out_channels * g.out_pixels();
    let mut y = Vec::with_capacity(len);
    let target = SharedMut::new_spare(&mut y);
    // SAFETY: this function's contract; there is room for `len`, which nothing else uses, and
    // every pixel of every channel is written.
    unsafe {
        forward_into::<T, PARTS>(isa, g, x, weights, extras, target);
        y.set_len(len);
    }
    y
}

/// [`forward`] to `y`, whose numbers are all written: each is in one band and one block.
///
/// # Safety
/// As there, and nothing else may use `y` meanwhile.
pub unsafe fn forward_into<T: Tiles, const PARTS: usize>(
    isa: Option<Isa>,
    g: &Geometry,
    x: &[f32],
    weights: &Tiled<PARTS>,
    extras: Extras,
    y: SharedMut,
) {
    let (all, groups) = (weights.blocks(), weights.groups());
    let whole = Maps::whole(g, PARTS);
    let words = whole.words(groups);
    if let Some(maps) = bands(g, weights, words) {
        let bands = g.batch * maps.bands;
        let taps = maps.taps(g);
        let job = Job { g, maps, taps: &taps, x, weights, extras, y };
        (0..bands).into_par_iter().for_each(|band| {
            let len = maps.words(maps.groups);
            with_scratch(len + job.sums(all, 1), |scratch| {
                let (words, sums) = scratch.split_at_mut(len);
                let (planes, tiles) = (Planes::Own(words), PhantomData::<T>);
                run(isa, Task { job, bands: band..band + 1, blocks: 0..all, planes, sums, tiles });
            });
        });
        return;
    }
    // First all maps; then tasks share out the output channels.
    let (maps, taps) = (whole, whole.taps(g));
    let job = Job { g, maps, taps: &taps, x, weights, extras, y };
    with_scratch(g.batch * words, |planes| {
        planes.par_chunks_exact_mut(words).enumerate().for_each(|(band, words)| {
            let words = words.par_chunks_exact_mut(maps.group()).take(groups).enumerate();
            words.for_each(|(group, words)| run(isa, Fill { job, band, group, words }));
        });
        let planes = &*planes;
        let together = all.div_ceil(TASKS).next_multiple_of(SUMS / runs_together::<PARTS>());
        (0..all.div_ceil(together)).into_par_iter().for_each(|task| {
            let first = task * together;
            let blocks = first..all.min(first + together);
            with_scratch(job.sums(blocks.len(), g.batch), |sums| {
                let (bands, planes) = (0..g.batch, Planes::Shared(planes));
                run(isa, Task { job, bands, blocks, planes, sums, tiles: PhantomData::<T> });
            });
        });
    });
}

/// Bands that make planes of their own, if that is faster than to share those of whole pictures, of
/// so many words.
fn bands<const PARTS: usize>(g: &Geometry, weights: &Tiled<PARTS>, words: usize) -> Option<Maps> {
    let of_weights = weights.blocks() * weights.block_words();
    // What moves between caches: all weights for each band, or all planes for each task.
    let moves_less = |bands| bands * of_weights <= of_weights + TASKS * g.batch * words;
    let maps = Maps::new(g, PARTS, TASKS);
    let count = g.batch * maps.bands;
    if count >= 2 * TASKS || count >= TASKS && moves_less(count) {
        return Some(maps);
    }
    // One for each thread: planes that one has made take long to reach another.
    let threads = rayon::current_num_threads();
    let maps = Maps::new(g, PARTS, threads);
    let count = g.batch * maps.bands;
    (count.is_multiple_of(threads) && moves_less(count)).then_some(maps)
}

/// One convolution under way.
#[derive(Clone, Copy)]
struct Job<'a, const PARTS: usize> {
    g: &'a Geometry,
    maps: Maps,
    /// See [`Maps::taps`].
    taps: &'a [usize],
    x: &'a [f32],
    weights: &'a Tiled<PARTS>,
    extras: Extras<'a>,
    y: SharedMut,
}

impl<const PARTS: usize> Job<'_, PARTS> {
    /// Picture and output rows of a band.
    fn place(&self, band: usize) -> (usize, Range<usize>) {
        (band / self.maps.bands, self.maps.range(self.g, band % self.maps.bands))
    }

    /// Floats of the sums that a task keeps, of so many blocks and bands.
    fn sums(&self, blocks: usize, bands: usize) -> usize {
        let together = runs_together::<PARTS>();
        let units = if self.maps.groups < self.weights.groups() {
            let runs = Runs::new(self.g, &self.maps, self.maps.rows).count;
            blocks.div_ceil(SUMS / together) * bands * runs.div_ceil(together)
        } else {
            1
        };
        // And rows behind the last, which mean nothing.
        (units * SUMS + 1) * TILE
    }

    /// Makes the planes of some groups of a band.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`.
    #[inline(always)]
    unsafe fn fill<S: Vector>(&self, band: usize, groups: Range<usize>, words: &mut [f32]) {
        let Job { g, maps, x, extras, .. } = *self;
        let (picture, rows) = self.place(band);
        let len = x.len() / g.batch;
        let source = Source { image: &x[picture * len..][..len], picture, extras };
        // SAFETY: this function's contract.
        unsafe { maps.fill::<S, PARTS>(g, source, &rows, groups, words) }
    }
}

/// Makes the planes of one group of a band.
struct Fill<'a, const PARTS: usize> {
    job: Job<'a, PARTS>,
    band: usize,
    group: usize,
    words: &'a mut [f32],
}

impl<const PARTS: usize> Kernel for Fill<'_, PARTS> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        // SAFETY: this function's contract.
        unsafe { self.job.fill::<S>(self.band, self.group..self.group + 1, self.words) }
    }
}

/// Where planes are.
enum Planes<'a> {
    /// Room for some groups of one band.
    Own(&'a mut [f32]),
    /// All groups of all bands, each a picture.
    Shared(&'a [f32]),
}

/// Some blocks of output channels of some bands.
struct Task<'a, T, const PARTS: usize> {
    job: Job<'a, PARTS>,
    bands: Range<usize>,
    blocks: Range<usize>,
    planes: Planes<'a>,
    /// See [`Job::sums`].
    sums: &'a mut [f32],
    tiles: PhantomData<T>,
}

/// Tiles of sums.
const SUMS: usize = 4;

/// How many tiles of pixels have sums at a time, next to one or two of channels.
const fn runs_together<const PARTS: usize>() -> usize {
    if PARTS == 1 { SUMS } else { SUMS / 2 }
}

impl<T: Tiles, const PARTS: usize> Kernel for Task<'_, T, PARTS> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let Self { job, bands, blocks, mut planes, sums, .. } = self;
        let all = job.weights.groups();
        // SAFETY: the machine has the registers (the contract of `forward`).
        let mut tiles = unsafe { T::configure() };
        for first in (0..all).step_by(job.maps.groups) {
            let groups = first..all.min(first + job.maps.groups);
            let words = match &mut planes {
                Planes::Own(words) => {
                    // SAFETY: this function's contract.
                    unsafe { job.fill::<S>(bands.start, groups.clone(), words) }
                    &**words
                }
                Planes::Shared(words) => &words[first * job.maps.group()..],
            };
            let part = Part { job, groups, words };
            // SAFETY: this function's contract; the machine has the registers.
            unsafe { part.multiply::<S, T>(&mut tiles, bands.clone(), blocks.clone(), sums) }
        }
    }
}

/// Some groups of input channels.
struct Part<'a, const PARTS: usize> {
    job: Job<'a, PARTS>,
    groups: Range<usize>,
    /// Their planes, in the first of some bands.
    words: &'a [f32],
}

impl<const PARTS: usize> Part<'_, PARTS> {
    /// Adds what these groups come to, to the sums of some blocks and bands, from the bias on;
    /// writes those that have all groups.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S` and the registers.
    // No closures around vectors: they would be compiled without the instruction set.
    #[inline(always)]
    unsafe fn multiply<S: Vector, T: Tiles>(
        &self,
        tiles: &mut T,
        bands: Range<usize>,
        blocks: Range<usize>,
        sums: &mut [f32],
    ) {
        let Job { g, maps, weights, extras, .. } = self.job;
        assert!(sums.len() >= self.job.sums(blocks.len(), bands.len()));
        let (begins, ends) = (self.groups.start == 0, self.groups.end == weights.groups());
        let of_run = SUMS / runs_together::<PARTS>();
        let (pitch, residual, y) = (maps.pitch, extras.residual, self.job.y);
        let outputs = Outputs { g, pitch, residual, y };
        let mut unit = 0;
        for block in blocks.clone().step_by(of_run) {
            // Where fewer are left the last is made again.
            let last = blocks.end - 1;
            let four: [usize; SUMS] = std::array::from_fn(|i| last.min(block + i % of_run));
            let mut bias = [[0.0_f32; SIDE]; SUMS];
            for (bias, block) in bias.iter_mut().zip(four) {
                let all = extras.bias.and_then(|all| all.chunks(SIDE).nth(block));
                let all = all.unwrap_or_default();
                bias[..all.len()].copy_from_slice(all);
            }
            for band in bands.clone() {
                let (picture, rows) = self.job.place(band);
                let runs = Runs::new(g, &maps, rows.len());
                let words = &self.words[(band - bands.start) * maps.words(weights.groups())..];
                assert!(words.len() >= maps.words(self.groups.len()));
                for first in (0..runs.count).step_by(SUMS / of_run) {
                    let lines: [usize; SUMS] = std::array::from_fn(|i| {
                        runs.line((first + i / of_run).min(runs.count - 1))
                    });
                    let sums = &mut sums[unit..][..(SUMS + 1) * TILE];
                    if !(begins && ends) {
                        unit += SUMS * TILE;
                    }
                    // SAFETY: blocks have tiles for all groups and taps; those of the maps end
                    // within `words`, where 16 lines follow the last plane; `sums` has four tiles.
                    unsafe {
                        if begins {
                            // All rows are the bias.
                            tiles.load::<0>(bias[0].as_ptr(), 0);
                            tiles.load::<1>(bias[1].as_ptr(), 0);
                            tiles.load::<2>(bias[2].as_ptr(), 0);
                            tiles.load::<3>(bias[3].as_ptr(), 0);
                        } else {
                            let sums = sums.as_ptr();
                            tiles.load::<0>(sums, SIDE);
                            tiles.load::<1>(sums.add(TILE), SIDE);
                            tiles.load::<2>(sums.add(2 * TILE), SIDE);
                            tiles.load::<3>(sums.add(3 * TILE), SIDE);
                        }
                        self.add(tiles, words, lines, four);
                        let sums = sums.as_mut_ptr();
                        tiles.store::<0>(sums, SIDE);
                        tiles.store::<1>(sums.add(TILE), SIDE);
                        tiles.store::<2>(sums.add(2 * TILE), SIDE);
                        tiles.store::<3>(sums.add(3 * TILE), SIDE);
                    }
                    for i in 0..SUMS {
                        if ends && first + i / of_run < runs.count && block + i % of_run <= last {
                            let sums = &sums[i * TILE..][..2 * TILE];
                            // SAFETY: this function's contract; outputs of this band and block.
                            unsafe {
                                outputs.finish::<S>((picture, &rows), four[i], lines[i], sums);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Adds the products of the groups and all taps to four registers of sums: those of runs that
    /// begin with these lines, by these blocks.
    ///
    /// # Safety
    /// Blocks and lines must be there; the machine must have the registers.
    #[inline(always)]
    unsafe fn add<T: Tiles>(
        &self,
        tiles: &mut T,
        words: &[f32],
        lines: [usize; SUMS],
        blocks: [usize; SUMS],
    ) {
        let Job { maps, weights, taps, .. } = self.job;
        let mut unread = [0.0_f32; TILE];
        let row = maps.line_words();
        let starts = lines.map(|line| line * row);
        let skipped = self.groups.start * taps.len() * PARTS * TILE;
        let first = [blocks[0], blocks[SUMS - 1]];
        let mut right = first.map(|block| weights.block(block).wrapping_add(skipped));
        let mut since = 0;
        for group in 0..self.groups.len() {
            // SAFETY: this function's contract.
            unsafe {
                let plane = words.as_ptr().add(group * maps.group());
                for tap in taps {
                    let left = plane.add(tap * row);
                    if PARTS == 1 {
                        tiles.load::<4>(right[0], SIDE);
                        tiles.load::<5>(left.add(starts[0]), SIDE);
                        tiles.multiply::<0, 5, 4>();
                        tiles.load::<6>(left.add(starts[1]), SIDE);
                        tiles.multiply::<1, 6, 4>();
                        tiles.load::<7>(left.add(starts[2]), SIDE);
                        tiles.multiply::<2, 7, 4>();
                        tiles.load::<5>(left.add(starts[3]), SIDE);
                        tiles.multiply::<3, 5, 4>();
                    } else {
                        let left = [left.add(starts[0]), left.add(starts[SUMS - 1])];
                        let left = Words { tiles: left, part: SIDE, row };
                        let right = Words { tiles: right, part: TILE, row: SIDE };
                        add_tile::<T, PARTS>(tiles, left, right);
                        since += products::<PARTS>();
                        if since >= AWAKE {
                            tiles.store::<5>(unread.as_mut_ptr(), SIDE);
                            since = 0;
                        }
                    }
                    right = right.map(|tiles| tiles.wrapping_add(PARTS * TILE));
                }
                if PARTS == 1 {
                    since += SUMS * taps.len();
                    if since >= AWAKE {
                        tiles.store::<6>(unread.as_mut_ptr(), SIDE);
                        since = 0;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
pub mod tests;
