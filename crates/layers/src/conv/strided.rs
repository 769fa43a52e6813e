//! The gradient to the input of a strided convolution.
//!
//! Of the pixels of an axis, every `stride`-th is reached by the same taps of the kernel, as many
//! steps apart. So each such phase of the input is a convolution of stride 1 of the gradient to
//! the output, with those taps the other way round, and the phases are sorted into one another.

use rayon::prelude::*;

use super::geometry::Geometry;
use super::weight::{Taps, Weight};
use super::winograd::Extras;
use super::{Conv2dConfig, Padding, panels, tiled};
use crate::factors::Factors;
use crate::isa::Isa;
use crate::scratch::with_scratch;
use crate::shared_mut::SharedMut;

/// Along one axis, the pixels from `first` on, `stride` apart.
struct Phase {
    first: usize,
    count: usize,
    /// Taps that reach them, the last one first.
    taps: Vec<usize>,
    /// Zeros around the gradient to the output.
    before: usize,
    after: usize,
}

impl Phase {
    /// The one that begins with pixel `first`, if there is padding that makes it such a convolution.
    fn new(
        first: usize,
        (kernel, stride, padding): (usize, usize, usize),
        (input, output): (usize, usize),
    ) -> Option<Self> {
        // Pixel `first + stride * i` is read by output `start + i - t` at tap `tap + stride * t`.
        let (tap, start) = ((first + padding) % stride, (first + padding) / stride);
        let taps: Vec<_> = (tap..kernel).step_by(stride).rev().collect();
        let count = input.saturating_sub(first).div_ceil(stride);
        let before = taps.len().checked_sub(start + 1)?;
        let after = (count + taps.len()).checked_sub(output + before + 1)?;
        Some(Self { first, count, taps, before, after }).filter(|phase| phase.count > 0)
    }

    /// All of an axis.
    fn all(kernel: (usize, usize, usize), sizes: (usize, usize)) -> Option<Vec<Self>> {
        (0..kernel.1).map(|first| Self::new(first, kernel, sizes)).collect()
    }
}

/// Input channels from which on this is the fastest way.
const MIN_CHANNELS: usize = 16;

/// `[B, in, H, W]` for `weight` `[out, in, kh, kw]` and `grad` `[B, out, H', W']`; nothing where
/// there are few channels, or a phase has no taps, no pixels, or outputs that no pixel of it is read by.
pub(super) fn input_gradient(
    isa: Option<Isa>,
    g: &Geometry,
    weight: &[f32],
    grad: &[f32],
    factors: Factors,
) -> Option<Vec<f32>> {
    let Conv2dConfig { stride, padding } = g.config;
    if g.in_channels < MIN_CHANNELS {
        return None;
    }
    let rows = Phase::all((g.kh, stride, padding.top), (g.h, g.oh))?;
    let columns = Phase::all((g.kw, stride, padding.left), (g.w, g.ow))?;
    let planes = g.batch * g.in_channels;
    let len = planes * g.in_pixels();
    let mut dx = Vec::with_capacity(len);
    let target = SharedMut::new_spare(&mut dx);
    for row in &rows {
        with_scratch(planes * row.count * g.w, |scratch| {
            let mut rest = &mut *scratch;
            for column in &columns {
                let (phase, others) = rest.split_at_mut(planes * row.count * column.count);
                rest = others;
                phase_gradient(isa, g, weight, (grad, factors), (row, column), phase);
            }
            let phases = &*scratch;
            (0..planes).into_par_iter().for_each(|plane| {
                for i in 0..row.count {
                    let at = (plane * g.h + row.first + stride * i) * g.w;
                    let mut before = 0;
                    let of_row = columns.iter().map(|column| {
                        let at = before + (plane * row.count + i) * column.count;
                        before += planes * row.count * column.count;
                        &phases[at..at + column.count]
                    });
                    // SAFETY: a row of `dx`, which no other task has; its phases have all its
                    // pixels.
                    unsafe { interleave(of_row, stride, target.range(at, g.w)) }
                }
            });
        });
    }
    // SAFETY: the phases are all pixels, and each was written.
    unsafe { dx.set_len(len) }
    Some(dx)
}

/// One phase, `[B, in, rows, columns]`.
fn phase_gradient(
    isa: Option<Isa>,
    g: &Geometry,
    weight: &[f32],
    (grad, factors): (&[f32], Factors),
    (row, column): (&Phase, &Phase),
    to: &mut [f32],
) {
    let taps = row.taps.iter().flat_map(|ky| column.taps.iter().map(move |kx| ky * g.kw + kx));
    let taps: Vec<_> = taps.collect();
    let padding =
        Padding { top: row.before, bottom: row.after, left: column.before, right: column.after };
    let of_phase = Geometry {
        in_channels: g.out_channels,
        h: g.oh,
        w: g.ow,
        out_channels: g.in_channels,
        kh: row.taps.len(),
        kw: column.taps.len(),
        oh: row.count,
        ow: column.count,
        config: Conv2dConfig { stride: 1, padding },
        ..*g
    };
    let weight = Weight::some_flipped(weight, Taps { taps: &taps, of: g.taps() });
    let to = SharedMut::new(to);
    let extras = Extras::default();
    // SAFETY: as many numbers as the phase has, which nothing else uses.
    unsafe {
        if tiled::rounds(&of_phase, factors) {
            tiled::forward_into::<1>(&of_phase, grad, weight, extras, to);
        } else if tiled::splits_once(&of_phase) {
            tiled::forward_into::<3>(&of_phase, grad, weight, extras, to);
        } else {
            panels::forward_into(isa, &of_phase, grad, weight, extras, to);
        }
    }
}

/// Writes the phases of a row, the first pixels first.
///
/// # Safety
/// There must be room for all their pixels at `row`, which nothing else uses.
unsafe fn interleave<'a>(phases: impl Iterator<Item = &'a [f32]>, stride: usize, row: *mut f32) {
    let mut phases = phases.enumerate();
    if stride == 2
        && let (Some((_, even)), Some((_, odd))) = (phases.next(), phases.next())
    {
        // In pairs, which machines sort by vectors.
        for (i, (a, b)) in even.iter().zip(odd).enumerate() {
            // SAFETY: two pixels of the row (contract).
            unsafe {
                row.add(2 * i).write(*a);
                row.add(2 * i + 1).write(*b);
            }
        }
        if let Some(last) = even.get(odd.len()) {
            // SAFETY: as above.
            unsafe { row.add(2 * odd.len()).write(*last) }
        }
        return;
    }
    for (first, phase) in phases {
        for (i, value) in phase.iter().enumerate() {
            // SAFETY: a pixel of the row (contract).
            unsafe { row.add(first + stride * i).write(*value) }
        }
    }
}
