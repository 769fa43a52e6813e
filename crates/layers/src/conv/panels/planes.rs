//! The zero-padded planes of a band of rows, and the panels gathered from them.

use std::ops::Range;

use super::super::geometry::Geometry;
use super::{BAND_FLOATS, MIN_TASKS};
use crate::vector::Vector;

/// Where the planes of a band have what.
#[derive(Clone, Copy)]
pub(in crate::conv) struct Planes {
    /// Output rows of a band, at most.
    pub(in crate::conv) rows: usize,
    /// Bands of a picture.
    pub(in crate::conv) bands: usize,
    /// Floats from one remainder of columns to the next.
    pub(in crate::conv) phase: usize,
    /// Floats from one input row to the next.
    pub(in crate::conv) pitch: usize,
    /// Floats from one channel to the next.
    pub(in crate::conv) plane: usize,
    /// Whether the picture itself is such planes.
    pub(in crate::conv) is_picture: bool,
}

impl Planes {
    /// Planes of so many rows that they stay in a cache.
    pub(in crate::conv) fn new(g: &Geometry) -> Self {
        let stride = g.config.stride;
        let all = Self::whole(g);
        let cached = BAND_FLOATS / (all.pitch * g.in_channels).max(1);
        let cached = cached.saturating_sub(g.kh.saturating_sub(stride)) / stride;
        let shared = g.oh.div_ceil(MIN_TASKS.div_ceil(g.batch.max(1)));
        let rows = cached.max(2).min(shared).clamp(1, g.oh.max(1));
        let plane = ((rows - 1) * stride + g.kh) * all.pitch;
        let bands = g.oh.div_ceil(rows);
        if all.is_picture {
            Self { rows, bands, ..all }
        } else {
            Self { rows, bands, plane, ..all }
        }
    }

    /// Planes of all rows.
    pub(in crate::conv) fn whole(g: &Geometry) -> Self {
        let stride = g.config.stride;
        let p = g.config.padding;
        let phase = (g.w + p.left + p.right).div_ceil(stride);
        let pitch = phase * stride;
        let is_picture = stride == 1 && [p.top, p.bottom, p.left, p.right] == [0; 4];
        let rows = g.oh.max(1);
        let plane = if is_picture { g.in_pixels() } else { ((rows - 1) * stride + g.kh) * pitch };
        Self { rows, bands: 1, phase, pitch, plane, is_picture }
    }

    /// Output rows of band `index` of a picture.
    pub(in crate::conv) fn range(&self, g: &Geometry, index: usize) -> Range<usize> {
        index * self.rows..((index + 1) * self.rows).min(g.oh)
    }

    /// Where each (channel, tap) finds what the first output reads.
    pub(in crate::conv) fn taps(&self, g: &Geometry) -> Vec<usize> {
        let stride = g.config.stride;
        let tap = |tap: usize| {
            let (ky, kx) = (tap / g.kw, tap % g.kw);
            ky * self.pitch + kx % stride * self.phase + kx / stride
        };
        let pairs = (0..g.depth()).map(|pair| (pair / g.taps(), pair % g.taps()));
        pairs.map(|(channel, t)| channel * self.plane + tap(t)).collect()
    }

    /// Copies what the output rows `rows` read of one picture.
    pub(in crate::conv) fn fill(
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
                if stride == 2 {
                    self.halves(left, source, target);
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

    /// A row and `left` zeros before it, even and odd columns apart, for a stride of 2: in
    /// pairs, which machines sort by vectors.
    fn halves(&self, left: usize, source: &[f32], target: &mut [f32]) {
        let (even, odd) = target.split_at_mut(self.phase);
        let before = left / 2;
        even[..before].fill(0.0);
        odd[..before].fill(0.0);
        let (mut even, mut odd) = (&mut even[before..], &mut odd[before..]);
        let mut source = source;
        if let (true, Some((first, others))) = (left % 2 == 1, source.split_first()) {
            (even[0], odd[0]) = (0.0, *first);
            (even, odd) = (&mut even[1..], &mut odd[1..]);
            source = others;
        }
        let (pairs, last) = source.as_chunks::<2>();
        let (to_even, even) = even.split_at_mut(pairs.len());
        let (to_odd, odd) = odd.split_at_mut(pairs.len());
        for ((even, odd), [a, b]) in to_even.iter_mut().zip(to_odd).zip(pairs) {
            (*even, *odd) = (*a, *b);
        }
        even.fill(0.0);
        odd.fill(0.0);
        if let (Some(even), [last]) = (even.first_mut(), last) {
            *even = *last;
        }
    }
}

/// Copies what the outputs `outputs` of a band read for the (channel, tap) pairs `taps` (see
/// [`Planes::taps`]) to `panel`, rows of two vectors; beyond the last output are numbers
/// that mean nothing.
///
/// # Safety
/// The machine must have the instruction set of `S`.
#[inline(always)]
pub(super) unsafe fn gather<S: Vector>(
    g: &Geometry,
    planes: &Planes,
    data: &[f32],
    outputs: Range<usize>,
    taps: &[usize],
    panel: &mut [f32],
) {
    let width = 2 * S::LANES;
    let step = g.config.stride * planes.pitch;
    let at = |output: usize| output / g.ow * step + output % g.ow;
    // Of each vector, where it starts, if all of it is in one row.
    let starts: [Option<usize>; 2] = std::array::from_fn(|vector| {
        let first = outputs.start + vector * S::LANES;
        let last = first + S::LANES - 1;
        (last < outputs.end && at(last) - at(first) == S::LANES - 1).then(|| at(first))
    });
    if let [Some(a), Some(b)] = starts {
        let furthest = taps.iter().fold(0, |furthest, tap| furthest.max(*tap));
        assert!(furthest + a.max(b) + S::LANES <= data.len() && panel.len() >= taps.len() * width);
        let (data, mut row) = (data.as_ptr(), panel.as_mut_ptr());
        for &tap in taps {
            // SAFETY: this function's contract; two vectors of both, within the slices
            // (asserted).
            unsafe {
                S::load(data.add(tap + a)).store(row);
                S::load(data.add(tap + b)).store(row.add(S::LANES));
                row = row.add(width);
            }
        }
        return;
    }
    for (row, &tap) in panel.chunks_exact_mut(width).zip(taps) {
        let mut output = outputs.start;
        while output < outputs.end {
            let len = (g.ow - output % g.ow).min(outputs.end - output);
            let to = &mut row[output - outputs.start..][..len];
            to.copy_from_slice(&data[tap + at(output)..][..len]);
            output += len;
        }
    }
}
