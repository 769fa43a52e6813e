//! The products against sums in f64 of the same numbers.

use simd::elementary::f16_to_f32;
use simd::isa::Isa;
use simd::vector::{Kernel, run};

use super::super::format::{Brain, Eight, Four, Half};
use super::*;

/// Hashed numbers.
struct Numbers(u32);

impl Numbers {
    fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0 >> 8
    }

    /// In [-1, 1].
    fn unit(&mut self) -> f32 {
        (self.bits() % 2001) as f32 / 1000.0 - 1.0
    }
}

struct Run<'a, F> {
    weights: &'a [u8],
    x: &'a [f32],
    len: usize,
    sums: &'a mut [f32],
    work: &'a mut [f32],
    format: std::marker::PhantomData<F>,
}

impl<F: Format> Kernel for Run<'_, F> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let stride = self.len / F::BLOCK * F::BYTES;
        let weights =
            Rows { first: self.weights.as_ptr(), stride, count: self.weights.len() / stride };
        let x = Rows { first: self.x.as_ptr(), stride: self.len, count: self.x.len() / self.len };
        assert_eq!(self.sums.len(), weights.count * x.count);
        // SAFETY: all rows are there, and there is room for the sums.
        unsafe {
            let sums = self.sums.as_mut_ptr();
            add_products::<S, F>(weights, x, self.len, sums, weights.count, self.work);
        }
    }
}

/// Products by the instruction set `isa`, on top of zeros.
fn products<F: Format>(
    isa: Option<Isa>,
    weights: &[u8],
    x: &[f32],
    len: usize,
    work: &mut [f32],
) -> Vec<f32> {
    let rows = weights.len() / (len / F::BLOCK * F::BYTES);
    let mut sums = vec![0.0; rows * (x.len() / len)];
    let format = std::marker::PhantomData::<F>;
    run(isa, Run { weights, x, len, sums: &mut sums, work, format });
    sums
}

/// Rows of `bytes` in a format, by a formula for a number of a block.
fn check<F: Format>(
    lens: &[usize],
    mut block: impl FnMut(&mut Numbers) -> Vec<u8>,
    value: impl Fn(&[u8], usize) -> f32,
) {
    let mut numbers = Numbers(1);
    // What working memory holds must not matter.
    let mut work = vec![f32::NAN; WORK];
    for &len in lens {
        for rows in [1, 3, 4, 5, 9] {
            let blocks = rows * len / F::BLOCK;
            let weights: Vec<u8> = (0..blocks).flat_map(|_| block(&mut numbers)).collect();
            let weight = |row: usize, i: usize| {
                let at = (row * len + i) / F::BLOCK * F::BYTES;
                f64::from(value(&weights[at..at + F::BYTES], i % F::BLOCK))
            };
            for count in [1, 2, 3, 4, 17, 49] {
                let x: Vec<f32> = (0..count * len).map(|_| numbers.unit()).collect();
                for isa in Isa::with_portable() {
                    let found = products::<F>(isa, &weights, &x, len, &mut work);
                    for (i, found) in found.iter().enumerate() {
                        let (row, of) = (i % rows, &x[i / rows * len..][..len]);
                        let term = |(i, x): (usize, &f32)| weight(row, i) * f64::from(*x);
                        let sum: f64 = of.iter().enumerate().map(term).sum();
                        let size: f64 = of.iter().enumerate().map(|x| term(x).abs()).sum();
                        let error = (f64::from(*found) - sum).abs();
                        assert!(error <= 1e-5 * size, "{isa:?}, {rows} x {count} x {len}: {error}");
                    }
                    // In every bit, whatever is computed with it and with what memory.
                    let bare = products::<F>(isa, &weights, &x, len, &mut []);
                    assert_eq!(found, bare, "{isa:?}, {rows} x {count} x {len}");
                    for i in [0, count / 2, count - 1] {
                        let alone = &x[i * len..][..len];
                        let alone = products::<F>(isa, &weights, alone, len, &mut work);
                        assert_eq!(alone, found[i * rows..][..rows], "{isa:?}, row {i}");
                    }
                }
            }
        }
    }
}

const DENSE: [usize; 8] = [1, 7, 31, 33, 70, 768, 769, 1600];
const BLOCKS: [usize; 4] = [32, 96, 768, 1568];

/// The bits of an f16 or bf16 of moderate size.
fn half(numbers: &mut Numbers, smallest: u32) -> [u8; 2] {
    ((smallest + numbers.bits() % 0x400) as u16).to_ne_bytes()
}

fn bits(bytes: &[u8]) -> u16 {
    u16::from_ne_bytes([bytes[0], bytes[1]])
}

#[test]
fn f32_rows() {
    let value = |bytes: &[u8], _| f32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    check::<Single>(&DENSE, |numbers| numbers.unit().to_ne_bytes().to_vec(), value);
}

#[test]
fn half_rows() {
    check::<Half>(&DENSE, |n| half(n, 0x3800).to_vec(), |bytes, _| f16_to_f32(bits(bytes)));
    let value = |bytes: &[u8], _| f32::from_bits(u32::from(bits(bytes)) << 16);
    check::<Brain>(&DENSE, |n| half(n, 0xbf00).to_vec(), value);
}

/// A scale, then any bytes.
fn block(numbers: &mut Numbers, bytes: usize) -> Vec<u8> {
    let mut block = half(numbers, 0x3000).to_vec();
    block.extend((2..bytes).map(|_| numbers.bits() as u8));
    block
}

#[test]
fn rows_of_8_bits() {
    let value = |bytes: &[u8], i: usize| f16_to_f32(bits(bytes)) * f32::from(bytes[2 + i] as i8);
    check::<Eight>(&BLOCKS, |n| block(n, Eight::BYTES), value);
}

#[test]
fn rows_of_4_bits() {
    let value = |bytes: &[u8], i: usize| {
        let byte = bytes[2 + i % 16];
        let four = if i < 16 { byte & 15 } else { byte >> 4 };
        f16_to_f32(bits(bytes)) * (f32::from(four) - 8.0)
    };
    check::<Four>(&BLOCKS, |n| block(n, Four::BYTES), value);
}
