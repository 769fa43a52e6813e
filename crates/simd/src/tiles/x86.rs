//! AMX. Rust has no stable intrinsics for it yet, so the few instructions are written out.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::sync::OnceLock;

use super::{REGISTERS, SIDE, Tiles};

/// The tile registers of AMX.
pub struct Amx(());

/// Whether this machine has AMX for bf16 and lets this process use it.
pub(super) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| has_tiles() && is_permitted())
}

/// Bits 22 (bf16) and 24 (tiles) of EDX of leaf 7.
fn has_tiles() -> bool {
    __cpuid(0).eax >= 7 && {
        let features = __cpuid_count(7, 0).edx;
        features & (1 << 22) != 0 && features & (1 << 24) != 0
    }
}

/// Asks Linux to keep the tile registers of this process's threads.
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

/// What `ldtilecfg` reads: palette 1, and rows and bytes of a row of each register.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Shapes {
    #[inline(always)]
    fn new(of_registers: [u8; REGISTERS]) -> Self {
        let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
        row_bytes[..REGISTERS].fill((size_of::<f32>() * SIDE) as u16);
        rows[..REGISTERS].copy_from_slice(&of_registers);
        Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
    }
}

impl Tiles for Amx {
    #[inline(always)]
    unsafe fn with_rows(rows: [u8; REGISTERS]) -> Self {
        let shapes = Shapes::new(rows);
        // SAFETY: the machine has tiles (contract).
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const shapes, options(nostack, readonly)) };
        Self(())
    }

    #[inline(always)]
    unsafe fn zero<const T: usize>(&mut self) {
        // SAFETY: a register of the eight (contract).
        unsafe {
            asm!("tilezero tmm{}", const T, options(nostack, nomem, preserves_flags));
        }
    }

    #[inline(always)]
    unsafe fn load<const T: usize>(&mut self, from: *const f32, stride: usize) {
        // SAFETY: readable words (contract).
        unsafe {
            asm!(
                "tileloadd tmm{}, [{from} + {stride}]",
                const T,
                from = in(reg) from,
                stride = in(reg) size_of::<f32>() * stride,
                options(nostack, readonly, preserves_flags),
            );
        }
    }

    #[inline(always)]
    unsafe fn store<const T: usize>(&self, to: *mut f32, stride: usize) {
        // SAFETY: writable words (contract).
        unsafe {
            asm!(
                "tilestored [{to} + {stride}], tmm{}",
                const T,
                to = in(reg) to,
                stride = in(reg) size_of::<f32>() * stride,
                options(nostack, preserves_flags),
            );
        }
    }

    #[inline(always)]
    unsafe fn multiply<const SUM: usize, const LEFT: usize, const RIGHT: usize>(&mut self) {
        // SAFETY: registers of the eight (contract).
        unsafe {
            asm!(
                "tdpbf16ps tmm{}, tmm{}, tmm{}",
                const SUM,
                const LEFT,
                const RIGHT,
                options(nostack, nomem, preserves_flags),
            );
        }
    }
}

impl Drop for Amx {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: they were configured.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) }
    }
}
