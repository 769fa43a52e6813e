//! Weights as they are kept, and as tiles.

use std::fmt;
use std::sync::{Arc, OnceLock};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;
use simd::tiles::{SIDE, bf16_bits};

use super::super::geometry::Geometry;
use super::super::weight::Weight;

/// Input channels of a group: a tile's pairs.
pub const GROUP: usize = 2 * SIDE;
/// Words of a tile.
pub const TILE: usize = SIDE * SIDE;
/// Numbers that one task widens.
const CHUNK: usize = 64 << 10;

/// A row of a tile: a cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Row([f32; SIDE]);

/// The weight of a convolution, `[blocks, groups, taps]` tiles of 16 pairs of inputs by 16
/// outputs, zero where there are no channels.
pub struct Tiled {
    rows: Vec<Row>,
    groups: usize,
    taps: usize,
}

impl Tiled {
    /// Of `weight` `[out, in, kh, kw]`.
    pub fn new(g: &Geometry, weight: &[bf16]) -> Self {
        let (inputs, taps) = (g.in_channels, g.taps());
        Self::of(g, |output, input, tap| {
            u32::from(weight[(output * inputs + input) * taps + tap].to_bits())
        })
    }

    /// Of a weight in f32, rounded.
    pub fn rounded(g: &Geometry, weight: Weight) -> Self {
        let numbers = weight.numbers(g);
        Self::of(g, |output, input, tap| bf16_bits(numbers.at(output, input, tap)))
    }

    /// Of numbers for each output, input and tap.
    fn of(g: &Geometry, bits: impl Fn(usize, usize, usize) -> u32 + Sync) -> Self {
        let (inputs, taps) = (g.in_channels, g.taps());
        let (blocks, groups) = (g.out_channels.div_ceil(SIDE), inputs.div_ceil(GROUP));
        let block_rows = groups * taps * SIDE;
        let mut rows = vec![Row([0.0; SIDE]); blocks * block_rows];
        rows.par_chunks_exact_mut(block_rows).enumerate().for_each(|(block, rows)| {
            let outputs = block * SIDE..g.out_channels.min((block + 1) * SIDE);
            for (column, output) in outputs.enumerate() {
                for pair in 0..inputs.div_ceil(2) {
                    let (group, row) = (pair / SIDE, pair % SIDE);
                    for tap in 0..taps {
                        let first = bits(output, 2 * pair, tap);
                        let has_second = 2 * pair + 1 < inputs;
                        let second = if has_second { bits(output, 2 * pair + 1, tap) } else { 0 };
                        let row = (group * taps + tap) * SIDE + row;
                        rows[row].0[column] = f32::from_bits(first | second << 16);
                    }
                }
            }
        });
        Self { rows, groups, taps }
    }

    /// Blocks of 16 output channels.
    pub fn blocks(&self) -> usize {
        self.rows.len() / (self.groups * self.taps * SIDE).max(1)
    }

    /// Groups of input channels.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// The tiles of block `block`: `[groups, taps]`.
    pub fn block(&self, block: usize) -> *const f32 {
        self.rows[block * self.groups * self.taps * SIDE..].as_ptr().cast()
    }
}

/// Weights as tiles, made when they are first used. Clones share them.
#[derive(Clone, Default)]
pub struct Packed(Arc<OnceLock<Tiled>>);

impl Packed {
    /// What was made before, or else what `make` makes.
    pub fn get_or_init(&self, make: impl FnOnce() -> Tiled) -> &Tiled {
        self.0.get_or_init(make)
    }
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.get().is_some() { "packed" } else { "not packed" })
    }
}

/// The numbers of a weight.
#[derive(Clone, Copy)]
pub enum Numbers<'a> {
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
}

impl Numbers<'_> {
    pub fn len(self) -> usize {
        match self {
            Self::Bf16(numbers) => numbers.len(),
            Self::F16(numbers) => numbers.len(),
        }
    }

    /// Writes them in f32.
    pub fn widen(self, wide: &mut [f32]) {
        match self {
            Self::Bf16(numbers) => in_chunks(numbers, wide, |numbers, wide| {
                numbers.convert_to_f32_slice(wide);
            }),
            Self::F16(numbers) => in_chunks(numbers, wide, |numbers, wide| {
                numbers.convert_to_f32_slice(wide);
            }),
        }
    }
}

fn in_chunks<T: Sync>(numbers: &[T], wide: &mut [f32], widen: impl Fn(&[T], &mut [f32]) + Sync) {
    let chunks = numbers.par_chunks(CHUNK).zip(wide.par_chunks_mut(CHUNK));
    chunks.for_each(|(numbers, wide)| widen(numbers, wide));
}
