//! Feature maps as pairs of channels in bf16: zero-padded planes of a band of rows, in which 16
//! pairs of a pixel lie side by side. A tile finds in 16 lines of the cache what 16 neighbouring
//! outputs read for a tap, whatever the tap.

use std::ops::Range;

use simd::tiles::SIDE;

use super::super::geometry::Geometry;
use super::super::winograd::Extras;
use super::weights::GROUP;
use crate::group_norm::Channels;
use crate::vector::{MAX_LANES, Vector};

/// Words of the planes of a band: a share of the second-level cache.
const BAND_WORDS: usize = 192 << 10;

/// Where the planes of a band have what, in lines of 16 pairs. The columns of a row are sorted by
/// their remainder by the stride, so that the inputs of neighbouring outputs are neighbours.
#[derive(Clone, Copy)]
pub struct Maps {
    /// Output rows of a band, at most.
    pub rows: usize,
    /// Bands of a picture.
    pub bands: usize,
    /// Lines from one remainder of columns to the next.
    phase: usize,
    /// Lines from one input row to the next.
    pub pitch: usize,
    /// Lines from one group of channels to the next.
    pub plane: usize,
    groups: usize,
}

impl Maps {
    pub fn new(g: &Geometry) -> Self {
        let (stride, padding) = (g.config.stride, g.config.padding);
        let phase = (g.w + padding.left + padding.right).div_ceil(stride);
        let pitch = phase * stride;
        let groups = g.in_channels.div_ceil(GROUP);
        let cached = BAND_WORDS / (groups * pitch * SIDE);
        let rows = (cached.saturating_sub(g.kh.saturating_sub(stride)) / stride).clamp(1, g.oh);
        let plane = ((rows - 1) * stride + g.kh) * pitch;
        Self { rows, bands: g.oh.div_ceil(rows), phase, pitch, plane, groups }
    }

    /// Words of the planes, and of the lines behind the last that a tile may read, which mean
    /// nothing.
    pub fn words(&self) -> usize {
        (self.groups * self.plane + SIDE) * SIDE
    }

    /// Output rows of band `index` of a picture.
    pub fn range(&self, g: &Geometry, index: usize) -> Range<usize> {
        index * self.rows..((index + 1) * self.rows).min(g.oh)
    }

    /// The line of each tap of the first output, in the first group.
    pub fn taps(&self, g: &Geometry) -> Vec<usize> {
        let tap = |tap: usize| tap / g.kw * self.pitch + self.column(g, tap % g.kw);
        (0..g.taps()).map(tap).collect()
    }

    /// The line of a padded column in its row.
    #[inline(always)]
    fn column(&self, g: &Geometry, column: usize) -> usize {
        match g.config.stride {
            1 => column,
            stride => column % stride * self.phase + column / stride,
        }
    }

    /// Copies what the output rows `rows` read of one picture to `words`.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`.
    #[inline(always)]
    pub unsafe fn fill<S: Vector>(
        &self,
        g: &Geometry,
        source: Source,
        rows: &Range<usize>,
        words: &mut [f32],
    ) {
        let Source { image, picture, extras: Extras { upsample, norm, .. } } = source;
        let (stride, top) = (g.config.stride, g.config.padding.top);
        let shift = usize::from(upsample);
        let (width, pixels) = (g.w >> shift, g.in_pixels() >> (2 * shift));
        let count = (rows.len() - 1) * stride + g.kh;
        let planes = words.chunks_exact_mut(self.plane * SIDE).take(self.groups);
        for (group, (planes, image)) in planes.zip(image.chunks(GROUP * pixels)).enumerate() {
            let first = picture * g.in_channels + group * GROUP;
            for (row, target) in planes.chunks_exact_mut(self.pitch * SIDE).take(count).enumerate()
            {
                let row = (rows.start * stride + row).checked_sub(top).filter(|&row| row < g.h);
                let Some(row) = row else {
                    target.fill(0.0);
                    continue;
                };
                let image = &image[(row >> shift) * width..];
                let source = Row { image, pixels, width, first, norm };
                // SAFETY: this function's contract.
                unsafe { self.fill_row::<S>(g, source, upsample, target) }
            }
        }
    }

    /// One row of a group, with zeros before and behind; `doubled`: each pixel is two.
    ///
    /// # Safety
    /// As for [`Self::fill`].
    #[inline(always)]
    unsafe fn fill_row<S: Vector>(
        &self,
        g: &Geometry,
        source: Row,
        doubled: bool,
        target: &mut [f32],
    ) {
        let left = g.config.padding.left;
        for column in (0..left).chain(left + g.w..self.pitch) {
            target[self.column(g, column) * SIDE..][..SIDE].fill(0.0);
        }
        for first in (0..source.width).step_by(S::LANES) {
            let len = S::LANES.min(source.width - first);
            if g.config.stride == 1 && !doubled && len == S::LANES {
                // SAFETY: this function's contract.
                unsafe { source.lines::<S>(first, &mut target[(left + first) * SIDE..]) }
                continue;
            }
            let mut lines = [0.0_f32; MAX_LANES * SIDE];
            // SAFETY: this function's contract.
            unsafe { source.lines::<S>(first, &mut lines) }
            for (i, line) in lines.chunks_exact(SIDE).take(len).enumerate() {
                let column = left + ((first + i) << usize::from(doubled));
                for column in column..=column + usize::from(doubled) {
                    let target = &mut target[self.column(g, column) * SIDE..][..SIDE];
                    target.copy_from_slice(line);
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

/// A row of up to 32 channels, `pixels` apart.
#[derive(Clone, Copy)]
struct Row<'a> {
    /// From the row's first pixel in the first channel on.
    image: &'a [f32],
    pixels: usize,
    width: usize,
    /// The first channel, counted over all pictures.
    first: usize,
    norm: Option<&'a Channels>,
}

impl Row<'_> {
    /// Lines of 16 pairs of as many pixels from `first` on as a vector has lanes; those beyond the
    /// row are zeros.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`.
    #[inline(always)]
    unsafe fn lines<S: Vector>(self, first: usize, target: &mut [f32]) {
        assert!(target.len() >= S::LANES * SIDE);
        for pair in (0..SIDE).step_by(S::LANES) {
            let mut block = [0.0_f32; MAX_LANES * MAX_LANES];
            for (i, words) in block.chunks_exact_mut(S::LANES).take(S::LANES).enumerate() {
                let channel = 2 * (pair + i);
                // SAFETY: this function's contract; a vector of `block`.
                unsafe {
                    let (a, b) =
                        (self.vector::<S>(channel, first), self.vector::<S>(channel + 1, first));
                    a.bf16_pairs(b).store(words.as_mut_ptr());
                }
            }
            // SAFETY: `LANES` rows of `LANES`, and `LANES` lines (asserted).
            unsafe {
                let to = target.as_mut_ptr().add(pair);
                S::transpose(block.as_ptr(), S::LANES, to, SIDE);
            }
        }
    }

    /// Pixels of a channel from `first` on, zeros where there are none.
    ///
    /// # Safety
    /// As for [`Self::lines`].
    #[inline(always)]
    unsafe fn vector<S: Vector>(self, channel: usize, first: usize) -> S {
        let at = channel * self.pixels + first;
        let len = S::LANES.min(self.width - first);
        if at + len > self.image.len() {
            // SAFETY: this function's contract.
            return unsafe { S::splat(0.0) };
        }
        let mut padded = [0.0_f32; MAX_LANES];
        // SAFETY: this function's contract; pixels of the row, or `LANES` of `padded`.
        unsafe {
            let from = self.image.as_ptr().add(at);
            // The next row, which is asked for: channels are too many for the machine to guess.
            S::prefetch(from.wrapping_add(self.width));
            let pixels = if len == S::LANES {
                S::load(from)
            } else {
                padded.as_mut_ptr().copy_from_nonoverlapping(from, len);
                S::load(padded.as_ptr())
            };
            match self.norm {
                Some(norm) => norm.along(self.first + channel, pixels),
                None => pixels,
            }
        }
    }
}
