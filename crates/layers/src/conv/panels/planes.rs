//! The zero-padded planes of a band of rows, and the panels gathered from them.

use std::ops::Range;

use super::super::geometry::Geometry;
use super::{BAND_FLOATS, MIN_TASKS};
use crate::vector::Vector;

/// Where the planes of a band have what.
#[derive(Clone, Copy)]
pub(super) struct Planes {
    /// Output rows of a band, at most.
    pub(super) rows: usize,
    /// Bands of a picture.
    pub(super) bands: usize,
    /// Floats from one remainder of columns to the next.
    pub(super) phase: usize,
    /// Floats from one input row to the next.
    pub(super) pitch: usize,
    /// Floats from one channel to the next.
    pub(super) plane: usize,
    /// Whether the picture itself is such planes.
    pub(super) is_picture: bool,
}

impl Planes {
    pub(super) fn new(g: &Geometry) -> Self {
        let stride = g.config.stride;
        let padded = g.w + g.config.padding.left + g.config.padding.right;
        let phase = padded.div_ceil(stride);
        let pitch = phase * stride;
        let cached = BAND_FLOATS / (pitch * g.in_channels).max(1);
        let cached = cached.saturating_sub(g.kh.saturating_sub(stride)) / stride;
        let shared = g.oh.div_ceil(MIN_TASKS.div_ceil(g.batch.max(1)));
        let rows = cached.max(2).min(shared).clamp(1, g.oh.max(1));
        let plane = ((rows - 1) * stride + g.kh) * pitch;
        let p = g.config.padding;
        let is_picture = stride == 1 && [p.top, p.bottom, p.left, p.right] == [0; 4];
        let planes = Self { rows, bands: g.oh.div_ceil(rows), phase, pitch, plane, is_picture };
        if is_picture { Self { plane: g.in_pixels(), ..planes } } else { planes }
    }

    /// Output rows of band `index` of a picture.
    pub(super) fn range(&self, g: &Geometry, index: usize) -> Range<usize> {
        index * self.rows..((index + 1) * self.rows).min(g.oh)
    }

    /// Where tap `(ky, kx)` of a channel finds what the first output reads.
    fn tap(&self, g: &Geometry, ky: usize, kx: usize) -> usize {
        let stride = g.config.stride;
        if stride == 1 {
            return ky * self.pitch + kx;
        }
        ky * self.pitch + kx % stride * self.phase + kx / stride
    }

    /// Copies what the output rows `rows` read of one picture.
    pub(super) fn fill(
        &self,
        g: &Geometry,
        image: &[f32],
        rows: &Range<usize>,
        planes: &mut [f32],
    ) {
        let stride = g.config.stride;
        let (top, left) = (g.config.padding.top, g.config.padding.left);
        let first = rows.start * stride;
        let count = (rows.len() - 1) * stride + g.kh;
        for (source, plane) in
            image.chunks_exact(g.in_pixels()).zip(planes.chunks_exact_mut(self.plane))
        {
            for (row, target) in (first..first + count).zip(plane.chunks_exact_mut(self.pitch)) {
                let Some(row) = row.checked_sub(top).filter(|&row| row < g.h) else {
                    target.fill(0.0);
                    continue;
                };
                let source = &source[row * g.w..][..g.w];
                if stride == 1 {
                    target[..left].fill(0.0);
                    target[left..left + g.w].copy_from_slice(source);
                    target[left + g.w..].fill(0.0);
                    continue;
                }
                target.fill(0.0);
                for (phase, target) in target.chunks_exact_mut(self.phase).enumerate() {
                    // The first column of the padded row that has this remainder and is
                    // inside the picture.
                    let column = left + (phase + stride - left % stride) % stride;
                    let source = source.iter().skip(column - left).step_by(stride);
                    let target = &mut target[column / stride..];
                    target.iter_mut().zip(source).for_each(|(to, from)| *to = *from);
                }
            }
        }
    }
}

/// A (channel, tap) pair.
struct Tap {
    channel: usize,
    ky: usize,
    kx: usize,
}

impl Tap {
    fn of(g: &Geometry, pair: usize) -> Self {
        let tap = pair % g.taps();
        Self { channel: pair / g.taps(), ky: tap / g.kw, kx: tap % g.kw }
    }

    #[inline(always)]
    fn next(&mut self, g: &Geometry) {
        self.kx += 1;
        if self.kx == g.kw {
            (self.kx, self.ky) = (0, self.ky + 1);
        }
        if self.ky == g.kh {
            (self.ky, self.channel) = (0, self.channel + 1);
        }
    }
}

/// Copies what the outputs `outputs` of a band read for the (channel, tap) pairs
/// `range` to `panel`, rows of two vectors; beyond the last output are numbers that
/// mean nothing.
///
/// # Safety
/// The machine must have the instruction set of `S`.
#[inline(always)]
pub(super) unsafe fn gather<S: Vector>(
    g: &Geometry,
    planes: &Planes,
    data: &[f32],
    outputs: Range<usize>,
    range: Range<usize>,
    panel: &mut [f32],
) {
    let step = g.config.stride * planes.pitch;
    let at = |output: usize| output / g.ow * step + output % g.ow;
    // Of each vector, where it starts, if all of it is in one row.
    let starts: [Option<usize>; 2] = std::array::from_fn(|vector| {
        let first = outputs.start + vector * S::LANES;
        let last = first + S::LANES - 1;
        (last < outputs.end && at(last) - at(first) == S::LANES - 1).then(|| at(first))
    });
    let mut tap = Tap::of(g, range.start);
    for row in panel.chunks_exact_mut(2 * S::LANES).take(range.len()) {
        let from = &data[tap.channel * planes.plane + planes.tap(g, tap.ky, tap.kx)..];
        tap.next(g);
        if let [Some(a), Some(b)] = starts {
            let (a, b) = (&from[a..a + S::LANES], &from[b..b + S::LANES]);
            // SAFETY: this function's contract; two vectors of both.
            unsafe {
                S::load(a.as_ptr()).store(row.as_mut_ptr());
                S::load(b.as_ptr()).store(row[S::LANES..].as_mut_ptr());
            }
            continue;
        }
        let mut output = outputs.start;
        while output < outputs.end {
            let len = (g.ow - output % g.ow).min(outputs.end - output);
            let (to, from) =
                (&mut row[output - outputs.start..][..len], &from[at(output)..][..len]);
            to.copy_from_slice(from);
            output += len;
        }
    }
}
