//! Weights as tiles.

use std::fmt;
use std::sync::{Arc, OnceLock};

use half::bf16;
use rayon::prelude::*;
use simd::tiles::SIDE;

use super::super::geometry::Geometry;
use super::super::weight::{Blocks, Weight};
use crate::isa::Isa;
use crate::matrix::tiled::tiles::pairs;
use crate::scratch::with_scratch;
use crate::vector::{Kernel, Vector, lanes, run};

/// Input channels of a group: a tile's pairs.
pub const GROUP: usize = 2 * SIDE;
/// Words of a tile.
pub const TILE: usize = SIDE * SIDE;

/// A row of a tile: a cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Row([f32; SIDE]);

/// The weight of a convolution, `[blocks, groups, taps, parts]` tiles of 16 pairs of inputs by 16
/// outputs, zero where there are no channels.
pub struct Tiled<const PARTS: usize> {
    rows: Vec<Row>,
    groups: usize,
    taps: usize,
}

impl Tiled<1> {
    /// Of `weight` `[out, in, kh, kw]`.
    pub fn of_bf16(g: &Geometry, weight: &[bf16]) -> Self {
        let mut tiled = Self::empty(g);
        let (taps, depth, block_rows) = (g.taps(), g.depth(), tiled.block_rows());
        tiled.rows.par_chunks_exact_mut(block_rows).enumerate().for_each(|(block, rows)| {
            let outputs = weight.chunks_exact(depth).skip(block * SIDE).take(SIDE);
            for (output, kernels) in outputs.enumerate() {
                for (pair, kernels) in kernels.chunks(2 * taps).enumerate() {
                    let (first, second) = kernels.split_at(taps);
                    for (tap, first) in first.iter().enumerate() {
                        let second = second.get(tap).map_or(0, |second| second.to_bits());
                        let bits = u32::from(first.to_bits()) | u32::from(second) << 16;
                        rows[row::<1>(pair, tap, taps)].0[output] = f32::from_bits(bits);
                    }
                }
            }
        });
        tiled
    }
}

impl<const PARTS: usize> Tiled<PARTS> {
    /// Of a weight in f32, rounded or in parts.
    pub fn new(isa: Option<Isa>, g: &Geometry, weight: Weight) -> Self {
        let mut tiled = Self::empty(g);
        let (pitch, count) = (lanes(isa), tiled.blocks() * SIDE / lanes(isa));
        // Outputs that are not there are zeros.
        let blocks = Blocks { channels: count * pitch, count };
        let (len, block_rows) = (pitch * g.depth(), tiled.block_rows());
        with_scratch(count * len, |packed| {
            weight.pack(isa, g, blocks, pitch, packed);
            let tiles = tiled.rows.par_chunks_exact_mut(block_rows);
            tiles.zip(packed.par_chunks_exact(SIDE / pitch * len)).for_each(|(rows, packed)| {
                run(isa, Pairs::<PARTS> { g, packed, rows });
            });
        });
        tiled
    }

    /// All zero.
    fn empty(g: &Geometry) -> Self {
        let (taps, groups) = (g.taps(), g.in_channels.div_ceil(GROUP));
        let rows = g.out_channels.div_ceil(SIDE) * groups * taps * PARTS * SIDE;
        Self { rows: vec![Row([0.0; SIDE]); rows], groups, taps }
    }

    /// Rows of a block.
    fn block_rows(&self) -> usize {
        self.groups * self.taps * PARTS * SIDE
    }

    /// Words of a block.
    pub fn block_words(&self) -> usize {
        self.block_rows() * SIDE
    }

    /// Blocks of 16 output channels.
    pub fn blocks(&self) -> usize {
        self.rows.len() / self.block_rows().max(1)
    }

    /// Groups of input channels.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// The tiles of block `block`: `[groups, taps, parts]`.
    pub fn block(&self, block: usize) -> *const f32 {
        self.rows[block * self.block_rows()..].as_ptr().cast()
    }
}

/// The row of a pair of inputs and a tap, of a block, in the first part.
#[inline(always)]
fn row<const PARTS: usize>(pair: usize, tap: usize, taps: usize) -> usize {
    (pair / SIDE * taps + tap) * PARTS * SIDE + pair % SIDE
}

/// Makes a block of 16 outputs.
struct Pairs<'a, const PARTS: usize> {
    g: &'a Geometry,
    /// One or two blocks of a vector of outputs, see [`Weight::pack`].
    packed: &'a [f32],
    rows: &'a mut [Row],
}

impl<const PARTS: usize> Kernel for Pairs<'_, PARTS> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let Self { g, packed, rows } = self;
        let (inputs, taps) = (g.in_channels, g.taps());
        let blocks = packed.chunks_exact(S::LANES * g.depth());
        for (numbers, lane) in blocks.zip((0..SIDE).step_by(S::LANES)) {
            for first in (0..inputs).step_by(2) {
                for tap in 0..taps {
                    let from = numbers[(first * taps + tap) * S::LANES..].as_ptr();
                    let at = row::<PARTS>(first / 2, tap, taps);
                    // SAFETY: the machine has the instruction set (contract); a vector of each
                    // input that is there, and of the row.
                    unsafe {
                        let second = if first + 1 < inputs {
                            S::load(from.add(taps * S::LANES))
                        } else {
                            S::splat(0.0)
                        };
                        let words = pairs::<S, PARTS>(S::load(from), second);
                        for (part, words) in words.iter().enumerate() {
                            words.store(rows[at + part * SIDE].0[lane..].as_mut_ptr());
                        }
                    }
                }
            }
        }
    }
}

/// Weights as tiles, made when they are first used. Clones share them.
#[derive(Clone)]
pub struct Packed<const PARTS: usize>(Arc<OnceLock<Tiled<PARTS>>>);

impl<const PARTS: usize> Packed<PARTS> {
    /// What was made before, or else what `make` makes.
    pub fn get_or_init(&self, make: impl FnOnce() -> Tiled<PARTS>) -> &Tiled<PARTS> {
        self.0.get_or_init(make)
    }
}

impl<const PARTS: usize> Default for Packed<PARTS> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<const PARTS: usize> fmt::Debug for Packed<PARTS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.get().is_some() { "packed" } else { "not packed" })
    }
}
