//! Feature maps as pairs of channels in bf16: zero-padded planes of a band of rows, in which 16
//! pairs of a pixel lie side by side. A tile finds in 16 lines of the cache what 16 neighbouring
//! outputs read for a tap, whatever the tap.

use std::ops::Range;

use simd::tiles::SIDE;

use super::super::geometry::Geometry;
use super::super::winograd::Extras;
use super::weights::GROUP;
use crate::group_norm::Channels;
use crate::matrix::tiled::tiles::pairs;
use crate::vector::{MAX_LANES, Vector};

/// Words of the planes that meet weights at a time: a share of the second-level cache.
const BAND_WORDS: usize = 192 << 10;
/// Outputs of a channel that should meet a weight once it has come from another cache.
const ENOUGH: usize = 256;
/// Tasks to cut a convolution into, so that threads share it.
pub const TASKS: usize = 4;

/// Where the planes of a band have what, in lines of 16 pairs: those of some groups of channels,
/// which take turns where there is no room for all and enough outputs. With a stride there is a plane for
/// each remainder of rows and columns, so that the inputs of neighbouring outputs are neighbours.
/// Rows of a plane follow one another, and have a line for each output of a row and for the
/// columns that its taps reach further: a tap is a distance, and 16 neighbours may be of two rows.
#[derive(Clone, Copy)]
pub struct Maps {
    /// Output rows of a band, at most.
    pub rows: usize,
    /// Bands of a picture.
    pub bands: usize,
    /// Lines from one row of a plane to the next.
    pub pitch: usize,
    /// Lines of the plane of one remainder.
    phase: usize,
    /// Planes of a group.
    planes: usize,
    /// Remainders of columns.
    across: usize,
    /// Groups at a time.
    pub groups: usize,
    parts: usize,
}

impl Maps {
    /// For planes that are made when weights meet them, in as many bands as `tasks` or more.
    pub fn new(g: &Geometry, parts: usize, tasks: usize) -> Self {
        let mut groups = g.in_channels.div_ceil(GROUP);
        let most = g.oh.div_ceil(tasks.div_ceil(g.batch));
        loop {
            let one = Self::of(g, parts, groups, 1);
            let (row, further) = (one.pitch * one.planes, (g.kh - 1) / g.config.stride);
            let cached = BAND_WORDS / (row * groups * parts * SIDE);
            let rows = cached.saturating_sub(further).clamp(1, most);
            if groups == 1 || rows * g.ow >= ENOUGH.min(most * g.ow) {
                return Self::of(g, parts, groups, rows);
            }
            groups = groups.div_ceil(2);
        }
    }

    /// For planes of whole pictures, all of which are made before weights meet them.
    pub fn whole(g: &Geometry, parts: usize) -> Self {
        let one = Self::of(g, parts, 1, g.oh);
        let groups = (BAND_WORDS / (g.batch * one.group())).clamp(1, g.in_channels.div_ceil(GROUP));
        Self { groups, ..one }
    }

    fn of(g: &Geometry, parts: usize, groups: usize, rows: usize) -> Self {
        let stride = g.config.stride;
        let further = |kernel: usize| (kernel - 1) / stride;
        let (down, across) = (stride.min(g.kh), stride.min(g.kw));
        let pitch = g.ow + further(g.kw);
        let (phase, planes) = ((rows + further(g.kh)) * pitch, down * across);
        let bands = g.oh.div_ceil(rows);
        Self { rows, bands, pitch, phase, planes, across, groups, parts }
    }

    /// Words of the planes of a group: the parts of a line are neighbours.
    pub fn group(&self) -> usize {
        self.planes * self.phase * self.line_words()
    }

    /// Words from a line to the next.
    pub fn line_words(&self) -> usize {
        self.parts * SIDE
    }

    /// Words of the planes of so many groups, and of the lines behind the last that a tile may
    /// read, which mean nothing.
    pub fn words(&self, groups: usize) -> usize {
        groups * self.group() + SIDE * self.line_words()
    }

    /// Output rows of band `index` of a picture.
    pub fn range(&self, g: &Geometry, index: usize) -> Range<usize> {
        index * self.rows..((index + 1) * self.rows).min(g.oh)
    }

    /// The line of each tap of the first output, in the first group.
    pub fn taps(&self, g: &Geometry) -> Vec<usize> {
        (0..g.taps()).map(|tap| self.line(g, tap / g.kw, tap % g.kw)).collect()
    }

    /// The line of a padded row and column of the band, of what is read.
    #[inline(always)]
    fn line(&self, g: &Geometry, row: usize, column: usize) -> usize {
        let stride = g.config.stride;
        let phase = row % stride * self.across + column % stride;
        phase * self.phase + row / stride * self.pitch + column / stride
    }

    /// Copies what the output rows `rows` read of some groups of channels of one picture to
    /// `words`.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`.
    #[inline(always)]
    pub unsafe fn fill<S: Vector, const PARTS: usize>(
        &self,
        g: &Geometry,
        source: Source,
        rows: &Range<usize>,
        groups: Range<usize>,
        words: &mut [f32],
    ) {
        let Source { image, picture, extras: Extras { upsample, norm, .. } } = source;
        let (stride, top) = (g.config.stride, g.config.padding.top);
        let shift = usize::from(upsample);
        let (width, pixels) = (g.w >> shift, g.in_pixels() >> (2 * shift));
        assert!(PARTS == self.parts);
        let count = (rows.len() - 1) * stride + g.kh;
        let mut room = Room::NEW;
        for (group, words) in groups.zip(words.chunks_exact_mut(self.group())) {
            let image = &image[group * GROUP * pixels..];
            let image = &image[..image.len().min(GROUP * pixels)];
            let first = picture * g.in_channels + group * GROUP;
            for row in (0..count).filter(|row| row % stride < g.kh) {
                let to = self.line(g, row, 0);
                let row = (rows.start * stride + row).checked_sub(top).filter(|&row| row < g.h);
                let Some(row) = row else {
                    for phase in 0..self.across {
                        let to = to + phase * self.phase;
                        self.clear(words, to..to + self.pitch);
                    }
                    continue;
                };
                let image = &image[(row >> shift) * width..];
                let source = Row { image, pixels, width, first, norm };
                // SAFETY: this function's contract.
                unsafe { self.fill_row::<S, PARTS>(g, source, upsample, (words, to), &mut room) }
            }
        }
    }

    /// Zeros in some lines.
    fn clear(&self, words: &mut [f32], lines: Range<usize>) {
        let len = self.line_words();
        words[lines.start * len..lines.end * len].fill(0.0);
    }

    /// One row of a group from line `to` on, with zeros before and behind; `doubled`: each pixel is
    /// two.
    ///
    /// # Safety
    /// As for [`Self::fill`].
    #[inline(always)]
    unsafe fn fill_row<S: Vector, const PARTS: usize>(
        &self,
        g: &Geometry,
        source: Row,
        doubled: bool,
        (words, to): (&mut [f32], usize),
        room: &mut Room<PARTS>,
    ) {
        let Room { lines, blocks } = room;
        let (stride, left, len) = (g.config.stride, g.config.padding.left, self.line_words());
        for phase in 0..self.across {
            // Columns of the plane that the picture has.
            let of = |column: usize| column.saturating_sub(phase).div_ceil(stride).min(self.pitch);
            let (first, end, to) = (of(left), of(left + g.w), to + phase * self.phase);
            self.clear(words, to..to + first);
            self.clear(words, to + end..to + self.pitch);
        }
        for first in (0..source.width).step_by(S::LANES) {
            let count = S::LANES.min(source.width - first);
            let column = left + first;
            if stride == 1 && !doubled && count == S::LANES && column + count <= self.pitch {
                let to = &mut words[(to + column) * len..][..count * len];
                // SAFETY: this function's contract.
                unsafe { source.lines::<S, PARTS>(first, to, blocks) }
                continue;
            }
            let lines = lines.as_flattened_mut();
            // SAFETY: this function's contract.
            unsafe { source.lines::<S, PARTS>(first, lines, blocks) }
            for (i, line) in lines.chunks_exact(len).take(count).enumerate() {
                let column = left + ((first + i) << usize::from(doubled));
                for column in column..=column + usize::from(doubled) {
                    if column % stride < self.across && column / stride < self.pitch {
                        let to = to + self.line(g, 0, column);
                        words[to * len..][..len].copy_from_slice(line);
                    }
                }
            }
        }
    }
}

/// What planes are made of.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub image: &'a [f32],
    /// Its number.
    pub picture: usize,
    pub extras: Extras<'a>,
}

/// Where lines are made that do not lie side by side, and blocks of words that are to be turned:
/// once for all, as to clear it takes longer than to fill it.
struct Room<const PARTS: usize> {
    lines: [[f32; MAX_LANES * SIDE]; PARTS],
    blocks: [[f32; MAX_LANES * MAX_LANES]; PARTS],
}

impl<const PARTS: usize> Room<PARTS> {
    const NEW: Self = Self {
        lines: [[0.0; MAX_LANES * SIDE]; PARTS],
        blocks: [[0.0; MAX_LANES * MAX_LANES]; PARTS],
    };
}

/// A row of some channels, `pixels` apart.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    /// From the row's first pixel in the first channel on.
    pub image: &'a [f32],
    pub pixels: usize,
    pub width: usize,
    /// The first channel, counted over all pictures.
    pub first: usize,
    pub norm: Option<&'a Channels>,
}

impl Row<'_> {
    /// Lines of 16 pairs of as many pixels from `first` on as a vector has lanes; those beyond the
    /// row are zeros.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`.
    #[inline(always)]
    unsafe fn lines<S: Vector, const PARTS: usize>(
        self,
        first: usize,
        target: &mut [f32],
        blocks: &mut [[f32; MAX_LANES * MAX_LANES]; PARTS],
    ) {
        assert!(target.len() >= S::LANES * PARTS * SIDE);
        for pair in (0..SIDE).step_by(S::LANES) {
            for i in 0..S::LANES {
                let channel = 2 * (pair + i);
                // SAFETY: this function's contract; a vector of each block.
                unsafe {
                    // The next row is asked for: channels are too many for the machine to guess.
                    for channel in [channel, channel + 1] {
                        let at = channel * self.pixels + first + self.width;
                        S::prefetch(self.image.as_ptr().wrapping_add(at));
                    }
                    let a = self.vector::<S>(channel, first);
                    let b = self.vector::<S>(channel + 1, first);
                    let words = pairs::<S, PARTS>(a, b);
                    for (words, block) in words.iter().zip(&mut *blocks) {
                        words.store(block[i * S::LANES..][..S::LANES].as_mut_ptr());
                    }
                }
            }
            for (part, block) in blocks.iter().enumerate() {
                // SAFETY: `LANES` rows of `LANES`, and `LANES` lines (asserted).
                unsafe {
                    let to = target.as_mut_ptr().add(part * SIDE + pair);
                    S::transpose(block.as_ptr(), S::LANES, to, PARTS * SIDE);
                }
            }
        }
    }

    /// Pixels of a channel from `first` on, zeros where there are none.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`.
    #[inline(always)]
    pub unsafe fn vector<S: Vector>(self, channel: usize, first: usize) -> S {
        let at = channel * self.pixels + first;
        let len = S::LANES.min(self.width.saturating_sub(first));
        if len == 0 || at + len > self.image.len() {
            // SAFETY: this function's contract.
            return unsafe { S::splat(0.0) };
        }
        let mut padded = [0.0_f32; MAX_LANES];
        // SAFETY: this function's contract; pixels of the row, or `LANES` of `padded`.
        unsafe {
            let from = self.image.as_ptr().add(at);
            let pixels = if len == S::LANES {
                S::load(from)
            } else {
                padded.as_mut_ptr().copy_from_nonoverlapping(from, len);
                S::load(padded.as_ptr())
            };
            let Some(norm) = self.norm else { return pixels };
            let normed = norm.along(self.first + channel, pixels);
            if len == S::LANES {
                return normed;
            }
            // Zeros of no pixels are none behind a norm.
            normed.store(padded.as_mut_ptr());
            padded[len..].fill(0.0);
            S::load(padded.as_ptr())
        }
    }
}
