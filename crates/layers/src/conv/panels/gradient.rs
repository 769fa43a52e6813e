//! The gradient to the weight of a convolution: for each (channel, tap) and output channel the sum
//! over pixels of what the tap reads, times the gradient to the output.
//!
//! That gradient is packed, two vectors of output channels of a pixel side by side; what taps
//! read is taken, a number at a time, from the padded planes where it lies, so that there are no
//! patches. An element is one sum over ranges of pixels in order, whatever the tasks.

use std::ops::Range;

use rayon::prelude::*;

use super::super::geometry::Geometry;
use super::planes::Planes;
use crate::isa::Isa;
use crate::matrix::{Factor, pack};
use crate::scratch::with_scratch;
use crate::shared_mut::SharedMut;
use crate::vector::{Kernel, MAX_LANES, Vector, lanes, pairs, run};

/// Floats of the padded planes of the pictures that are gone through at a time, unless one
/// has more.
const PLANES: usize = 4 << 20;
/// Pixels of a range: of two vectors of 8 their gradients take 16 KiB.
const PIXELS: usize = 256;
/// Floats of a task's sums, at most: a share of the second-level cache.
const SUMS: usize = 32 << 10;
/// Blocks of (channel, tap) pairs that count as few.
const FEW: usize = 8;
/// Tasks for each thread, at least.
const ENOUGH: usize = 4;

/// `[out, in, kh, kw]` for `x` `[B, in, H, W]` and `grad` `[B, out, H', W']`.
pub(in super::super) fn weight_gradient(
    isa: Option<Isa>,
    g: &Geometry,
    x: &[f32],
    grad: &[f32],
) -> Vec<f32> {
    let (depth, pixels, width) = (g.depth(), g.out_pixels(), 2 * lanes(isa));
    let len = g.out_channels * depth;
    if g.batch * pixels == 0 {
        return vec![0.0; len];
    }
    let mut dw = Vec::with_capacity(len);
    let target = SharedMut::new_spare(&mut dw);
    let planes = Planes::whole(g);
    let taps = &*planes.taps(g);
    let padded = g.in_channels * planes.plane;
    let packed = g.out_channels.next_multiple_of(width) * pixels;
    let (of_input, of_output) = (g.in_channels * g.in_pixels(), g.out_channels * pixels);
    let together = (PLANES / padded).clamp(1, g.batch);
    let tasks = Tasks::new(g, width, pairs(isa));
    for first in (0..g.batch).step_by(together) {
        let count = together.min(g.batch - first);
        let x = &x[first * of_input..][..count * of_input];
        let grad = &grad[first * of_output..][..count * of_output];
        let copied = if planes.is_picture { 0 } else { count * padded };
        with_scratch(copied + count * packed, |scratch| {
            let (data, panels) = scratch.split_at_mut(copied);
            let planes_of_x = data.par_chunks_exact_mut(planes.plane);
            planes_of_x.zip(x.par_chunks_exact(g.in_pixels())).for_each(|(plane, x)| {
                planes.fill(g, x, &(0..g.oh), plane);
            });
            let data = if planes.is_picture { x } else { data };
            let grad = Factor::right((grad, 1, pixels), g.out_channels);
            pack(isa, (grad, of_output), (width, pixels), panels);
            let adds = first > 0;
            let pictures = Pictures { g, planes, data, padded, panels, packed, taps };
            (0..tasks.down * tasks.across).into_par_iter().for_each(|task| {
                let (lines, outputs) = tasks.of(g, task);
                with_scratch(lines.len() * tasks.stride(&outputs, width), |sums| {
                    let pictures = &pictures;
                    run(isa, Task { pictures, tasks, lines, outputs, sums, adds, dw: target });
                });
            });
        });
    }
    // SAFETY: all of them were written.
    unsafe { dw.set_len(len) }
    dw
}

/// How the weight is shared out.
#[derive(Clone, Copy)]
struct Tasks {
    /// (Channel, tap) pairs of a task, whole blocks, and how many such parts there are.
    lines: usize,
    down: usize,
    /// Output channels of a task, whole panels, and how many such parts there are.
    outputs: usize,
    across: usize,
}

impl Tasks {
    fn new(g: &Geometry, width: usize, rows: usize) -> Self {
        let (depth, outputs) = (g.depth(), g.out_channels.next_multiple_of(width));
        // Few pairs are one part, or every part would read all gradients for little.
        let few = depth <= FEW * rows;
        let outputs = if few { width } else { outputs };
        let shared = depth.div_ceil(ENOUGH * rayon::current_num_threads());
        let lines = if few { depth } else { shared.min(SUMS / outputs).max(1) };
        let lines = lines.next_multiple_of(rows);
        let (down, across) = (depth.div_ceil(lines), g.out_channels.div_ceil(outputs));
        Self { lines, down, outputs, across }
    }

    /// The pairs and outputs of a task.
    fn of(self, g: &Geometry, task: usize) -> (Range<usize>, Range<usize>) {
        let (line, output) = (task / self.across * self.lines, task % self.across * self.outputs);
        let lines = line..g.depth().min(line + self.lines);
        (lines, output..g.out_channels.min(output + self.outputs))
    }

    /// Floats from one pair's sums to the next's: whole panels, and one more so that the same
    /// output's do not all want one place in the cache.
    fn stride(self, outputs: &Range<usize>, width: usize) -> usize {
        outputs.len().next_multiple_of(width) + width
    }
}

/// Some pictures, ready to be multiplied.
struct Pictures<'a> {
    g: &'a Geometry,
    planes: Planes,
    /// The planes of all input channels, of each picture `padded` floats.
    data: &'a [f32],
    padded: usize,
    /// The gradients to the output, `[out / width, H' W', width]`, of each picture `packed` floats.
    panels: &'a [f32],
    packed: usize,
    /// See [`Planes::taps`].
    taps: &'a [usize],
}

/// Some (channel, tap) pairs and output channels of all pictures.
struct Task<'a> {
    pictures: &'a Pictures<'a>,
    tasks: Tasks,
    lines: Range<usize>,
    outputs: Range<usize>,
    /// Room for their sums, see [`Tasks::stride`].
    sums: &'a mut [f32],
    /// Whether `dw` has sums of other pictures.
    adds: bool,
    dw: SharedMut,
}

impl Kernel for Task<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let Pictures { g, data, padded, panels, packed, taps, .. } = *self.pictures;
        let (pixels, width, sums) = (g.out_pixels(), 2 * S::LANES, self.sums);
        let stride = self.tasks.stride(&self.outputs, width);
        let taps = &taps[self.lines.clone()];
        sums.fill(0.0);
        for (data, panels) in data.chunks_exact(padded).zip(panels.chunks_exact(packed)) {
            let panels = panels[self.outputs.start * pixels..].chunks_exact(pixels * width);
            let panels = panels.take(self.outputs.len().div_ceil(width));
            for first in (0..pixels).step_by(PIXELS) {
                let range =
                    Pixels::new(first..pixels.min(first + PIXELS), g, &self.pictures.planes);
                for (panel, grad) in panels.clone().enumerate() {
                    let grad = &grad[first * width..][..range.count * width];
                    let rows = sums.chunks_mut(S::PAIRS * stride);
                    for (taps, sums) in taps.chunks(S::PAIRS).zip(rows) {
                        let sums = (&mut sums[panel * width..], stride);
                        // SAFETY: this function's contract.
                        unsafe { range.add::<S>(taps, data, grad, sums) }
                    }
                }
            }
        }
        let (lines, depth) = (self.lines.len(), g.depth());
        for first in (0..self.outputs.len()).step_by(S::LANES) {
            let outputs = S::LANES.min(self.outputs.len() - first);
            for line in (0..lines).step_by(S::LANES) {
                let count = S::LANES.min(lines - line);
                let from = &sums[line * stride + first..][..(count - 1) * stride + S::LANES];
                let mut block = [0.0_f32; MAX_LANES * MAX_LANES];
                let square = if count == S::LANES {
                    (from.as_ptr(), stride)
                } else {
                    let rows = block.chunks_exact_mut(S::LANES).zip(from.chunks(stride));
                    rows.for_each(|(row, from)| row.copy_from_slice(&from[..S::LANES]));
                    (block.as_ptr(), S::LANES)
                };
                let mut sorted = [0.0_f32; MAX_LANES * MAX_LANES];
                // SAFETY: this function's contract; `LANES` rows of `LANES` numbers of both.
                unsafe { S::transpose(square.0, square.1, sorted.as_mut_ptr(), S::LANES) }
                for (i, row) in sorted.chunks_exact(S::LANES).take(outputs).enumerate() {
                    let at = (self.outputs.start + first + i) * depth + self.lines.start + line;
                    // SAFETY: these pairs of one output, which no other task has; they are
                    // there if there are sums to add to.
                    unsafe {
                        if self.adds {
                            let dw = self.dw.slice(at, count);
                            dw.iter_mut().zip(row).for_each(|(dw, sum)| *dw += sum);
                        } else {
                            self.dw.write(at, count, row.iter().take(count).copied());
                        }
                    }
                }
            }
        }
    }
}

/// A range of pixels.
struct Pixels {
    count: usize,
    /// Column of the first, and where in the planes it is read.
    column: usize,
    first: usize,
    /// Where the last is read.
    last: usize,
    /// Pixels of a row, and floats from row to row.
    row: usize,
    step: usize,
}

impl Pixels {
    fn new(pixels: Range<usize>, g: &Geometry, planes: &Planes) -> Self {
        let (row, step) = (g.ow, g.config.stride * planes.pitch);
        let at = |pixel: usize| pixel / row * step + pixel % row;
        let (column, first, last) = (pixels.start % row, at(pixels.start), at(pixels.end - 1));
        Self { count: pixels.len(), column, first, last, row, step }
    }

    /// Adds the pixels to the sums of a block of `taps`, whose rows are the given number
    /// of floats apart.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`.
    #[inline(always)]
    unsafe fn add<S: Vector>(
        &self,
        taps: &[usize],
        data: &[f32],
        grad: &[f32],
        sums: (&mut [f32], usize),
    ) {
        // SAFETY: this function's contract; as many taps as `M` says.
        unsafe {
            match taps.len() {
                1 => self.block::<S, 1>(taps, data, grad, sums),
                2 => self.block::<S, 2>(taps, data, grad, sums),
                3 => self.block::<S, 3>(taps, data, grad, sums),
                4 => self.block::<S, 4>(taps, data, grad, sums),
                5 => self.block::<S, 5>(taps, data, grad, sums),
                6 => self.block::<S, 6>(taps, data, grad, sums),
                7 if S::PAIRS > 6 => self.block::<S, 7>(taps, data, grad, sums),
                8 if S::PAIRS > 6 => self.block::<S, 8>(taps, data, grad, sums),
                9 if S::PAIRS > 6 => self.block::<S, 9>(taps, data, grad, sums),
                10 if S::PAIRS > 6 => self.block::<S, 10>(taps, data, grad, sums),
                11 if S::PAIRS > 6 => self.block::<S, 11>(taps, data, grad, sums),
                12 if S::PAIRS > 6 => self.block::<S, 12>(taps, data, grad, sums),
                others => debug_assert!(false, "{others} taps"),
            }
        }
    }

    #[inline(always)]
    unsafe fn block<S: Vector, const M: usize>(
        &self,
        taps: &[usize],
        data: &[f32],
        grad: &[f32],
        (sums, stride): (&mut [f32], usize),
    ) {
        let width = 2 * S::LANES;
        let furthest = taps.iter().fold(0, |furthest, tap| furthest.max(*tap));
        assert!(taps.len() == M && furthest + self.last < data.len());
        assert!(grad.len() == self.count * width && sums.len() >= (M - 1) * stride + width);
        // SAFETY: this function's contract; what is read and written is within the slices
        // (asserted).
        unsafe {
            let from: [_; M] = std::array::from_fn(|m| data.as_ptr().add(taps[m]));
            let mut grad = grad.as_ptr();
            let mut totals = [[S::splat(0.0); 2]; M];
            let (mut left, mut column, mut first) = (self.count, self.column, self.first);
            while left > 0 {
                let len = (self.row - column).min(left);
                for place in first..first + len {
                    let (a, b) = (S::load(grad), S::load(grad.add(S::LANES)));
                    for (totals, from) in totals.iter_mut().zip(from) {
                        let value = S::splat(*from.add(place));
                        totals[0] = value.mul_add(a, totals[0]);
                        totals[1] = value.mul_add(b, totals[1]);
                    }
                    grad = grad.add(width);
                }
                first = first - column + self.step;
                (left, column) = (left - len, 0);
            }
            for (m, totals) in totals.into_iter().enumerate() {
                let to = sums.as_mut_ptr().add(m * stride);
                S::load(to).plus(totals[0]).store(to);
                let to = to.add(S::LANES);
                S::load(to).plus(totals[1]).store(to);
            }
        }
    }
}
