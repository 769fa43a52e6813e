//! The coarse sweep where nothing multiplies bf16: AVX2 multiplies pairs of 16-bit
//! integers and adds each pair's products, twice the work of an f32 multiply-add for
//! two instructions that can start in the same cycle.
//!
//! A row is rounded to fixed point, in units of its own: `unit * q`, `|q| < 2^15`.
//! It is laid out as pairs of `q`, an odd last one with a 0, and the unit behind them.
//! Sums of products are exact: by Cauchy-Schwarz none is beyond the product of two
//! rows' norms, each below `2^15` units. What rounding took is about a tenth of what
//! bf16 loses.

use std::arch::x86_64::*;

use super::simd::avx2::{choose, sum};
use super::simd::{Blocks, Coarse, Seen, Sweep, keep_best};
use crate::nearest::bound::norm_limit;

pub(super) const COARSE: Coarse =
    Coarse { sweep: Sweep { tile: TILE, codes: CODES, run: sweep }, round, multiple: 1, units: 1 };

/// Values of a register.
const LANES: usize = 8;
/// Registers of a tile.
const R: usize = 2;
/// Vectors of a tile.
const TILE: usize = R * LANES;
/// Codes of a block.
const CODES: usize = 6;
/// The largest integer: a row's norm in units.
const LARGEST: f32 = 32767.0;

/// As the sweeps of [`super::simd`], over rows of pairs of integers and their unit.
///
/// # Safety
/// The machine has the instruction set. `tile` has `len * TILE` values, `codes` as many
/// rows of `len` values as there are `starts`, `len` is not 0, and all of `seen` have
/// `TILE` values each.
#[target_feature(enable = "avx2,fma")]
unsafe fn sweep(tile: &[f32], len: usize, codes: Blocks, seen: Seen) {
    let Blocks { rows, starts, first } = codes;
    let Seen { best, second, block } = seen;
    debug_assert!(len > 0 && tile.len() >= len * TILE && rows.len() >= len * starts.len());
    let pairs = len - 1;
    let numbers = block.as_mut_ptr().cast::<f32>();
    let at = |r: usize| r * LANES;
    // SAFETY: `TILE` values each (contract); a u32 has the size of a f32.
    let (units, mut high, mut next, mut number) = unsafe {
        let load = |from: *const f32| -> [__m256; R] {
            std::array::from_fn(|r| _mm256_loadu_ps(from.add(at(r))))
        };
        let units = tile.as_ptr().add(pairs * TILE);
        (load(units), load(best.as_ptr()), load(second.as_ptr()), load(numbers))
    };
    for (b, starts) in starts.chunks_exact(CODES).enumerate() {
        let mut sums = [[_mm256_setzero_si256(); R]; CODES];
        // SAFETY: `starts` has a value for each row (contract).
        let codes = unsafe { rows.as_ptr().add(b * CODES * len) };
        for k in 0..pairs {
            // SAFETY: `len * TILE` values of the tile, and `CODES` rows of `len` values
            // from `codes` on (contract).
            unsafe {
                let tile = tile.as_ptr().add(k * TILE).cast::<__m256i>();
                let z: [_; R] = std::array::from_fn(|r| _mm256_loadu_si256(tile.add(r)));
                for (c, sums) in sums.iter_mut().enumerate() {
                    let e = _mm256_castps_si256(_mm256_broadcast_ss(&*codes.add(c * len + k)));
                    for (sum, z) in sums.iter_mut().zip(z) {
                        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(e, z));
                    }
                }
            }
        }
        let mut scores = [[_mm256_setzero_ps(); R]; CODES];
        for (c, (scores, sums)) in scores.iter_mut().zip(sums).enumerate() {
            // SAFETY: the last of `len` values of a row (contract).
            let unit = _mm256_set1_ps(unsafe { *codes.add(c * len + pairs) });
            for (r, (score, sum)) in scores.iter_mut().zip(sums).enumerate() {
                // In this order, so that no product of units is lost to underflow.
                let product = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), units[r]);
                *score = _mm256_fmadd_ps(product, unit, _mm256_set1_ps(starts[c]));
            }
        }
        let this = _mm256_set1_ps(f32::from_bits(first + b as u32));
        keep_best!(scores, this, high, next, number, _mm256_max_ps, _mm256_min_ps);
    }
    for r in 0..R {
        // SAFETY: `TILE` values each (contract).
        unsafe {
            _mm256_storeu_ps(best.as_mut_ptr().add(at(r)), high[r]);
            _mm256_storeu_ps(second.as_mut_ptr().add(at(r)), next[r]);
            _mm256_storeu_ps(numbers.add(at(r)), number[r]);
        }
    }
}

/// Writes `row` as pairs of integers and their unit, and returns the squared norm of
/// `row` less that.
///
/// # Safety
/// The machine has the instruction set.
#[target_feature(enable = "avx2,fma")]
unsafe fn round(row: &[f32], words: &mut [f32]) -> f32 {
    assert!(words.len() == row.len().div_ceil(2) + 1);
    let (whole, rest) = row.as_chunks::<16>();
    let mut last = [0.0; 16];
    last[..rest.len()].copy_from_slice(rest);
    let mut squares = [_mm256_setzero_ps(); 2];
    for values in whole.iter().chain([&last]) {
        for (squares, half) in squares.iter_mut().zip(halves(values)) {
            *squares = _mm256_fmadd_ps(half, half, *squares);
        }
    }
    // Never 0, and not finite where a value is not: then nothing is made of the scores.
    let unit = norm_limit(sum(_mm256_add_ps(squares[0], squares[1])), row.len()) / LARGEST;
    let mut lost = _mm256_setzero_ps();
    let (pairs, unit_at) = words.split_at_mut(row.len().div_ceil(2));
    let (whole_pairs, last_pairs) = pairs.split_at_mut(8 * whole.len());
    for (values, pairs) in whole.iter().zip(whole_pairs.chunks_exact_mut(8)) {
        // SAFETY: room for eight floats.
        unsafe { _mm256_storeu_ps(pairs.as_mut_ptr(), round_16(values, unit, &mut lost)) };
    }
    let mut room = [0.0; 8];
    // SAFETY: as above.
    unsafe { _mm256_storeu_ps(room.as_mut_ptr(), round_16(&last, unit, &mut lost)) };
    last_pairs.copy_from_slice(&room[..last_pairs.len()]);
    unit_at[0] = unit;
    sum(lost)
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn halves(values: &[f32; 16]) -> [__m256; 2] {
    // SAFETY: 16 floats.
    unsafe { [_mm256_loadu_ps(values.as_ptr()), _mm256_loadu_ps(values.as_ptr().add(8))] }
}

/// 16 values in units, as pairs of 16-bit integers.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn round_16(values: &[f32; 16], unit: f32, lost: &mut __m256) -> __m256 {
    let (units, in_units) = (_mm256_set1_ps(unit), _mm256_set1_ps(1.0 / unit));
    let [low, high] = halves(values).map(|values| {
        let rounded = _mm256_cvtps_epi32(_mm256_mul_ps(values, in_units));
        let rest = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(rounded), units, values);
        *lost = _mm256_fmadd_ps(rest, rest, *lost);
        rounded
    });
    // Packing goes by halves of registers: the middle quarters change places after it.
    let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(low, high));
    _mm256_castsi256_ps(packed)
}
