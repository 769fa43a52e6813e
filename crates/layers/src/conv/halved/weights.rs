//! Weights as they are kept, and as tiles.

use std::fmt;
use std::sync::{Arc, OnceLock};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;
use simd::tiles::SIDE;

use super::super::geometry::Geometry;

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
        let (taps, depth) = (g.taps(), g.depth());
        let (blocks, groups) = (g.out_channels.div_ceil(SIDE), g.in_channels.div_ceil(GROUP));
        let block_rows = groups * taps * SIDE;
        let mut rows = vec![Row([0.0; SIDE]); blocks * block_rows];
        rows.par_chunks_exact_mut(block_rows).enumerate().for_each(|(block, rows)| {
            let outputs = weight.chunks_exact(depth).skip(block * SIDE).take(SIDE);
            for (output, kernels) in outputs.enumerate() {
                for (pair, kernels) in kernels.chunks(2 * taps).enumerate() {
                    let (group, row) = (pair / SIDE, pair % SIDE);
                    let (first, second) = kernels.split_at(taps);
                    for (tap, first) in first.iter().enumerate() {
                        let second = second.get(tap).map_or(0, |second| second.to_bits());
                        let bits = u32::from(first.to_bits()) | u32::from(second) << 16;
                        let row = (group * taps + tap) * SIDE + row;
                        rows[row].0[output] = f32::from_bits(bits);
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
