//! The coarse sweep on the matrix unit of recent x86 CPUs (AMX), which multiplies
//! tiles of bf16: an instruction does 16 x 16 scores over 32 dimensions.
//!
//! It takes subnormal values for 0, which the bound for underflow covers: see
//! [`crate::nearest::bound`].

use std::arch::x86_64::*;

use ::simd::tiles::{Native, SIDE, Tiles, are_available};

use super::simd::avx512::choose;
use super::simd::{Blocks, Coarse, Loops, Seen, Sweep};

/// The loops of the AVX-512 kernel with bf16, but for the coarse sweep.
pub(super) fn loops() -> Loops {
    let loops = super::simd::avx512bf16::LOOPS;
    let sweep = Sweep { tile: TILE, codes: ROWS, run: sweep };
    let coarse = |coarse| Coarse { sweep, multiple: PAIRS, ..coarse };
    Loops { coarse: loops.coarse.map(coarse), ..loops }
}

/// Rows of a tile register.
const ROWS: usize = SIDE;
/// Pairs of bf16 in a row of a tile register.
const PAIRS: usize = SIDE;
/// Vectors of a tile of the sweep: four tile registers.
const TILE: usize = 4 * ROWS;

/// Whether this machine has AMX for bf16 and lets this process use it.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16") && are_available()
}

/// As the sweeps of [`super::simd`], over rows of pairs of bf16.
///
/// # Safety
/// [`is_available`]. `tile` has `dim * TILE` pairs, `codes` as many rows of `dim`
/// pairs as there are `starts`, and all of `seen` have `TILE` values each; `dim` is a
/// multiple of `PAIRS`, the number of `starts` one of `ROWS`.
#[target_feature(enable = "avx512f")]
unsafe fn sweep(tile: &[f32], dim: usize, codes: Blocks, seen: Seen) {
    let Blocks { rows, starts, first } = codes;
    debug_assert!(dim.is_multiple_of(PAIRS) && starts.len().is_multiple_of(ROWS));
    let mut scores = [[0.0_f32; TILE]; ROWS];
    // SAFETY: the machine has them (contract).
    let mut tiles = unsafe { Native::configure() };
    for (b, starts) in starts.chunks_exact(ROWS).enumerate() {
        // SAFETY: `ROWS` rows of codes, and of `PAIRS` pairs of the tile from each `k` on
        // (contract); `scores` has the room for four registers side by side.
        unsafe {
            tiles.zero::<0>();
            tiles.zero::<1>();
            tiles.zero::<2>();
            tiles.zero::<3>();
            let codes = rows.as_ptr().add(b * ROWS * dim);
            for k in (0..dim).step_by(PAIRS) {
                let tile = tile.as_ptr().add(k * TILE);
                tiles.load::<4>(codes.add(k), dim);
                tiles.load::<5>(tile, TILE);
                tiles.multiply::<0, 4, 5>();
                tiles.load::<6>(tile.add(ROWS), TILE);
                tiles.multiply::<1, 4, 6>();
                tiles.load::<7>(tile.add(2 * ROWS), TILE);
                tiles.multiply::<2, 4, 7>();
                tiles.load::<5>(tile.add(3 * ROWS), TILE);
                tiles.multiply::<3, 4, 5>();
            }
            let scores = scores.as_mut_ptr().cast::<f32>();
            tiles.store::<0>(scores, TILE);
            tiles.store::<1>(scores.add(ROWS), TILE);
            tiles.store::<2>(scores.add(2 * ROWS), TILE);
            tiles.store::<3>(scores.add(3 * ROWS), TILE);
        }
        for r in (0..TILE).step_by(16) {
            // SAFETY: 16 of the `TILE` values of each; a u32 has the size of a f32.
            unsafe {
                let mut score = _mm512_set1_ps(f32::NEG_INFINITY);
                for (scores, start) in scores.iter().zip(starts) {
                    let products = _mm512_loadu_ps(scores.as_ptr().add(r));
                    score = _mm512_max_ps(score, _mm512_add_ps(products, _mm512_set1_ps(*start)));
                }
                let best = seen.best.as_mut_ptr().add(r);
                let second = seen.second.as_mut_ptr().add(r);
                let number = seen.block.as_mut_ptr().add(r).cast::<f32>();
                let (high, next) = (_mm512_loadu_ps(best), _mm512_loadu_ps(second));
                let this = _mm512_set1_ps(f32::from_bits(first + b as u32));
                let chosen = choose(score, high, this, _mm512_loadu_ps(number));
                _mm512_storeu_ps(second, _mm512_max_ps(next, _mm512_min_ps(score, high)));
                _mm512_storeu_ps(number, chosen);
                _mm512_storeu_ps(best, _mm512_max_ps(high, score));
            }
        }
    }
}
