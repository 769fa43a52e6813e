//! The gradient to the weight, in the transformed domain: every element of it is a
//! product of all tiles of the input with all tiles of the output's gradient.

use rayon::prelude::*;

use super::super::geometry::Geometry;
use super::form::Form;
use super::halving::HALVING;
use super::product::{Left, Right, Terms, block_rows, product};
use super::tiles::{Grid, Maps, Order, Part, Range, Sizes, Tiles, Transform};
use super::unit::UNIT;
use super::weights::Back;
use super::{TASKS, input_maps};
use crate::isa::Isa;
use crate::scratch::with_scratch;
use crate::shared_mut::SharedMut;
use crate::vector::{Kernel, Vector, lanes, run};

/// Floats of the transformed tiles that are multiplied at a time, of input and
/// gradient together: a share of the third-level cache.
const FLOATS: usize = 2 << 20;
/// Tiles multiplied at a time, at least: so many products pay for one more
/// reading and writing of the sums.
const MIN_TILES: usize = 128;

/// `[out, in, 3, 3]`.
pub fn weight_gradient(isa: Option<Isa>, g: &Geometry, x: &[f32], grad: &[f32]) -> Vec<f32> {
    match g.config.stride {
        1 => of(UNIT, isa, g, x, grad),
        _ => of(HALVING, isa, g, x, grad),
    }
}

fn of<F: Form>(form: F, isa: Option<Isa>, g: &Geometry, x: &[f32], grad: &[f32]) -> Vec<f32> {
    let mut dw = vec![0.0; g.out_channels * g.depth()];
    let grid = Grid::new(form, g);
    let width = 2 * lanes(isa);
    let blocks = g.out_channels.div_ceil(width);
    let element = blocks * g.in_channels * width + 16;
    let floats = F::ELEMENTS * g.in_channels + F::FREQUENCIES * g.out_channels;
    let step = (FLOATS / floats).max(MIN_TILES).min(grid.len());
    let sizes = |elements, channels| Sizes { elements, channels, chunk: channels, count: step };
    let of_inputs = sizes(F::ELEMENTS, g.in_channels);
    let of_gradients = sizes(F::FREQUENCIES, g.out_channels);
    let (inputs_len, gradients_len) = (of_inputs.len(), of_gradients.len());
    with_scratch(F::ELEMENTS * element + inputs_len + gradients_len, |scratch| {
        let (sums, scratch) = scratch.split_at_mut(F::ELEMENTS * element);
        let (inputs, gradients) = scratch.split_at_mut(inputs_len);
        let inputs = Tiles::new(Order::Elements, of_inputs, inputs);
        let gradients = Tiles::new(Order::Elements, of_gradients, gradients);
        let maps = Maps {
            data: grad,
            channels: g.out_channels,
            h: g.oh,
            w: g.ow,
            doubled: false,
            before: (0, 0),
        };
        let parts =
            [(Part::Input, input_maps(g, x, false), inputs), (Part::Gradient, maps, gradients)];
        for first in (0..grid.len()).step_by(step) {
            let count = step.min(grid.len() - first);
            let share = count.div_ceil(TASKS);
            (0..2 * TASKS).into_par_iter().for_each(|task| {
                let (part, maps, to) = parts[task % 2];
                let at = (task / 2 * share).min(count);
                let range = Range { first: first + at, count: share.min(count - at) };
                run(isa, Transform { form, grid, part, maps, range, to, at });
            });
            sums.par_chunks_exact_mut(element).enumerate().for_each(|(e, sums)| {
                run(
                    isa,
                    Multiply {
                        g,
                        e,
                        f: form.frequency(e),
                        count,
                        inputs,
                        gradients,
                        sums,
                        adds: first > 0,
                    },
                );
            });
        }
        let (sums, to) = (&*sums, SharedMut::new(&mut dw));
        (0..blocks).into_par_iter().for_each(|block| {
            let (in_channels, out_channels) = (g.in_channels, g.out_channels);
            let from = &sums[block * in_channels * width..];
            run(isa, Back { form, from, element, in_channels, out_channels, block, to });
        });
    });
    dw
}

/// Adds up the products of element `e` of inputs and `f` of gradients of `count` tiles: `[blocks, in, two vectors]`.
struct Multiply<'a> {
    g: &'a Geometry,
    e: usize,
    f: usize,
    count: usize,
    inputs: Tiles,
    gradients: Tiles,
    sums: &'a mut [f32],
    adds: bool,
}

impl Kernel for Multiply<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let (g, width) = (self.g, 2 * S::LANES);
        let step = block_rows::<S>(g.in_channels);
        let terms = Terms { matrices: 1, depth: self.count };
        let (inputs, gradients) = (self.inputs, self.gradients);
        for block in 0..g.out_channels.div_ceil(width) {
            let data = gradients.at(self.f, 0, block * width);
            for channel in (0..g.in_channels).step_by(step) {
                let right = Right { data, row: gradients.tile, next: 0, fetch: channel == 0 };
                let data = inputs.at(self.e, 0, channel);
                let left = Left { data, pitch: inputs.tile, next: 0 };
                let out = self.sums[(block * g.in_channels + channel) * width..].as_mut_ptr();
                let rows = step.min(g.in_channels - channel);
                // SAFETY: `count` tiles of both; a tile's vectors reach at most a vector
                // beyond its channels, which its pitch has room for.
                unsafe { product::<S, false>(rows, left, right, terms, out, self.adds) }
            }
        }
    }
}
