//! Factors as tiles of bf16: numbers that are rounded, or in two or three parts. A number of f32
//! is the sum of three of bf16, the upper half of its bits, that of what is left, and what is left
//! then, and nothing is lost. Of two, the nearest one and the nearest to what is left, it is the sum
//! but for 2^-17 of it, at most. (Infinite ones are NaN then.)

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

/// Packs some groups of the lines of a factor, and some tiles of their terms, in `PARTS` parts,
/// up to three: each `[groups, tiles]`, zeros where there are no lines or terms.
pub struct Pack<'a, const PARTS: usize> {
    pub factor: Factor<'a>,
    /// How many terms it has.
    pub terms: usize,
    pub side: Side,
    pub groups: Range<usize>,
    pub tiles: Range<usize>,
    /// All groups of all terms, from word `at` on, and how far parts are apart.
    pub to: SharedMut,
    pub at: usize,
    pub apart: usize,
}

impl<const PARTS: usize> Kernel for Pack<'_, PARTS> {
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
                let parts = self.to.range(at, (PARTS - 1) * self.apart + TILE);
                // SAFETY: tiles within the buffer.
                let to = std::array::from_fn(|part| unsafe { parts.add(part * self.apart) });
                let whole = lines == GROUP && terms == TERMS;
                let from = if lines > 0 {
                    &self.factor.data[line * line_stride + first * term_stride..]
                } else {
                    &[]
                };
                // SAFETY: this function's contract.
                unsafe {
                    match (line_stride, term_stride) {
                        (_, 1) if whole => self.tile::<S, true>(from, line_stride, to),
                        (1, _) if whole => self.tile::<S, false>(from, term_stride, to),
                        _ => {
                            let mut some = [0.0; GROUP * TERMS];
                            for (l, some) in some.chunks_exact_mut(TERMS).take(lines).enumerate() {
                                for (t, number) in some[..terms].iter_mut().enumerate() {
                                    *number = from[l * line_stride + t * term_stride];
                                }
                            }
                            self.tile::<S, true>(&some, TERMS, to);
                        }
                    }
                }
            }
        }
    }
}

impl<const PARTS: usize> Pack<'_, PARTS> {
    /// A whole tile of lines whose terms lie side by side, if it is `BY_LINES`; else of terms whose
    /// lines do. Those are `stride` apart.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`; the tiles must be this task's.
    #[inline(always)]
    unsafe fn tile<S: Vector, const BY_LINES: bool>(
        &self,
        from: &[f32],
        stride: usize,
        to: [*mut f32; PARTS],
    ) {
        // From one row of words to the next, from one word, from its first number to its second
        // or from a vector of those to the next, and to the next tile.
        let (row_step, word_step, second, ahead, needed) = if BY_LINES {
            (stride, 2, S::LANES, AHEAD * TERMS, (GROUP - 1) * stride + TERMS)
        } else {
            (2 * stride, 1, stride, AHEAD * TERMS * stride, (TERMS - 1) * stride + GROUP)
        };
        assert!(from.len() >= needed);
        let mut block = [[0.0_f32; TILE]; PARTS];
        let turn = BY_LINES == (self.side == Side::Right);
        for row in 0..SIDE {
            for word in (0..SIDE).step_by(S::LANES) {
                // SAFETY: this function's contract; two vectors of what there is (asserted), one
                // of the tiles'.
                unsafe {
                    let from = from.as_ptr().add(row * row_step + word * word_step);
                    S::prefetch(from.wrapping_add(ahead));
                    S::prefetch(from.wrapping_add(ahead + second));
                    let (mut a, mut b) = (S::load(from), S::load(from.add(second)));
                    for part in 0..PARTS {
                        let words = if turn { block[part].as_mut_ptr() } else { to[part] };
                        let words = words.add(row * SIDE + word);
                        let upper_a = first_part::<S, PARTS>(a);
                        let upper_b = first_part::<S, PARTS>(b);
                        let made = match (PARTS, BY_LINES) {
                            (1, true) => a.bf16_row(b),
                            (1, false) => a.bf16_pairs(b),
                            (_, true) => upper_a.upper_row(upper_b),
                            (_, false) => upper_a.upper_pairs(upper_b),
                        };
                        made.store(words);
                        (a, b) = (a.minus(upper_a), b.minus(upper_b));
                    }
                }
            }
        }
        if turn {
            for (block, to) in block.iter().zip(to) {
                // SAFETY: this function's contract.
                unsafe { transpose::<S>(block, to) }
            }
        }
    }
}

/// Turns the words of a tile.
///
/// # Safety
/// The machine must have the instruction set of `S`; `to` must be a tile.
#[inline(always)]
unsafe fn transpose<S: Vector>(from: &[f32; TILE], to: *mut f32) {
    for row in (0..SIDE).step_by(S::LANES) {
        for column in (0..SIDE).step_by(S::LANES) {
            // SAFETY: this function's contract; squares of `LANES`, of which there are whole ones
            // in a side.
            unsafe {
                let from = from.as_ptr().add(row * SIDE + column);
                S::transpose(from, SIDE, to.add(column * SIDE + row), SIDE);
            }
        }
    }
}

/// Writes [`pairs`], a vector of each part to tiles that follow one another.
///
/// # Safety
/// The machine must have the instruction set of `S`; `to` must be a vector of the first of `PARTS`
/// tiles.
#[inline(always)]
pub unsafe fn store_pairs<S: Vector, const PARTS: usize>(first: S, second: S, to: *mut f32) {
    // SAFETY: this function's contract.
    unsafe {
        for (part, words) in pairs::<S, PARTS>(first, second).into_iter().enumerate() {
            words.store(to.add(part * TILE));
        }
    }
}

/// Words of a number of `first` and one of `second`, in `PARTS` parts.
///
/// # Safety
/// The machine must have the instruction set of `S`.
#[inline(always)]
pub unsafe fn pairs<S: Vector, const PARTS: usize>(first: S, second: S) -> [S; PARTS] {
    // SAFETY: this function's contract.
    unsafe {
        if PARTS == 1 {
            return [first.bf16_pairs(second); PARTS];
        }
        let (mut a, mut b) = (first, second);
        // No closure around vectors: it would be compiled without the instruction set.
        let mut words = [a; PARTS];
        for words in &mut words {
            let upper_a = first_part::<S, PARTS>(a);
            let upper_b = first_part::<S, PARTS>(b);
            *words = upper_a.upper_pairs(upper_b);
            (a, b) = (a.minus(upper_a), b.minus(upper_b));
        }
        words
    }
}

/// The first of the parts of each number, or of what others have left.
///
/// # Safety
/// The machine must have the instruction set of `S`.
#[inline(always)]
unsafe fn first_part<S: Vector, const PARTS: usize>(numbers: S) -> S {
    // SAFETY: this function's contract.
    unsafe { if PARTS == 2 { numbers.nearest_upper() } else { numbers.upper() } }
}
