//! The weight of a convolution, and its outputs in the blocks that kernels take.

use std::ops::Range;

use rayon::prelude::*;

use super::geometry::Geometry;

/// Terms of a block of outputs that are packed one output after the other.
const PACKED_TERMS: usize = 256;

/// The weight of a convolution.
#[derive(Clone, Copy)]
pub(super) struct Weight<'a> {
    /// `[out, in, kh, kw]`, or where `flipped` `[in, out, kh, kw]` with both axes of
    /// the kernel the other way round: the gradient to the input is such a convolution
    /// of the gradient to the output.
    pub data: &'a [f32],
    /// See above.
    pub flipped: bool,
    /// Where flipped: some taps only of those in `data`.
    taps: Option<Taps<'a>>,
}

/// The taps that make a kernel, in its order, of another that has `of`.
#[derive(Clone, Copy)]
pub(super) struct Taps<'a> {
    pub taps: &'a [usize],
    pub of: usize,
}

impl<'a> Weight<'a> {
    /// `[out, in, kh, kw]`.
    pub fn plain(data: &'a [f32]) -> Self {
        Self { data, flipped: false, taps: None }
    }

    /// `[in, out, kh, kw]`, see [`Weight::flipped`].
    pub fn flipped(data: &'a [f32]) -> Self {
        Self { data, flipped: true, taps: None }
    }

    /// Some taps of `[in, out, kh, kw]`, in the order in which they are named.
    pub fn some_flipped(data: &'a [f32], taps: Taps<'a>) -> Self {
        Self { data, flipped: true, taps: Some(taps) }
    }

    /// The `blocks` of outputs, each `[in, kh, kw, pitch]`: numbers that mean nothing behind
    /// the last output of a block.
    pub(super) fn pack(self, g: &Geometry, blocks: Blocks, pitch: usize, packed: &mut [f32]) {
        let (depth, count) = (g.depth(), g.taps());
        let all: Vec<_> = (0..count).rev().collect();
        let Taps { taps, of } = self.taps.unwrap_or(Taps { taps: &all, of: count });
        packed.par_chunks_mut(pitch * depth).enumerate().for_each(|(block, packed)| {
            let outputs = blocks.range(block);
            // So many terms of all outputs, one after the other, that what is written stays in
            // the first-level cache.
            if !self.flipped {
                for (chunk, packed) in packed.chunks_mut(pitch * PACKED_TERMS).enumerate() {
                    for (m, output) in outputs.clone().enumerate() {
                        let terms = &self.data[output * depth..(output + 1) * depth]
                            [chunk * PACKED_TERMS..];
                        let column = packed[m..].iter_mut().step_by(pitch);
                        column.zip(terms).for_each(|(to, from)| *to = *from);
                    }
                }
                return;
            }
            for (input, packed) in packed.chunks_exact_mut(pitch * count).enumerate() {
                let kernels = &self.data[(input * g.out_channels + outputs.start) * of..];
                for (m, kernel) in kernels.chunks_exact(of).take(outputs.len()).enumerate() {
                    let column = packed[m..].iter_mut().step_by(pitch);
                    column.zip(taps).for_each(|(to, tap)| *to = kernel[*tap]);
                }
            }
        });
    }
}

/// Output channels in blocks that differ by one channel at most.
#[derive(Clone, Copy)]
pub(super) struct Blocks {
    pub channels: usize,
    pub count: usize,
}

impl Blocks {
    /// Blocks of at most `rows` channels.
    pub fn of(channels: usize, rows: usize) -> Self {
        Self { channels, count: channels.div_ceil(rows) }
    }

    /// The channels of block `index`.
    pub fn range(self, index: usize) -> Range<usize> {
        index * self.channels / self.count..(index + 1) * self.channels / self.count
    }
}
