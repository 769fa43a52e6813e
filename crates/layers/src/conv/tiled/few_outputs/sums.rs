//! What the taps made of their pixels, of output rows under way: a row of sums for each column of
//! the kernel and output channel. Taps below each other add to the same sums, and what an input
//! row adds to lies together.

use simd::tiles::SIDE;

use super::super::super::geometry::Geometry;
use super::BLOCK;
use crate::vector::Vector;

/// Floats of all sums, about: a share of the second-level cache.
const FLOATS: usize = 32 << 10;

/// How the sums lie.
#[derive(Clone, Copy)]
pub struct Shape<'a> {
    g: &'a Geometry,
    /// Floats before the sums of the first pixel, as many as the padding has columns or more, and
    /// of a row: what lies beyond the pixels is 0.
    lead: usize,
    pub pitch: usize,
    /// Floats of an output row's.
    of_row: usize,
    /// Output rows.
    count: usize,
}

impl<'a> Shape<'a> {
    pub fn new(g: &'a Geometry) -> Self {
        let p = g.config.padding;
        let lead = p.left.next_multiple_of(SIDE);
        // Blocks of pixels, or the last vector of outputs reaches furthest.
        let most = g.w.next_multiple_of(BLOCK).max(g.w + p.right + SIDE);
        let pitch = lead + most.next_multiple_of(SIDE);
        let of_row = g.kw * g.out_channels * pitch;
        Self { g, lead, pitch, of_row, count: (FLOATS / of_row).max(2 * g.kh) }
    }

    pub fn floats(&self) -> usize {
        self.count * self.of_row
    }

    /// Which row of those that [`Sums::window`] gives a tap of an output channel adds to.
    pub fn line(&self, tap: usize, channel: usize) -> usize {
        let Geometry { kh, kw, out_channels, .. } = *self.g;
        // What is furthest down in the kernel belongs to the first output row.
        ((kh - 1 - tap / kw) * kw + tap % kw) * out_channels + channel
    }
}

/// The sums of some output rows, `[rows, kw, out]`.
pub struct Sums<'a> {
    shape: Shape<'a>,
    data: &'a mut [f32],
    /// The padded input row whose first output row comes first.
    first: usize,
}

impl<'a> Sums<'a> {
    pub fn new(shape: Shape<'a>, data: &'a mut [f32]) -> Self {
        let data = &mut data[..shape.floats()];
        data.fill(0.0);
        Self { shape, data, first: 0 }
    }

    /// What the next padded row of a band adds to: rows of sums from its first pixel on, one for each
    /// tap of each output channel.
    #[inline(always)]
    pub fn window(&mut self, read: usize) -> &mut [f32] {
        let Shape { g, of_row, count, lead, .. } = self.shape;
        if read - self.first + g.kh > count {
            // What has begun goes to the front.
            let (from, kept) = ((read - self.first) * of_row, (g.kh - 1) * of_row);
            self.data.copy_within(from..from + kept, 0);
            self.data[kept..].fill(0.0);
            self.first = read;
        }
        let at = (read - self.first) * of_row;
        &mut self.data[at + lead..at + g.kh * of_row]
    }

    /// The outputs of a channel of a row that all its taps have added to. (Once.)
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`.
    #[inline(always)]
    pub unsafe fn finish<S: Vector>(&mut self, row: usize, channel: usize) -> &[f32] {
        let Shape { g, of_row, lead, pitch, .. } = self.shape;
        let at = (row + g.kh - 1 - self.first) * of_row + channel * pitch;
        let at = at + lead - g.config.padding.left;
        let (len, apart) = (g.ow.next_multiple_of(S::LANES), g.out_channels * pitch + 1);
        assert!(at + (g.kw - 1) * apart + len <= self.data.len());
        let first = self.data[at..].as_mut_ptr();
        for lane in (0..len).step_by(S::LANES) {
            // SAFETY: this function's contract; vectors of sums that are there (asserted).
            unsafe {
                let to = first.add(lane);
                let mut sum = S::load(to);
                for kx in 1..g.kw {
                    sum = sum.plus(S::load(to.add(kx * apart)));
                }
                sum.store(to);
            }
        }
        &self.data[at..at + g.ow]
    }
}
