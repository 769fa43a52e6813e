//! The registers of AVX-512.

use std::arch::x86_64::*;

use crate::vector::Vector;

impl Vector for __m512 {
    const LANES: usize = 16;
    const PAIRS: usize = 12;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the machine has AVX-512 (contract).
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: as above; readable by contract.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above; writable by contract.
        unsafe { _mm512_storeu_ps(to, self) }
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm512_add_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn minus(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm512_sub_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn times(self, by: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm512_mul_ps(self, by) }
    }

    #[inline(always)]
    unsafe fn reciprocal(self) -> Self {
        // SAFETY: as above. 14 bits, and a step of Newton's.
        unsafe {
            let near = _mm512_rcp14_ps(self);
            let off = _mm512_fnmadd_ps(self, near, _mm512_set1_ps(1.0));
            _mm512_fmadd_ps(near, off, near)
        }
    }

    #[inline(always)]
    unsafe fn at_least(self, least: Self) -> Self {
        // SAFETY: as above. The second where one is NaN.
        unsafe { _mm512_max_ps(least, self) }
    }

    #[inline(always)]
    unsafe fn at_most(self, most: Self) -> Self {
        // SAFETY: as above. The second where one is NaN.
        unsafe { _mm512_min_ps(most, self) }
    }

    #[inline(always)]
    unsafe fn times_power(self, n: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm512_scalef_ps(self, n) }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: as above.
        unsafe {
            let upper = _mm512_shuffle_f32x4::<0xEE>(self, self);
            let low = _mm512_castps512_ps256(_mm512_add_ps(self, upper));
            let halves = _mm_add_ps(
                _mm256_castps256_ps128(low),
                _mm256_castps256_ps128(_mm256_permute2f128_ps::<0x11>(low, low)),
            );
            let pairs = _mm_add_ps(halves, _mm_movehl_ps(halves, halves));
            _mm_cvtss_f32(_mm_add_ss(pairs, _mm_shuffle_ps::<1>(pairs, pairs)))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        // SAFETY: as above; readable by contract.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }

    #[inline(always)]
    unsafe fn bf16_pairs(self, second: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let (low, high) = (in_bf16(self), in_bf16(second));
            _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32::<16>(high)))
        }
    }

    #[inline(always)]
    unsafe fn bf16_row(self, next: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let low = _mm512_cvtepi32_epi16(in_bf16(self));
            let high = _mm512_cvtepi32_epi16(in_bf16(next));
            _mm512_castsi512_ps(_mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high))
        }
    }

    #[inline(always)]
    unsafe fn upper(self) -> Self {
        // SAFETY: as above.
        unsafe {
            let mask = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(self), mask))
        }
    }

    #[inline(always)]
    unsafe fn nearest_upper(self) -> Self {
        // SAFETY: as above.
        unsafe {
            let sum = _mm512_add_epi32(_mm512_castps_si512(self), _mm512_set1_epi32(0x8000));
            _mm512_castsi512_ps(sum).upper()
        }
    }

    #[inline(always)]
    unsafe fn upper_pairs(self, second: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let low = _mm512_srli_epi32::<16>(_mm512_castps_si512(self));
            let high = _mm512_castps_si512(second.upper());
            _mm512_castsi512_ps(_mm512_or_si512(low, high))
        }
    }

    #[inline(always)]
    unsafe fn upper_row(self, next: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let [low, high] = [self, next]
                .map(|x| _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(_mm512_castps_si512(x))));
            _mm512_castsi512_ps(_mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high))
        }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        // SAFETY: as above; readable by contract.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn splat_f16(bits: u16) -> Self {
        // SAFETY: as above.
        unsafe { _mm512_cvtph_ps(_mm256_set1_epi16(bits as i16)) }
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: as above; readable by contract.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_nibbles(from: *const u8, upper: bool) -> Self {
        // SAFETY: as above; readable by contract.
        unsafe {
            let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()));
            let nibbles = if upper {
                _mm512_srli_epi32::<4>(bytes)
            } else {
                _mm512_and_si512(bytes, _mm512_set1_epi32(15))
            };
            _mm512_cvtepi32_ps(nibbles)
        }
    }

    #[inline(always)]
    unsafe fn mul_add(self, by: Self, plus: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm512_fmadd_ps(self, by, plus) }
    }

    #[inline(always)]
    unsafe fn stream(self, to: *mut f32) {
        // SAFETY: as above; aligned by contract.
        unsafe { _mm512_stream_ps(to, self) }
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
        // SAFETY: as above; all rows are readable and writable by contract. Four rows
        // become 4x4 blocks within 128-bit lanes, then the lanes change places.
        unsafe {
            let mut rows = [_mm512_setzero_ps(); 16];
            for (i, row) in rows.iter_mut().enumerate() {
                *row = _mm512_loadu_ps(from.add(i * from_stride));
            }
            for four in rows.chunks_exact_mut(4) {
                let a = _mm512_unpacklo_ps(four[0], four[1]);
                let b = _mm512_unpackhi_ps(four[0], four[1]);
                let c = _mm512_unpacklo_ps(four[2], four[3]);
                let d = _mm512_unpackhi_ps(four[2], four[3]);
                four[0] = _mm512_shuffle_ps::<0x44>(a, c);
                four[1] = _mm512_shuffle_ps::<0xEE>(a, c);
                four[2] = _mm512_shuffle_ps::<0x44>(b, d);
                four[3] = _mm512_shuffle_ps::<0xEE>(b, d);
            }
            for i in 0..4 {
                let a = _mm512_shuffle_f32x4::<0x88>(rows[i], rows[4 + i]);
                let b = _mm512_shuffle_f32x4::<0xDD>(rows[i], rows[4 + i]);
                let c = _mm512_shuffle_f32x4::<0x88>(rows[8 + i], rows[12 + i]);
                let d = _mm512_shuffle_f32x4::<0xDD>(rows[8 + i], rows[12 + i]);
                let columns = [
                    _mm512_shuffle_f32x4::<0x88>(a, c),
                    _mm512_shuffle_f32x4::<0x88>(b, d),
                    _mm512_shuffle_f32x4::<0xDD>(a, c),
                    _mm512_shuffle_f32x4::<0xDD>(b, d),
                ];
                for (lane, column) in columns.into_iter().enumerate() {
                    _mm512_storeu_ps(to.add((4 * lane + i) * to_stride), column);
                }
            }
        }
    }
}

/// Each number in bf16, in the lower half of its lane: see [`crate::tiles::bf16_bits`].
///
/// # Safety
/// The machine must have AVX-512.
#[inline(always)]
unsafe fn in_bf16(x: __m512) -> __m512i {
    // SAFETY: the machine has AVX-512 (contract).
    unsafe {
        let bits = _mm512_castps_si512(x);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let sum = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
        let rounded = _mm512_srli_epi32::<16>(sum);
        _mm512_mask_mov_epi32(rounded, is_nan, _mm512_set1_epi32(0x7fc0))
    }
}
