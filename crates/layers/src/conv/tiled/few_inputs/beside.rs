//! What is done between products: the patches of the next outputs are made, and the sums of a block
//! before written.

use std::marker::PhantomData;

use simd::tiles::SIDE;

use super::PARTS;
use crate::matrix::tiled::registers::{BLOCK, Beside};
use crate::matrix::tiled::tiles::{TERMS, TILE, store_pairs};
use crate::vector::{MAX_LANES, Vector};

/// Makes the patches of up to 32 outputs of a row: tiles of a right factor, those of the first 16
/// before the others, `[tiles, parts]` of each.
pub struct Gather<'a, S> {
    /// Planes, and where in these each term finds what the first of the outputs reads: an even
    /// number.
    data: &'a [f32],
    taps: &'a [usize],
    /// Outputs.
    columns: usize,
    to: &'a mut [f32],
    /// Pairs of terms.
    done: usize,
    vectors: PhantomData<S>,
}

impl<'a, S: Vector> Gather<'a, S> {
    /// `data` from what the first output reads first on.
    #[inline(always)]
    pub fn new(
        (data, furthest): (&'a [f32], usize),
        taps: &'a [usize],
        columns: usize,
        to: &'a mut [f32],
    ) -> Self {
        let tiles = taps.len().div_ceil(TERMS);
        assert!(to.len() >= 2 * tiles * PARTS * TILE && columns <= BLOCK);
        assert!(taps.len().is_multiple_of(2) && furthest + columns <= data.len());
        Self { data, taps, columns, to, done: 0, vectors: PhantomData }
    }

    /// Whether all 32 outputs are there.
    #[inline(always)]
    pub fn is_whole(&self) -> bool {
        self.columns == BLOCK
    }

    /// The next pair of terms, if any is left.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`; no tap is beyond the furthest. `WHOLE`:
    /// [`Self::is_whole`].
    #[inline(always)]
    unsafe fn pair<const WHOLE: bool>(&mut self) {
        let Some([a, b]) = self.taps.as_chunks::<2>().0.get(self.done) else { return };
        let tiles = self.taps.len().div_ceil(TERMS);
        let (tile, of_tile) = (self.done / SIDE, self.done % SIDE);
        for lane in (0..BLOCK).step_by(S::LANES) {
            let at = (lane / SIDE * tiles + tile) * PARTS * TILE + of_tile * SIDE + lane % SIDE;
            // SAFETY: this function's contract; what all outputs read is there, and a vector of
            // each part's tile (see `new`).
            unsafe {
                let [a, b] = if WHOLE {
                    let from = self.data.as_ptr().add(lane);
                    [S::load(from.add(*a)), S::load(from.add(*b))]
                } else {
                    let count = self.columns.saturating_sub(lane).min(S::LANES);
                    [some(self.data, a + lane, count), some(self.data, b + lane, count)]
                };
                store_pairs::<S, PARTS>(a, b, self.to.as_mut_ptr().add(at));
            }
        }
        self.done += 1;
    }

    /// All pairs that are left.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`; no tap is beyond the furthest.
    #[inline(always)]
    pub unsafe fn all(&mut self) {
        while 2 * self.done < self.taps.len() {
            // SAFETY: this function's contract.
            unsafe { if self.is_whole() { self.pair::<true>() } else { self.pair::<false>() } }
        }
    }
}

/// `count` numbers from `first` on, and zeros.
///
/// # Safety
/// The machine must have the instruction set of `S`.
#[inline(always)]
unsafe fn some<S: Vector>(numbers: &[f32], first: usize, count: usize) -> S {
    let mut padded = [0.0_f32; MAX_LANES];
    if count > 0 {
        padded[..count].copy_from_slice(&numbers[first..first + count]);
    }
    // SAFETY: this function's contract; as long as the longest vector.
    unsafe { S::load(padded.as_ptr()) }
}

/// Writes a block of sums past the caches.
pub struct Stream<'a, S> {
    sums: &'a [f32],
    /// What is added to the rows that there are.
    bias: &'a [f32],
    to: *mut f32,
    /// From a row to the next.
    apart: usize,
    /// Rows.
    done: usize,
    vectors: PhantomData<S>,
}

impl<'a, S: Vector> Stream<'a, S> {
    /// Rows of 32 sums, to `to` and `apart` behind.
    ///
    /// # Safety
    /// Of as many rows as `bias` has whole lines of the cache must be there for this alone.
    #[inline(always)]
    pub unsafe fn new(sums: &'a [f32], bias: &'a [f32], to: *mut f32, apart: usize) -> Self {
        assert!(sums.len() >= bias.len() * BLOCK);
        Self { sums, bias, to, apart, done: 0, vectors: PhantomData }
    }

    /// The next row, if any is left.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`.
    #[inline(always)]
    unsafe fn row(&mut self) {
        let Some(bias) = self.bias.get(self.done) else { return };
        // SAFETY: this function's contract; rows that are there (see `new`).
        unsafe {
            let (bias, to) = (S::splat(*bias), self.to.add(self.done * self.apart));
            for lane in (0..BLOCK).step_by(S::LANES) {
                let sum = S::load(self.sums.as_ptr().add(self.done * BLOCK + lane)).plus(bias);
                sum.stream(to.add(lane));
            }
        }
        self.done += 1;
    }

    /// All rows that are left.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`.
    #[inline(always)]
    pub unsafe fn all(&mut self) {
        while self.done < self.bias.len() {
            // SAFETY: this function's contract.
            unsafe { self.row() }
        }
    }
}

/// Both, of whole runs of outputs.
pub struct Both<'a, 'b, S> {
    pub stream: Stream<'a, S>,
    pub gather: &'a mut Gather<'b, S>,
    pub calls: usize,
}

impl<S: Vector> Beside for Both<'_, '_, S> {
    #[inline(always)]
    unsafe fn step(&mut self) {
        // SAFETY: this function's contract. Of 24 steps 32 rows, and as many pairs as four blocks
        // of channels need for 32 terms.
        unsafe {
            self.stream.row();
            if self.calls.is_multiple_of(3) {
                self.stream.row();
            }
            if self.calls.is_multiple_of(6) {
                self.gather.pair::<true>();
            }
        }
        self.calls += 1;
    }
}
