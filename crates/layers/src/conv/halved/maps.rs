//! Feature maps as pairs of channels in bf16: zero-padded planes of a band of rows, in which
//! a tile finds what 16 neighbouring outputs read of 16 pairs, whatever the tap.

use std::ops::Range;

use simd::tiles::{SIDE, bf16_pair};

use super::super::geometry::Geometry;
use super::weights::GROUP;

/// Words of the planes of a band: a share of the second-level cache.
const BAND_WORDS: usize = 192 << 10;
/// Words behind the last plane that a tile may read, which mean nothing.
const SLACK: usize = 2 * SIDE;

/// Where the planes of a band have what. The columns of a row are sorted by their remainder
/// by the stride, so that the inputs of neighbouring outputs are neighbours.
#[derive(Clone, Copy)]
pub struct Maps {
    /// Output rows of a band, at most.
    pub rows: usize,
    /// Bands of a picture.
    pub bands: usize,
    /// Words from one remainder of columns to the next.
    phase: usize,
    /// Words from one input row to the next.
    pub pitch: usize,
    /// Words from one pair of channels to the next.
    pub plane: usize,
    /// Pairs of channels, filled up to whole tiles.
    pairs: usize,
}

impl Maps {
    pub fn new(g: &Geometry) -> Self {
        let (stride, padding) = (g.config.stride, g.config.padding);
        let phase = (g.w + padding.left + padding.right).div_ceil(stride);
        let pitch = phase * stride;
        let pairs = g.in_channels.div_ceil(GROUP) * SIDE;
        let cached = BAND_WORDS / (pairs * pitch);
        let rows = (cached.saturating_sub(g.kh.saturating_sub(stride)) / stride).clamp(1, g.oh);
        // An odd number of lines: the rows of a tile fall into different sets of a cache.
        let plane = (((rows - 1) * stride + g.kh) * pitch).next_multiple_of(SIDE) | SIDE;
        Self { rows, bands: g.oh.div_ceil(rows), phase, pitch, plane, pairs }
    }

    /// Words of the planes, and of the row that they are filled by: whole lines.
    pub fn words(&self) -> usize {
        self.pairs * self.plane + SLACK + self.pitch.next_multiple_of(SIDE)
    }

    /// Output rows of band `index` of a picture.
    pub fn range(&self, g: &Geometry, index: usize) -> Range<usize> {
        index * self.rows..((index + 1) * self.rows).min(g.oh)
    }

    /// Where each tap finds what the first output reads of the first pair.
    pub fn taps(&self, g: &Geometry) -> Vec<usize> {
        let stride = g.config.stride;
        let tap = |tap: usize| {
            let (ky, kx) = (tap / g.kw, tap % g.kw);
            ky * self.pitch + kx % stride * self.phase + kx / stride
        };
        (0..g.taps()).map(tap).collect()
    }

    /// Copies what the output rows `rows` read of one picture to `words`; `doubled`: each
    /// of its pixels is four of the input.
    #[inline(always)]
    pub fn fill(
        &self,
        g: &Geometry,
        image: &[f32],
        doubled: bool,
        rows: &Range<usize>,
        words: &mut [f32],
    ) {
        let (stride, top) = (g.config.stride, g.config.padding.top);
        let shift = usize::from(doubled);
        let (width, pixels) = (g.w >> shift, g.in_pixels() >> (2 * shift));
        let (words, line) = words.split_at_mut(self.pairs * self.plane + SLACK);
        let planes = words[..self.pairs * self.plane].chunks_exact_mut(self.plane);
        for (pair, plane) in planes.enumerate() {
            let count = (rows.len() - 1) * stride + g.kh;
            for (row, target) in plane.chunks_exact_mut(self.pitch).take(count).enumerate() {
                let row = (rows.start * stride + row).checked_sub(top);
                let row = row.filter(|&row| row < g.h && 2 * pair < g.in_channels);
                let Some(row) = row else {
                    target.fill(0.0);
                    continue;
                };
                let at = 2 * pair * pixels + (row >> shift) * width;
                let first = &image[at..at + width];
                let second = (2 * pair + 1 < g.in_channels)
                    .then(|| &image[at + pixels..at + pixels + width]);
                if stride == 1 {
                    fill_row(first, second, doubled, g.config.padding.left, target);
                    continue;
                }
                fill_row(first, second, doubled, g.config.padding.left, line);
                for (phase, target) in target.chunks_exact_mut(self.phase).enumerate() {
                    let line = line[phase..].iter().step_by(stride);
                    target.iter_mut().zip(line).for_each(|(to, from)| *to = *from);
                }
            }
        }
    }
}

/// Pairs of two rows with zeros before and behind, each twice where `doubled`. Without padding
/// on the right the row may be a little longer than `target`.
#[inline(always)]
fn fill_row(first: &[f32], second: Option<&[f32]>, doubled: bool, left: usize, target: &mut [f32]) {
    let (before, inside) = target.split_at_mut(left);
    before.fill(0.0);
    let len = first.len() << usize::from(doubled);
    let (inside, behind) = inside.split_at_mut(len);
    behind.fill(0.0);
    if doubled {
        let words = inside.as_chunks_mut::<2>().0.iter_mut().zip(first);
        match second {
            Some(second) => {
                for ((words, a), b) in words.zip(second) {
                    *words = [bf16_pair(*a, *b); 2];
                }
            }
            None => words.for_each(|(words, a)| *words = [bf16_pair(*a, 0.0); 2]),
        }
        return;
    }
    let words = inside.iter_mut().zip(first);
    match second {
        Some(second) => {
            for ((word, a), b) in words.zip(second) {
                *word = bf16_pair(*a, *b);
            }
        }
        None => words.for_each(|(word, a)| *word = bf16_pair(*a, 0.0)),
    }
}
