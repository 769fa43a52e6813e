//! A block of a product in four registers, two of either side: of two tiles of each factor every
//! one is multiplied twice.

use simd::tiles::{AWAKE, SIDE, Tiles};

use super::tiles::{GROUP, TILE};

/// Rows and columns of a block.
pub const BLOCK: usize = 2 * GROUP;
/// Floats of a block.
pub const SUMS: usize = BLOCK * BLOCK;

/// Sets the registers of sums to those of a block, or to 0.
///
/// # Safety
/// The machine must have the registers.
#[inline(always)]
pub unsafe fn begin<T: Tiles>(registers: &mut T, sums: Option<&[f32]>) {
    // SAFETY: this function's contract; four quarters of the block (asserted).
    unsafe {
        match sums {
            Some(sums) => {
                assert!(sums.len() >= SUMS);
                let sums = sums.as_ptr();
                registers.load::<0>(sums, BLOCK);
                registers.load::<1>(sums.add(SIDE), BLOCK);
                registers.load::<2>(sums.add(SIDE * BLOCK), BLOCK);
                registers.load::<3>(sums.add(SIDE * BLOCK + SIDE), BLOCK);
            }
            None => {
                registers.zero::<0>();
                registers.zero::<1>();
                registers.zero::<2>();
                registers.zero::<3>();
            }
        }
    }
}

/// Adds `count` tiles of terms of two groups of each factor, which is the given number of words
/// apart, to the registers of sums.
///
/// # Safety
/// These tiles must be readable; the machine must have the registers.
#[inline(always)]
pub unsafe fn add<T: Tiles>(
    registers: &mut T,
    (mut left, left_apart): (*const f32, usize),
    (mut right, right_apart): (*const f32, usize),
    count: usize,
    unread: &mut [f32; TILE],
) {
    for tile in 1..=count {
        // SAFETY: this function's contract; `unread` has room for a tile.
        unsafe {
            registers.load::<4>(left, SIDE);
            registers.load::<6>(right, SIDE);
            registers.multiply::<0, 4, 6>();
            registers.load::<7>(right.add(right_apart), SIDE);
            registers.multiply::<1, 4, 7>();
            registers.load::<5>(left.add(left_apart), SIDE);
            registers.multiply::<2, 5, 6>();
            registers.multiply::<3, 5, 7>();
            left = left.add(TILE);
            right = right.add(TILE);
            if tile.is_multiple_of(AWAKE / 4) {
                registers.store::<5>(unread.as_mut_ptr(), SIDE);
            }
        }
    }
}

/// Writes the registers of sums to a block.
///
/// # Safety
/// The machine must have the registers.
#[inline(always)]
pub unsafe fn end<T: Tiles>(registers: &T, sums: &mut [f32]) {
    assert!(sums.len() >= SUMS);
    let sums = sums.as_mut_ptr();
    // SAFETY: this function's contract; four quarters of the block (asserted).
    unsafe {
        registers.store::<0>(sums, BLOCK);
        registers.store::<1>(sums.add(SIDE), BLOCK);
        registers.store::<2>(sums.add(SIDE * BLOCK), BLOCK);
        registers.store::<3>(sums.add(SIDE * BLOCK + SIDE), BLOCK);
    }
}
