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

/// Tiles of two groups of a factor's lines, and how far parts and the rows of a tile are apart.
#[derive(Clone, Copy)]
pub struct Words {
    pub tiles: [*const f32; 2],
    pub part: usize,
    pub row: usize,
}

impl Words {
    /// Those `words` further on.
    #[inline(always)]
    pub fn after(self, words: usize) -> Self {
        Self { tiles: self.tiles.map(|tile| tile.wrapping_add(words)), ..self }
    }
}

/// How many tiles are multiplied by [`add_tile`].
#[inline(always)]
pub const fn products<const PARTS: usize>() -> usize {
    4 * PARTS * (PARTS + 1) / 2
}

/// What is done between products, a share after each: the machine multiplies tiles and does other
/// things at the same time as long as both are near each other.
pub trait Beside {
    /// The next share.
    ///
    /// # Safety
    /// The machine must have the instruction set that this is made for.
    unsafe fn step(&mut self);
}

/// Nothing.
impl Beside for () {
    #[inline(always)]
    unsafe fn step(&mut self) {}
}

/// Adds a tile of terms of two groups of each factor, in `PARTS` parts, to the registers of sums.
///
/// # Safety
/// These tiles must be readable; the machine must have the registers.
#[inline(always)]
pub unsafe fn add_tile<T: Tiles, const PARTS: usize>(registers: &mut T, left: Words, right: Words) {
    // SAFETY: this function's contract.
    unsafe { add_tile_beside::<T, PARTS>(registers, left, right, &mut ()) }
}

/// [`add_tile`], and as many steps of something else as [`products`].
///
/// # Safety
/// As there, and as [`Beside::step`] demands.
#[inline(always)]
pub unsafe fn add_tile_beside<T: Tiles, const PARTS: usize>(
    registers: &mut T,
    left: Words,
    right: Words,
    beside: &mut impl Beside,
) {
    // SAFETY: this function's contract.
    unsafe {
        if PARTS == 1 {
            return add_parts::<T, true, true>(registers, (left, 0), (right, 0), beside);
        }
        // All pairs of parts but the smallest. Neighbours share a part.
        if PARTS == 2 {
            add_parts::<T, true, true>(registers, (left, 0), (right, 1), beside);
            add_parts::<T, false, true>(registers, (left, 0), (right, 0), beside);
            add_parts::<T, true, false>(registers, (left, 1), (right, 0), beside);
            return;
        }
        // Those whose products a sum of f32 would notice.
        add_parts::<T, true, true>(registers, (left, 1), (right, 1), beside);
        add_parts::<T, true, false>(registers, (left, 0), (right, 1), beside);
        add_parts::<T, false, true>(registers, (left, 0), (right, 2), beside);
        add_parts::<T, false, true>(registers, (left, 0), (right, 0), beside);
        add_parts::<T, true, false>(registers, (left, 1), (right, 0), beside);
        add_parts::<T, true, false>(registers, (left, 2), (right, 0), beside);
    }
}

/// Adds the products of one part of each factor; `LEFT` and `RIGHT`: which are not in registers yet.
///
/// # Safety
/// As for [`add_tile_beside`].
#[inline(always)]
unsafe fn add_parts<T: Tiles, const LEFT: bool, const RIGHT: bool>(
    registers: &mut T,
    (left, i): (Words, usize),
    (right, j): (Words, usize),
    beside: &mut impl Beside,
) {
    let [a, b] = left.after(i * left.part).tiles;
    let [c, d] = right.after(j * right.part).tiles;
    // SAFETY: this function's contract.
    unsafe {
        if LEFT {
            registers.load::<4>(a, left.row);
        }
        if RIGHT {
            registers.load::<6>(c, right.row);
        }
        registers.multiply::<0, 4, 6>();
        beside.step();
        if RIGHT {
            registers.load::<7>(d, right.row);
        }
        registers.multiply::<1, 4, 7>();
        beside.step();
        if LEFT {
            registers.load::<5>(b, left.row);
        }
        registers.multiply::<2, 5, 6>();
        beside.step();
        registers.multiply::<3, 5, 7>();
        beside.step();
    }
}

/// [`add_tile`] of `count` tiles of terms, one after the other.
///
/// # Safety
/// As there.
#[inline(always)]
pub unsafe fn add<T: Tiles, const PARTS: usize>(
    registers: &mut T,
    left: Words,
    right: Words,
    count: usize,
    unread: &mut [f32; TILE],
) {
    let often = AWAKE.div_ceil(products::<PARTS>());
    for tile in 0..count {
        // SAFETY: this function's contract; `unread` has room for a tile.
        unsafe {
            let (left, right) = (left.after(tile * TILE), right.after(tile * TILE));
            add_tile::<T, PARTS>(registers, left, right);
            if (tile + 1).is_multiple_of(often) {
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
