//! Factors as tiles of bf16.

use std::ops::Range;

use simd::tiles::SIDE;

use super::super::pack::Factor;
use crate::shared_mut::SharedMut;
use crate::vector::{Kernel, Vector};

/// Lines of a group: those of a tile.
pub const GROUP: usize = SIDE;
/// Terms of a tile.
pub const TERMS: usize = 2 * SIDE;
/// Tiles of terms that are asked for ahead.
const AHEAD: usize = 1;
/// Words of a tile.
pub const TILE: usize = SIDE * SIDE;

/// How a tile lies in memory: words are two terms of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `[lines, pairs of terms]`.
    Left,
    /// `[pairs of terms, lines]`.
    Right,
}

/// Packs some groups of the lines of a factor, and some tiles of their terms: `[groups, tiles]`,
/// zeros where there are no lines or terms.
pub struct Pack<'a> {
    pub factor: Factor<'a>,
    /// How many terms it has.
    pub terms: usize,
    pub side: Side,
    pub groups: Range<usize>,
    pub tiles: Range<usize>,
    /// All groups of all terms, from word `at` on.
    pub to: SharedMut,
    pub at: usize,
}

impl Kernel for Pack<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let Factor { lines, line_stride, term_stride, .. } = self.factor;
        let per_group = self.terms.div_ceil(TERMS);
        for tile in self.tiles.clone() {
            let first = tile * TERMS;
            let terms = TERMS.min(self.terms - first);
            for group in self.groups.clone() {
                let line = group * GROUP;
                let lines = lines.saturating_sub(line).min(GROUP);
                let at = self.at + (group * per_group + tile) * TILE;
                // SAFETY: this tile, which is this task's.
                let to = unsafe { self.to.slice(at, TILE) };
                let whole = lines == GROUP && terms == TERMS;
                let from = if lines > 0 {
                    &self.factor.data[line * line_stride + first * term_stride..]
                } else {
                    &[]
                };
                // SAFETY: this function's contract.
                unsafe {
                    match (line_stride, term_stride) {
                        (_, 1) if whole => self.by_lines::<S>(from, line_stride, to),
                        (1, _) if whole => self.by_terms::<S>(from, term_stride, to),
                        _ => {
                            let mut some = [0.0; GROUP * TERMS];
                            for (l, some) in some.chunks_exact_mut(TERMS).take(lines).enumerate() {
                                for (t, number) in some[..terms].iter_mut().enumerate() {
                                    *number = from[l * line_stride + t * term_stride];
                                }
                            }
                            self.by_lines::<S>(&some, TERMS, to);
                        }
                    }
                }
            }
        }
    }
}

impl Pack<'_> {
    /// A whole tile of lines, `stride` apart, whose terms lie side by side.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`.
    #[inline(always)]
    unsafe fn by_lines<S: Vector>(&self, from: &[f32], stride: usize, to: &mut [f32]) {
        assert!(from.len() >= (GROUP - 1) * stride + TERMS && to.len() >= TILE);
        let mut block = [0.0_f32; TILE];
        let turn = self.side == Side::Right;
        let words = if turn { block.as_mut_ptr() } else { to.as_mut_ptr() };
        for line in 0..GROUP {
            for pair in (0..SIDE).step_by(S::LANES) {
                // SAFETY: this function's contract; two vectors of the line, one of the tile's.
                unsafe {
                    let from = from.as_ptr().add(line * stride + 2 * pair);
                    S::prefetch(from.wrapping_add(AHEAD * TERMS));
                    let row = S::load(from).bf16_row(S::load(from.add(S::LANES)));
                    row.store(words.add(line * SIDE + pair));
                }
            }
        }
        if turn {
            // SAFETY: this function's contract.
            unsafe { transpose::<S>(&block, to) }
        }
    }

    /// A whole tile of terms, `stride` apart, whose lines lie side by side.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`.
    #[inline(always)]
    unsafe fn by_terms<S: Vector>(&self, from: &[f32], stride: usize, to: &mut [f32]) {
        assert!(from.len() >= (TERMS - 1) * stride + GROUP && to.len() >= TILE);
        let mut block = [0.0_f32; TILE];
        let turn = self.side == Side::Left;
        let words = if turn { block.as_mut_ptr() } else { to.as_mut_ptr() };
        for pair in 0..SIDE {
            for line in (0..GROUP).step_by(S::LANES) {
                // SAFETY: this function's contract; a vector of each term, one of the tile's.
                unsafe {
                    let from = from.as_ptr().add(2 * pair * stride + line);
                    S::prefetch(from.wrapping_add(AHEAD * TERMS * stride));
                    S::prefetch(from.wrapping_add((AHEAD * TERMS + 1) * stride));
                    let row = S::load(from).bf16_pairs(S::load(from.add(stride)));
                    row.store(words.add(pair * SIDE + line));
                }
            }
        }
        if turn {
            // SAFETY: this function's contract.
            unsafe { transpose::<S>(&block, to) }
        }
    }
}

/// Turns the words of a tile.
///
/// # Safety
/// The machine must have the instruction set of `S`.
#[inline(always)]
unsafe fn transpose<S: Vector>(from: &[f32; TILE], to: &mut [f32]) {
    assert!(to.len() >= TILE);
    for row in (0..SIDE).step_by(S::LANES) {
        for column in (0..SIDE).step_by(S::LANES) {
            // SAFETY: this function's contract; squares of `LANES`, of which there are whole ones
            // in a side.
            unsafe {
                let from = from.as_ptr().add(row * SIDE + column);
                S::transpose(from, SIDE, to.as_mut_ptr().add(column * SIDE + row), SIDE);
            }
        }
    }
}
