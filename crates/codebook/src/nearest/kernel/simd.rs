//! The inner loops of the search, per instruction set.
//!
//! A *tile* is one or two registers of vectors, transposed: value `k` of all of them
//! lies together, one vector per lane. Codes stay as they are, row after row, and are
//! broadcast: nothing of the codebook is packed. A *block* is some codes whose scores
//! fit in registers together with what is kept of the blocks before.

/// The loops for one instruction set.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) struct Loops {
    pub sweep: Sweep,
    pub coarse: Option<Coarse>,
    pub four_dots: unsafe fn(&[f32], &[f32]) -> [f32; 4],
    pub one_dot: unsafe fn(&[f32], &[f32]) -> [f32; 1],
}

/// The sweep of a tile over blocks of codes.
#[derive(Clone, Copy)]
pub(super) struct Sweep {
    /// Vectors of a tile.
    pub tile: usize,
    /// Codes of a block.
    pub codes: usize,
    /// Tile, values of a row, codes, and what is updated.
    pub run: unsafe fn(&[f32], usize, Blocks, Seen),
}

/// A sweep over tiles and rows of pairs of rounded values, each pair in the place of
/// an f32.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) struct Coarse {
    pub sweep: Sweep,
    pub round: Round,
    /// What the values of a row are filled up to a multiple of, with zeros.
    pub multiple: usize,
    /// Values behind the pairs: 1 where each row has a unit of its own.
    pub units: usize,
}

/// Whole blocks of codes, numbered from `first`.
#[derive(Clone, Copy)]
pub(super) struct Blocks<'a> {
    pub rows: &'a [f32],
    pub starts: &'a [f32],
    pub first: u32,
}

/// What was seen so far for the vectors of a tile: see `Summary`.
pub(super) struct Seen<'a> {
    pub best: &'a mut [f32],
    pub second: &'a mut [f32],
    pub block: &'a mut [u32],
}

/// A row, and where its pairs and its unit go; returns the squared norm of what rounding
/// took.
pub(super) type Round = unsafe fn(&[f32], &mut [f32]) -> f32;

/// Takes note of a block number `this`: the highest of the `scores` of its codes, in each
/// register of a tile, against the highest and the next so far.
#[cfg(target_arch = "x86_64")]
macro_rules! keep_best {
    ($scores:ident, $this:ident, $high:ident, $next:ident, $number:ident,
     $max:ident, $min:ident) => {
        for r in 0..R {
            let mut width = CODES;
            while width > 1 {
                let half = width.div_ceil(2);
                for c in half..width {
                    $scores[c - half][r] = $max($scores[c - half][r], $scores[c][r]);
                }
                width = half;
            }
            let score = $scores[0][r];
            $next[r] = $max($next[r], $min(score, $high[r]));
            $number[r] = choose(score, $high[r], $this, $number[r]);
            $high[r] = $max($high[r], score);
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(super) use keep_best;

#[cfg(target_arch = "x86_64")]
macro_rules! sweep {
    ($feature:literal, tile: $tile:literal, registers: $registers:literal,
     codes: $codes:literal, $load:ident, $store:ident, $splat:ident, $fma:ident,
     $max:ident, $min:ident) => {
        /// Vectors of a tile.
        const TILE: usize = $tile;
        /// Registers of a tile.
        const R: usize = $registers;
        /// Values of a register.
        const LANES: usize = TILE / R;
        /// Codes of a block.
        const CODES: usize = $codes;

        /// Goes over blocks of codes. Score `k` of a vector is `starts[k]` plus its
        /// product with row `k`; the score of a block is the highest of its codes'.
        /// Updates for each vector of the tile the highest score of a block, its
        /// number, and the highest score of the other blocks.
        ///
        /// # Safety
        /// The machine has the instruction set. `tile` has `dim * TILE` values, `codes`
        /// as many rows of `dim` values as there are `starts`, and all of `seen` have
        /// `TILE` values each.
        #[target_feature(enable = $feature)]
        unsafe fn sweep(tile: &[f32], dim: usize, codes: Blocks, seen: Seen) {
            let Blocks { rows, starts, first } = codes;
            let Seen { best, second, block } = seen;
            debug_assert!(tile.len() >= dim * TILE);
            debug_assert!(rows.len() >= dim * starts.len());
            let numbers = block.as_mut_ptr().cast::<f32>();
            let at = |r: usize| r * LANES;
            // SAFETY: `TILE` values each (contract); a u32 has the size of a f32.
            let (mut high, mut next, mut number) = unsafe {
                (
                    std::array::from_fn::<_, R, _>(|r| $load(best.as_ptr().add(at(r)))),
                    std::array::from_fn::<_, R, _>(|r| $load(second.as_ptr().add(at(r)))),
                    std::array::from_fn::<_, R, _>(|r| $load(numbers.add(at(r)))),
                )
            };
            for (b, starts) in starts.chunks_exact(CODES).enumerate() {
                let mut scores = [[$splat(0.0); R]; CODES];
                for c in 0..CODES {
                    scores[c] = [$splat(starts[c]); R];
                }
                // SAFETY: `starts` has a value for each row (contract).
                let codes = unsafe { rows.as_ptr().add(b * CODES * dim) };
                for k in 0..dim {
                    // SAFETY: `dim * TILE` values of the tile, and `CODES` rows of `dim`
                    // values from `codes` on (contract).
                    unsafe {
                        let tile = tile.as_ptr().add(k * TILE);
                        let z: [_; R] = std::array::from_fn(|r| $load(tile.add(at(r))));
                        for c in 0..CODES {
                            let e = $splat(*codes.add(c * dim + k));
                            for r in 0..R {
                                scores[c][r] = $fma(e, z[r], scores[c][r]);
                            }
                        }
                    }
                }
                // Numbers travel as the bits of floats: they are only moved.
                let this = $splat(f32::from_bits(first + b as u32));
                keep_best!(scores, this, high, next, number, $max, $min);
            }
            for r in 0..R {
                // SAFETY: `TILE` values each (contract).
                unsafe {
                    $store(best.as_mut_ptr().add(at(r)), high[r]);
                    $store(second.as_mut_ptr().add(at(r)), next[r]);
                    $store(numbers.add(at(r)), number[r]);
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
macro_rules! dots {
    ($feature:literal, $load:ident, $splat:ident, $fma:ident) => {
        /// `out[k] = vector . row k` for `M` rows.
        ///
        /// # Safety
        /// The machine has the instruction set; `rows` has `M` rows as long as
        /// `vector`.
        #[target_feature(enable = $feature)]
        unsafe fn dots<const M: usize>(vector: &[f32], rows: &[f32]) -> [f32; M] {
            let dim = vector.len();
            debug_assert!(rows.len() >= M * dim);
            let whole = dim - dim % LANES;
            let mut sums = [$splat(0.0); M];
            for k in (0..whole).step_by(LANES) {
                // SAFETY: `k + LANES <= dim` floats of the vector and of each row.
                unsafe {
                    let z = $load(vector.as_ptr().add(k));
                    for m in 0..M {
                        sums[m] = $fma(z, $load(rows.as_ptr().add(m * dim + k)), sums[m]);
                    }
                }
            }
            std::array::from_fn(|m| {
                let row = &rows[m * dim..][..dim];
                let rest = vector[whole..].iter().zip(&row[whole..]);
                sum(sums[m]) + rest.map(|(a, b)| a * b).sum::<f32>()
            })
        }
    };
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512 {
    use std::arch::x86_64::*;

    use super::{Blocks, Loops, Seen, Sweep};

    pub const LOOPS: Loops = Loops {
        sweep: Sweep { tile: TILE, codes: CODES, run: sweep },
        coarse: None,
        four_dots: dots::<4>,
        one_dot: dots::<1>,
    };

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn choose(a: __m512, b: __m512, greater: __m512, otherwise: __m512) -> __m512 {
        _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b), otherwise, greater)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn sum(a: __m512) -> f32 {
        _mm512_reduce_add_ps(a)
    }

    sweep!(
        "avx512f",
        tile: 16,
        registers: 1,
        codes: 12,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_set1_ps,
        _mm512_fmadd_ps,
        _mm512_max_ps,
        _mm512_min_ps
    );
    dots!("avx512f", _mm512_loadu_ps, _mm512_set1_ps, _mm512_fmadd_ps);
}

/// As AVX-512, with twice the products per instruction for the coarse sweep.
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512bf16 {
    use std::arch::x86_64::*;
    use std::mem::transmute;

    use super::avx512::choose;
    use super::{Blocks, Coarse, Loops, Seen, Sweep};

    pub const LOOPS: Loops = Loops {
        coarse: Some(Coarse {
            sweep: Sweep { tile: TILE, codes: CODES, run: sweep },
            round,
            multiple: 1,
            units: 0,
        }),
        ..super::avx512::LOOPS
    };

    /// Adds the products of both halves of each pair.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn add_products(a: __m512, b: __m512, sum: __m512) -> __m512 {
        // SAFETY: types of the same size that any bits are valid for.
        let (a, b) =
            unsafe { (transmute::<__m512, __m512bh>(a), transmute::<__m512, __m512bh>(b)) };
        _mm512_dpbf16_ps(sum, a, b)
    }

    sweep!(
        "avx512f,avx512bf16",
        tile: 32,
        registers: 2,
        codes: 8,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_set1_ps,
        add_products,
        _mm512_max_ps,
        _mm512_min_ps
    );

    /// Writes `row` as pairs of bf16, an odd last one with a 0, and returns the
    /// squared norm of `row` less that.
    ///
    /// # Safety
    /// The machine has the instruction set.
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn round(row: &[f32], pairs: &mut [f32]) -> f32 {
        assert!(pairs.len() == row.len().div_ceil(2));
        let mut lost = _mm512_setzero_ps();
        let (whole, rest) = row.as_chunks::<16>();
        for (i, values) in whole.iter().enumerate() {
            // SAFETY: `values` has 16 floats, `pairs` half of all `row` has.
            unsafe {
                let values = _mm512_loadu_ps(values.as_ptr());
                _mm256_storeu_ps(pairs.as_mut_ptr().add(8 * i), round_16(values, &mut lost));
            }
        }
        if !rest.is_empty() {
            let (mut values, mut last) = ([0.0; 16], [0.0; 8]);
            values[..rest.len()].copy_from_slice(rest);
            // SAFETY: 16 and 8 floats.
            unsafe {
                let values = _mm512_loadu_ps(values.as_ptr());
                _mm256_storeu_ps(last.as_mut_ptr(), round_16(values, &mut lost));
            }
            let pairs = &mut pairs[8 * whole.len()..];
            pairs.copy_from_slice(&last[..pairs.len()]);
        }
        _mm512_reduce_add_ps(lost)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn round_16(values: __m512, lost: &mut __m512) -> __m256 {
        // SAFETY: types of the same size that any bits are valid for.
        let halves = unsafe { transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(values)) };
        let wide = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves));
        let rest = _mm512_sub_ps(values, _mm512_castsi512_ps(wide));
        *lost = _mm512_fmadd_ps(rest, rest, *lost);
        _mm256_castsi256_ps(halves)
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2 {
    use std::arch::x86_64::*;

    use super::{Blocks, Loops, Seen, Sweep};

    pub const LOOPS: Loops = Loops {
        sweep: Sweep { tile: TILE, codes: CODES, run: sweep },
        coarse: Some(super::super::fixed::COARSE),
        four_dots: dots::<4>,
        one_dot: dots::<1>,
    };

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub fn choose(a: __m256, b: __m256, greater: __m256, otherwise: __m256) -> __m256 {
        _mm256_blendv_ps(otherwise, greater, _mm256_cmp_ps::<_CMP_GT_OQ>(a, b))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub fn sum(a: __m256) -> f32 {
        let a = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
        let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
        _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)))
    }

    sweep!(
        "avx2,fma",
        tile: 16,
        registers: 2,
        codes: 6,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_set1_ps,
        _mm256_fmadd_ps,
        _mm256_max_ps,
        _mm256_min_ps
    );
    dots!("avx2,fma", _mm256_loadu_ps, _mm256_set1_ps, _mm256_fmadd_ps);
}
