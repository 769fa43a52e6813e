//! The plain twin of tile registers: what kernels are tested with where there are none.

use super::{REGISTERS, SIDE, Tiles};

/// Tile registers in memory.
pub struct Emulated {
    registers: Box<[[[f32; SIDE]; SIDE]; REGISTERS]>,
    /// Of each register.
    rows: [usize; REGISTERS],
}

/// A word's two numbers; subnormal ones are 0.
fn numbers(word: f32) -> [f32; 2] {
    let bits = word.to_bits();
    [bits << 16, bits & 0xffff_0000].map(|bits| {
        let number = f32::from_bits(bits);
        if number.is_subnormal() { 0.0 } else { number }
    })
}

impl Tiles for Emulated {
    unsafe fn with_rows(rows: [u8; REGISTERS]) -> Self {
        // What is not written first is seen.
        let registers = Box::new([[[f32::NAN; SIDE]; SIDE]; REGISTERS]);
        Self { registers, rows: rows.map(usize::from) }
    }

    unsafe fn zero<const T: usize>(&mut self) {
        self.registers[T] = [[0.0; SIDE]; SIDE];
    }

    unsafe fn load<const T: usize>(&mut self, from: *const f32, stride: usize) {
        for (i, row) in self.registers[T].iter_mut().enumerate().take(self.rows[T]) {
            // SAFETY: 16 readable words (contract).
            unsafe { row.as_mut_ptr().copy_from(from.add(i * stride), SIDE) }
        }
    }

    unsafe fn store<const T: usize>(&self, to: *mut f32, stride: usize) {
        for (i, row) in self.registers[T].iter().enumerate().take(self.rows[T]) {
            // SAFETY: 16 writable words (contract).
            unsafe { row.as_ptr().copy_to(to.add(i * stride), SIDE) }
        }
    }

    unsafe fn multiply<const SUM: usize, const LEFT: usize, const RIGHT: usize>(&mut self) {
        assert!(self.rows[SUM] == self.rows[LEFT] && self.rows[RIGHT] == SIDE);
        let (left, right) = (self.registers[LEFT], self.registers[RIGHT]);
        for (sums, left) in self.registers[SUM].iter_mut().zip(left).take(self.rows[LEFT]) {
            for (left, right) in left.into_iter().zip(right) {
                let [a, b] = numbers(left);
                for (sum, right) in sums.iter_mut().zip(right) {
                    let [c, d] = numbers(right);
                    *sum += a * c;
                    *sum += b * d;
                }
            }
        }
    }
}
