//! Registers that hold tiles of matrices: the matrix unit of recent x86 CPUs (AMX), which
//! multiplies bf16 and adds in f32, and its plain twin.
//!
//! A tile has 16 rows of 16 words. A word is a f32, or two neighbouring numbers of bf16, the
//! first in its lower half. A product takes 16 rows of 32 numbers on its left, and on its
//! right 16 rows of 16 pairs: two rows of the matrix, number by number.

mod emulated;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod x86;

pub use emulated::Emulated;
/// The registers that [`are_available`] tells of; elsewhere their plain twin.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub use emulated::Emulated as Native;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub use x86::Amx as Native;

/// Rows of a tile, and words of a row.
pub const SIDE: usize = 16;
/// Registers.
pub const REGISTERS: usize = 8;
/// Products after which a register should be stored, for nothing if need be. On the Xeon that
/// this was measured on, the first store after some 2000 cycles without one takes 900, in which
/// no tile is multiplied: a quarter of the time of some layers. A product takes 16.
pub const AWAKE: usize = 32;

/// The tile registers of one thread, from when they are made until they are dropped. Nothing
/// else on the thread may use them meanwhile.
pub trait Tiles: Sized {
    /// Registers of so many rows each, of 16 words, from 1 to 16. A product takes as long as its
    /// left has rows.
    ///
    /// # Safety
    /// The machine must have them.
    unsafe fn with_rows(rows: [u8; REGISTERS]) -> Self;

    /// All registers set to 16 rows of 16 words.
    ///
    /// # Safety
    /// The machine must have them.
    #[inline(always)]
    unsafe fn configure() -> Self {
        // SAFETY: this function's contract.
        unsafe { Self::with_rows([SIDE as u8; REGISTERS]) }
    }

    /// Fills register `T` with zeros.
    ///
    /// # Safety
    /// `T` is less than [`REGISTERS`].
    unsafe fn zero<const T: usize>(&mut self);

    /// Loads register `T`: 16 words from `from` on, and from every `stride` words behind, for
    /// each row.
    ///
    /// # Safety
    /// As for [`Tiles::zero`], and all of these words must be readable.
    unsafe fn load<const T: usize>(&mut self, from: *const f32, stride: usize);

    /// Stores register `T`: see [`Tiles::load`].
    ///
    /// # Safety
    /// As for [`Tiles::zero`], and all of these words must be writable.
    unsafe fn store<const T: usize>(&self, to: *mut f32, stride: usize);

    /// Adds to the f32 of register `SUM` the product of `LEFT`, rows of 32 numbers of bf16,
    /// and `RIGHT`, rows of pairs. Subnormal numbers count as 0.
    ///
    /// # Safety
    /// As for [`Tiles::zero`], for three different registers; `SUM` and `LEFT` have as many rows,
    /// and `RIGHT` has 16.
    unsafe fn multiply<const SUM: usize, const LEFT: usize, const RIGHT: usize>(&mut self);
}

/// Whether this machine has tiles of bf16 and lets this process use them.
pub fn are_available() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    return x86::is_available();
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    return false;
}

/// The bits of `number` in bf16, rounded to the nearest, ties to even; NaN stays NaN.
#[inline(always)]
pub fn bf16_bits(number: f32) -> u32 {
    let bits = number.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    if number.is_nan() { 0x7fc0 } else { rounded }
}

/// Two numbers as a word of bf16.
#[inline(always)]
pub fn bf16_pair(first: f32, second: f32) -> f32 {
    f32::from_bits(bf16_bits(first) | bf16_bits(second) << 16)
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn numbers_are_rounded_as_half_does() {
        let numbers = (0..1 << 16).map(|i: u32| f32::from_bits(i.wrapping_mul(0x9e37_79b9)));
        let edges = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1.0 + 1.0 / 256.0];
        for number in numbers.chain(edges) {
            let expected = bf16::from_f32(number);
            if number.is_nan() {
                assert!(bf16::from_bits(bf16_bits(number) as u16).is_nan(), "{number}");
                continue;
            }
            assert_eq!(bf16_bits(number), u32::from(expected.to_bits()), "{number}");
        }
        assert_eq!(bf16_pair(1.0, -2.0).to_bits(), 0xc000_3f80);
    }

    /// A product of 16 x 32 by 32 x 16, and a sum that it is added to.
    fn product<T: Tiles>() {
        let left: Vec<f32> = (0..512).map(|i| ((i * 37 % 101) as f32 - 50.0) / 8.0).collect();
        let right: Vec<f32> = (0..512).map(|i| ((i * 53 % 97) as f32 - 48.0) / 16.0).collect();
        // Rows of 20 words, and of 16 pairs.
        let mut rows = vec![0.0; 16 * 20];
        for (i, row) in left.chunks_exact(32).enumerate() {
            for (j, pair) in row.as_chunks::<2>().0.iter().enumerate() {
                rows[i * 20 + j] = bf16_pair(pair[0], pair[1]);
            }
        }
        let pair = |i: usize| {
            let (k, n) = (i / 16, i % 16);
            bf16_pair(right[2 * k * 16 + n], right[(2 * k + 1) * 16 + n])
        };
        let pairs: Vec<f32> = (0..256).map(pair).collect();
        let start: Vec<f32> = (0..256).map(|i| i as f32).collect();
        let mut sums = vec![0.0; 256];
        // SAFETY: the machine has these registers (the caller); buffers hold all rows.
        unsafe {
            let mut tiles = T::configure();
            tiles.zero::<0>();
            tiles.load::<1>(start.as_ptr(), 16);
            tiles.load::<6>(rows.as_ptr(), 20);
            tiles.load::<7>(pairs.as_ptr(), 16);
            tiles.multiply::<0, 6, 7>();
            tiles.multiply::<1, 6, 7>();
            tiles.store::<1>(sums.as_mut_ptr(), 16);
        }
        for (i, sum) in sums.iter().enumerate() {
            let (m, n) = (i / 16, i % 16);
            // All numbers are short fractions: exact in bf16, and their sums in f32.
            let expected: f32 = (0..32).map(|k| left[m * 32 + k] * right[k * 16 + n]).sum();
            assert_eq!(*sum, expected + i as f32, "{m}, {n}");
        }
    }

    /// Registers of fewer rows: what is beyond these is neither read nor written.
    fn some_rows<T: Tiles>() {
        let ones = [bf16_pair(1.0, 1.0); 256];
        let start: Vec<f32> = (0..5 * 20).map(|i| i as f32).collect();
        let mut sums = vec![-1.0; 256];
        // SAFETY: the machine has these registers (the caller); buffers hold as many rows.
        unsafe {
            let mut tiles = T::with_rows([16, 16, 5, 5, 5, 16, 16, 16]);
            tiles.load::<2>(start.as_ptr(), 20);
            tiles.load::<4>(ones[..5 * 16].as_ptr(), 16);
            tiles.load::<6>(ones.as_ptr(), 16);
            tiles.multiply::<2, 4, 6>();
            tiles.zero::<3>();
            tiles.multiply::<3, 4, 6>();
            tiles.store::<2>(sums.as_mut_ptr(), 16);
            tiles.store::<3>(sums[5 * 16..].as_mut_ptr(), 16);
        }
        for (i, sum) in sums.iter().enumerate() {
            let expected = match i / 16 {
                row @ 0..5 => (row * 20 + i % 16) as f32 + 32.0,
                5..10 => 32.0,
                _ => -1.0,
            };
            assert_eq!(*sum, expected, "{i}");
        }
    }

    #[test]
    fn tiles_multiply() {
        product::<Emulated>();
        some_rows::<Emulated>();
        if are_available() {
            product::<Native>();
            some_rows::<Native>();
        } else {
            eprintln!("skipped: no AMX");
        }
    }
}
