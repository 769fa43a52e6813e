//! Weights of half precision, and as f32.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

/// Numbers that one task widens.
const CHUNK: usize = 64 << 10;

/// The numbers of a weight.
#[derive(Clone, Copy)]
pub enum Numbers<'a> {
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
}

impl Numbers<'_> {
    pub fn len(self) -> usize {
        match self {
            Self::Bf16(numbers) => numbers.len(),
            Self::F16(numbers) => numbers.len(),
        }
    }

    /// Writes them in f32.
    pub fn widen(self, wide: &mut [f32]) {
        match self {
            Self::Bf16(numbers) => in_chunks(numbers, wide, |numbers, wide| {
                numbers.convert_to_f32_slice(wide);
            }),
            Self::F16(numbers) => in_chunks(numbers, wide, |numbers, wide| {
                numbers.convert_to_f32_slice(wide);
            }),
        }
    }
}

fn in_chunks<T: Sync>(numbers: &[T], wide: &mut [f32], widen: impl Fn(&[T], &mut [f32]) + Sync) {
    let chunks = numbers.par_chunks(CHUNK).zip(wide.par_chunks_mut(CHUNK));
    chunks.for_each(|(numbers, wide)| widen(numbers, wide));
}
