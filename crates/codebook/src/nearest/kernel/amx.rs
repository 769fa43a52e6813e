//! The coarse sweep on the matrix unit of recent x86 CPUs (AMX), which multiplies
//! tiles of bf16: an instruction does 16 x 16 scores over 32 dimensions.
//!
//! Rust has no stable intrinsics for it yet, so the few instructions are written
//! out. They take subnormal values for 0, which the bound for underflow covers: see
//! [`crate::nearest::bound`].

use std::arch::asm;
use std::arch::x86_64::*;
use std::sync::OnceLock;

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
const ROWS: usize = 16;
/// Pairs of bf16 in a row of a tile register.
const PAIRS: usize = 16;
/// Vectors of a tile of the sweep: four tile registers.
const TILE: usize = 4 * ROWS;

/// Whether this machine has AMX for bf16 and lets this process use it.
pub(super) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bf16")
            && has_tiles()
            && is_permitted()
    })
}

/// Bits 22 (bf16) and 24 (tiles) of EDX of leaf 7.
fn has_tiles() -> bool {
    __cpuid(0).eax >= 7 && {
        let features = __cpuid_count(7, 0).edx;
        features & (1 << 22) != 0 && features & (1 << 24) != 0
    }
}

/// Asks Linux to keep the tile registers of this process's threads.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const REQUEST_PERMISSION: i64 = 0x1023;
    const TILE_DATA: i64 = 18;
    let mut result = ARCH_PRCTL;
    // SAFETY: a system call that changes nothing but the permission; it overwrites the
    // registers that are named.
    unsafe {
        asm!(
            "syscall",
            inout("rax") result,
            in("rdi") REQUEST_PERMISSION,
            in("rsi") TILE_DATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// What `ldtilecfg` reads: palette 1, and rows and bytes of a row of each register.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static SHAPES: Shapes = {
    let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
    let mut register = 0;
    while register < 8 {
        row_bytes[register] = 64;
        rows[register] = 16;
        register += 1;
    }
    Shapes { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
};

/// Loads a tile register, rows `stride` bytes apart.
macro_rules! load {
    ($register:literal, $from:expr, $stride:expr) => {
        asm!(
            concat!("tileloadd ", $register, ", [{from} + {stride}]"),
            from = in(reg) $from,
            stride = in(reg) $stride,
            options(nostack, readonly, preserves_flags),
        )
    };
}

/// Stores a tile register, rows `stride` bytes apart.
macro_rules! store {
    ($register:literal, $to:expr, $stride:expr) => {
        asm!(
            concat!("tilestored [{to} + {stride}], ", $register),
            to = in(reg) $to,
            stride = in(reg) $stride,
            options(nostack, preserves_flags),
        )
    };
}

/// An instruction on tile registers alone.
macro_rules! tiles {
    ($instruction:literal) => {
        asm!($instruction, options(nostack, nomem, preserves_flags))
    };
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
    let (code_bytes, tile_bytes) = (4 * dim, 4 * TILE);
    // SAFETY: tile registers are used between these two alone, and by no other code.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const SHAPES, options(nostack, readonly)) };
    for (b, starts) in starts.chunks_exact(ROWS).enumerate() {
        // SAFETY: `ROWS` rows of codes, and of `PAIRS` pairs of the tile from each `k` on
        // (contract); `scores` has the room for four registers side by side.
        unsafe {
            tiles!("tilezero tmm0");
            tiles!("tilezero tmm1");
            tiles!("tilezero tmm2");
            tiles!("tilezero tmm3");
            let codes = rows.as_ptr().add(b * ROWS * dim);
            for k in (0..dim).step_by(PAIRS) {
                let tile = tile.as_ptr().add(k * TILE);
                load!("tmm4", codes.add(k), code_bytes);
                load!("tmm5", tile, tile_bytes);
                tiles!("tdpbf16ps tmm0, tmm4, tmm5");
                load!("tmm6", tile.add(ROWS), tile_bytes);
                tiles!("tdpbf16ps tmm1, tmm4, tmm6");
                load!("tmm7", tile.add(2 * ROWS), tile_bytes);
                tiles!("tdpbf16ps tmm2, tmm4, tmm7");
                load!("tmm5", tile.add(3 * ROWS), tile_bytes);
                tiles!("tdpbf16ps tmm3, tmm4, tmm5");
            }
            let scores = scores.as_mut_ptr().cast::<f32>();
            store!("tmm0", scores, tile_bytes);
            store!("tmm1", scores.add(ROWS), tile_bytes);
            store!("tmm2", scores.add(2 * ROWS), tile_bytes);
            store!("tmm3", scores.add(3 * ROWS), tile_bytes);
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
    // SAFETY: as above.
    unsafe { tiles!("tilerelease") };
}
