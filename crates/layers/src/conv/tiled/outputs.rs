//! Which outputs a tile of sums has, and where they go.

use std::ops::Range;

use simd::tiles::SIDE;

use super::super::geometry::Geometry;
use super::super::square;
use super::maps::Maps;
use super::weights::TILE;
use crate::shared_mut::SharedMut;
use crate::vector::Vector;

/// The runs of 16 neighbouring outputs of a band.
#[derive(Clone, Copy)]
pub struct Runs {
    /// Of a row, where each has its own; else they go from one to the next.
    per_row: Option<usize>,
    pub count: usize,
    pitch: usize,
}

impl Runs {
    pub fn new(g: &Geometry, maps: &Maps, rows: usize) -> Self {
        let per_row = g.ow.div_ceil(SIDE);
        let (apart, on) = (rows * per_row, ((rows - 1) * maps.pitch + g.ow).div_ceil(SIDE));
        let (per_row, count) = if apart <= on { (Some(per_row), apart) } else { (None, on) };
        Self { per_row, count, pitch: maps.pitch }
    }

    /// The line of the first output of a run, in a plane.
    #[inline(always)]
    pub fn line(&self, index: usize) -> usize {
        match self.per_row {
            Some(count) => index / count * self.pitch + index % count * SIDE,
            None => index * SIDE,
        }
    }
}

/// An output that is made of tiles.
pub struct Outputs<'a> {
    pub g: &'a Geometry,
    /// Lines from one row of a plane to the next.
    pub pitch: usize,
    pub residual: Option<&'a [f32]>,
    pub y: SharedMut,
}

impl Outputs<'_> {
    /// Writes a tile of sums, 16 outputs from line `line` of their band's planes on by the channels
    /// of a block, with a tile behind it that means nothing. Lines behind the outputs of a row are
    /// none.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`; the pixels must be this task's alone.
    #[inline(always)]
    pub unsafe fn finish<S: Vector>(
        &self,
        (picture, rows): (usize, &Range<usize>),
        block: usize,
        line: usize,
        sums: &[f32],
    ) {
        let g = self.g;
        let (mut row, mut column) = (line / self.pitch, line % self.pitch);
        let mut done = 0;
        while done < SIDE && row < rows.len() {
            let len = (SIDE - done).min(g.ow.saturating_sub(column));
            if len > 0 {
                let pixel = (rows.start + row) * g.ow + column;
                // SAFETY: this function's contract.
                unsafe { self.write::<S>(picture, block, pixel, (done, len), sums) }
            }
            done += self.pitch - column;
            (row, column) = (row + 1, 0);
        }
    }

    /// Writes `len` outputs of a tile, from its row `first` on, to pixel `pixel` and behind.
    ///
    /// # Safety
    /// As for [`Self::finish`].
    #[inline(always)]
    unsafe fn write<S: Vector>(
        &self,
        picture: usize,
        block: usize,
        pixel: usize,
        (first, len): (usize, usize),
        sums: &[f32],
    ) {
        let g = self.g;
        let channels = block * SIDE..((block + 1) * SIDE).min(g.out_channels);
        let at = (picture * g.out_channels + channels.start) * g.out_pixels() + pixel;
        let planes = square::Planes { y: self.y, pixels: g.out_pixels(), residual: self.residual };
        // Of the rows that are read not all are written.
        assert!(sums.len() >= 2 * TILE && first + len <= SIDE);
        for lane in (0..channels.len()).step_by(S::LANES) {
            for start in (0..len).step_by(S::LANES) {
                let at = at + lane * g.out_pixels() + start;
                let count = (S::LANES.min(channels.len() - lane), S::LANES.min(len - start));
                // SAFETY: this function's contract; see `sums`.
                unsafe {
                    let from = sums.as_ptr().add((first + start) * SIDE + lane);
                    planes.write::<S>((from, SIDE), at, count);
                }
            }
        }
    }
}
