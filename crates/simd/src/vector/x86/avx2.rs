//! The registers of AVX2.

use std::arch::x86_64::*;

use crate::vector::Vector;

impl Vector for __m256 {
    const LANES: usize = 8;
    const PAIRS: usize = 6;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the machine has AVX2 and FMA (contract).
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: as above; readable by contract.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above; writable by contract.
        unsafe { _mm256_storeu_ps(to, self) }
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm256_add_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn minus(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm256_sub_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn times(self, by: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm256_mul_ps(self, by) }
    }

    #[inline(always)]
    unsafe fn reciprocal(self) -> Self {
        // SAFETY: as above.
        unsafe { _mm256_div_ps(_mm256_set1_ps(1.0), self) }
    }

    #[inline(always)]
    unsafe fn at_least(self, least: Self) -> Self {
        // SAFETY: as above. The second where one is NaN.
        unsafe { _mm256_max_ps(least, self) }
    }

    #[inline(always)]
    unsafe fn at_most(self, most: Self) -> Self {
        // SAFETY: as above. The second where one is NaN.
        unsafe { _mm256_min_ps(most, self) }
    }

    #[inline(always)]
    unsafe fn times_power(self, n: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            let power = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent));
            _mm256_mul_ps(self, power)
        }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: as above.
        unsafe {
            let upper = _mm256_extractf128_ps::<1>(self);
            let halves = _mm_add_ps(_mm256_castps256_ps128(self), upper);
            let pairs = _mm_add_ps(halves, _mm_movehl_ps(halves, halves));
            _mm_cvtss_f32(_mm_add_ss(pairs, _mm_shuffle_ps::<1>(pairs, pairs)))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        // SAFETY: as above; readable by contract.
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }

    #[inline(always)]
    unsafe fn bf16_pairs(self, second: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let (low, high) = (in_bf16(self), in_bf16(second));
            _mm256_castsi256_ps(_mm256_or_si256(low, _mm256_slli_epi32::<16>(high)))
        }
    }

    #[inline(always)]
    unsafe fn bf16_row(self, next: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            // Four of the one and four of the other by turns.
            let turns = _mm256_packus_epi32(in_bf16(self), in_bf16(next));
            _mm256_castsi256_ps(_mm256_permute4x64_epi64::<0b11_01_10_00>(turns))
        }
    }

    #[inline(always)]
    unsafe fn upper(self) -> Self {
        // SAFETY: as above.
        unsafe {
            _mm256_and_ps(self, _mm256_castsi256_ps(_mm256_set1_epi32(0xffff_0000_u32 as i32)))
        }
    }

    #[inline(always)]
    unsafe fn nearest_upper(self) -> Self {
        // SAFETY: as above.
        unsafe {
            let sum = _mm256_add_epi32(_mm256_castps_si256(self), _mm256_set1_epi32(0x8000));
            _mm256_castsi256_ps(sum).upper()
        }
    }

    #[inline(always)]
    unsafe fn upper_pairs(self, second: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let low = _mm256_srli_epi32::<16>(_mm256_castps_si256(self));
            let pairs = _mm256_blend_epi16::<0b1010_1010>(low, _mm256_castps_si256(second));
            _mm256_castsi256_ps(pairs)
        }
    }

    #[inline(always)]
    unsafe fn upper_row(self, next: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let [low, high] = [self, next].map(|x| _mm256_srli_epi32::<16>(_mm256_castps_si256(x)));
            // Four of the one and four of the other by turns.
            let turns = _mm256_packus_epi32(low, high);
            _mm256_castsi256_ps(_mm256_permute4x64_epi64::<0b11_01_10_00>(turns))
        }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        // SAFETY: as above; readable by contract.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    unsafe fn splat_f16(bits: u16) -> Self {
        // SAFETY: as above.
        unsafe { _mm256_cvtph_ps(_mm_set1_epi16(bits as i16)) }
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: as above; readable by contract.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_nibbles(from: *const u8, upper: bool) -> Self {
        // SAFETY: as above; readable by contract.
        unsafe {
            let bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast()));
            let nibbles = if upper {
                _mm256_srli_epi32::<4>(bytes)
            } else {
                _mm256_and_si256(bytes, _mm256_set1_epi32(15))
            };
            _mm256_cvtepi32_ps(nibbles)
        }
    }

    #[inline(always)]
    unsafe fn mul_add(self, by: Self, plus: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm256_fmadd_ps(self, by, plus) }
    }

    #[inline(always)]
    unsafe fn stream(self, to: *mut f32) {
        // SAFETY: as above; aligned by contract.
        unsafe { _mm256_stream_ps(to, self) }
    }

    #[inline(always)]
    fn fence() {
        // SAFETY: every x86-64 has it.
        unsafe { _mm_sfence() }
    }

    #[inline(always)]
    fn prefetch(address: *const f32) {
        // SAFETY: a hint, which reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }

    #[inline(always)]
    fn prefetch_far(address: *const f32) {
        // SAFETY: a hint, which reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: as above; all rows are readable and writable by contract. The same
        // scheme as with 16 lanes.
        unsafe {
            let mut rows = [_mm256_setzero_ps(); 8];
            for (i, row) in rows.iter_mut().enumerate() {
                *row = _mm256_loadu_ps(from.add(i * from_stride));
            }
            for four in rows.chunks_exact_mut(4) {
                let a = _mm256_unpacklo_ps(four[0], four[1]);
                let b = _mm256_unpackhi_ps(four[0], four[1]);
                let c = _mm256_unpacklo_ps(four[2], four[3]);
                let d = _mm256_unpackhi_ps(four[2], four[3]);
                four[0] = _mm256_shuffle_ps::<0x44>(a, c);
                four[1] = _mm256_shuffle_ps::<0xEE>(a, c);
                four[2] = _mm256_shuffle_ps::<0x44>(b, d);
                four[3] = _mm256_shuffle_ps::<0xEE>(b, d);
            }
            for i in 0..4 {
                let low = _mm256_permute2f128_ps::<0x20>(rows[i], rows[4 + i]);
                let high = _mm256_permute2f128_ps::<0x31>(rows[i], rows[4 + i]);
                _mm256_storeu_ps(to.add(i * to_stride), low);
                _mm256_storeu_ps(to.add((4 + i) * to_stride), high);
            }
        }
    }
}

/// Each number in bf16, in the lower half of its lane: see [`crate::tiles::bf16_bits`].
///
/// # Safety
/// The machine must have AVX2.
#[inline(always)]
unsafe fn in_bf16(x: __m256) -> __m256i {
    // SAFETY: the machine has AVX2 (contract).
    unsafe {
        let bits = _mm256_castps_si256(x);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let sum = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        let is_nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
        let rounded = _mm256_srli_epi32::<16>(sum);
        _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), is_nan)
    }
}
