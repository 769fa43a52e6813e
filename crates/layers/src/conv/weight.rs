//! The weight of a convolution, and its outputs in the blocks that kernels take.

use std::ops::Range;

use rayon::prelude::*;

use super::geometry::Geometry;
use crate::isa::Isa;
use crate::vector::{Kernel, MAX_LANES, Vector, run};

/// Columns of a block of outputs that are sorted at a time, in the first-level cache: whole
/// vectors.
const SORTED: usize = 64;

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

    /// `[out, in, kh, kw]`, number by number: for small ones.
    pub(super) fn in_order(self, g: &Geometry, to: &mut [f32]) {
        let (inputs, channels, count) = (g.in_channels, g.out_channels, g.taps());
        if !self.flipped {
            return to.copy_from_slice(self.data);
        }
        let all: Vec<_> = (0..count).rev().collect();
        let Taps { taps, of } = self.taps.unwrap_or(Taps { taps: &all, of: count });
        for (i, to) in to.iter_mut().enumerate() {
            let (channel, input, tap) = (i / g.depth(), i / count % inputs, i % count);
            *to = self.data[(input * channels + channel) * of + taps[tap]];
        }
    }

    /// The `blocks` of outputs, each `[in, kh, kw, pitch]`: numbers that mean nothing behind
    /// the last output of a block. `pitch` is a vector at most.
    pub(super) fn pack(
        self,
        isa: Option<Isa>,
        g: &Geometry,
        blocks: Blocks,
        pitch: usize,
        packed: &mut [f32],
    ) {
        let (depth, count) = (g.depth(), g.taps());
        let all: Vec<_> = (0..count).rev().collect();
        let Taps { taps, of } = self.taps.unwrap_or(Taps { taps: &all, of: count });
        packed.par_chunks_mut(pitch * depth).enumerate().for_each(|(block, packed)| {
            let outputs = blocks.range(block);
            let (weight, channels) = (self.data, g.out_channels);
            if self.flipped {
                let inputs =
                    weight.chunks_exact(channels * of).zip(packed.chunks_exact_mut(pitch * count));
                for (kernels, packed) in inputs {
                    run(
                        isa,
                        Sort {
                            rows: kernels,
                            len: of,
                            outputs: outputs.clone(),
                            order: Some(taps),
                            pitch,
                            packed,
                        },
                    );
                }
                return;
            }
            run(isa, Sort { rows: weight, len: depth, outputs, order: None, pitch, packed });
        });
    }
}

/// Sorts some rows of a matrix by columns.
struct Sort<'a> {
    /// Of `len` numbers each.
    rows: &'a [f32],
    len: usize,
    /// Which rows: at most `pitch`, which is at most a vector. Those that are not there are zeros.
    outputs: Range<usize>,
    /// The columns, where they are not all of them as they are.
    order: Option<&'a [usize]>,
    pitch: usize,
    /// `[columns, pitch]`.
    packed: &'a mut [f32],
}

impl Kernel for Sort<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let Self { rows, len, outputs, order, pitch, packed } = self;
        let rows = rows.get(outputs.start * len..).unwrap_or_default();
        let columns = order.map_or(len, <[usize]>::len);
        assert!(outputs.len() <= pitch && pitch <= S::LANES && packed.len() >= columns * pitch);
        // Columns of a vector of rows, so many at a time.
        let mut sorted = [0.0_f32; SORTED * MAX_LANES];
        for first in (0..len).step_by(SORTED) {
            let count = SORTED.min(len - first);
            for at in (first..first + count).step_by(S::LANES) {
                let to = sorted[(at - first) * S::LANES..][..S::LANES * S::LANES].as_mut_ptr();
                if rows.len() >= (S::LANES - 1) * len + at + S::LANES {
                    // SAFETY: the machine has the instruction set; a vector of as many rows, and
                    // as many vectors.
                    unsafe { S::transpose(rows.as_ptr().add(at), len, to, S::LANES) }
                    continue;
                }
                let mut block = [0.0_f32; MAX_LANES * MAX_LANES];
                let width = S::LANES.min(len - at);
                let there = rows.chunks_exact(len).take(outputs.len());
                for (row, to) in there.zip(block.chunks_exact_mut(S::LANES)) {
                    to[..width].copy_from_slice(&row[at..at + width]);
                }
                // SAFETY: as above, of `block`.
                unsafe { S::transpose(block.as_ptr(), S::LANES, to, S::LANES) }
            }
            match order {
                Some(order) => {
                    for (term, column) in order.iter().enumerate() {
                        if let Some(from) = column.checked_sub(first).filter(|at| *at < count) {
                            let from = &sorted[from * S::LANES..][..S::LANES];
                            // What another range of columns wrote stays.
                            // SAFETY: this function's contract.
                            unsafe { put::<S>(from, pitch, packed, term, len > SORTED) }
                        }
                    }
                }
                None => {
                    let sorted = sorted.chunks_exact(S::LANES).take(count);
                    for (term, from) in (first..).zip(sorted) {
                        // SAFETY: this function's contract.
                        unsafe { put::<S>(from, pitch, packed, term, false) }
                    }
                }
            }
        }
    }
}

/// Writes the first `pitch` numbers of a vector where those of `term` are, and unless `alone`
/// whatever else the vector has where those of the next terms will be.
///
/// # Safety
/// The machine must have the instruction set of `S`.
#[inline(always)]
unsafe fn put<S: Vector>(from: &[f32], pitch: usize, packed: &mut [f32], term: usize, alone: bool) {
    let to = &mut packed[term * pitch..];
    if alone || to.len() < S::LANES {
        return to[..pitch].copy_from_slice(&from[..pitch]);
    }
    // SAFETY: this function's contract; a vector of both.
    unsafe { S::load(from[..S::LANES].as_ptr()).store(to.as_mut_ptr()) }
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
