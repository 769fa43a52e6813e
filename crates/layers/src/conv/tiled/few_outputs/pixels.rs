//! Pixels are read once, and taken apart between products.

use std::marker::PhantomData;

use simd::tiles::SIDE;

use super::super::super::geometry::Geometry;
use super::super::maps::Row;
use super::{BLOCK, pixels};
use crate::group_norm::Channels;
use crate::matrix::tiled::registers::{Beside, products};
use crate::matrix::tiled::tiles::{TERMS, store_pairs};
use crate::vector::Vector;

/// One picture, whose rows are read.
#[derive(Clone, Copy)]
pub struct Picture<'a> {
    pub g: &'a Geometry,
    /// `[in, H, W]`.
    pub image: &'a [f32],
    /// Its first channel, counted over all pictures.
    pub first: usize,
    pub norm: Option<&'a Channels>,
}

/// What pixels are taken apart next: a tile of channels of 32 of a row.
#[derive(Clone, Copy)]
pub struct Run {
    pub row: usize,
    pub column: usize,
    pub tile: usize,
}

impl<'a> Picture<'a> {
    /// Whether all channels and pixels are there.
    #[inline(always)]
    pub fn has(&self, run: Run) -> bool {
        (run.tile + 1) * TERMS <= self.g.in_channels && run.column + BLOCK <= self.g.w
    }

    /// The parts of what is all there, to be made; `NORMED`: whether there is a norm.
    #[inline(always)]
    pub fn split<S, const PARTS: usize, const NORMED: bool>(
        self,
        run: Run,
        to: &'a mut [f32],
        ahead: &'a mut Ahead,
    ) -> Split<'a, S, PARTS, NORMED> {
        let plane = self.g.in_pixels();
        let at = run.tile * TERMS * plane + run.row * self.g.w + run.column;
        let from = &self.image[at..][..(TERMS - 1) * plane + BLOCK];
        let norm = self.norm.map(|norm| (norm, self.first + run.tile * TERMS));
        assert!(to.len() >= pixels(PARTS) && NORMED == norm.is_some());
        Split { from, pixels: plane, norm, to, ahead, calls: 0, done: 0, vectors: PhantomData }
    }

    /// Makes the parts, with zeros for what is not there.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`.
    #[inline(always)]
    pub unsafe fn split_edge<S: Vector, const PARTS: usize>(
        self,
        run: Run,
        to: &mut [f32],
        ahead: &mut Ahead,
    ) {
        let Self { g, image, first, norm } = self;
        let image = &image[run.row * g.w..];
        let row = Row { image, pixels: g.in_pixels(), width: g.w, first, norm };
        assert!(to.len() >= pixels(PARTS));
        for pair in 0..SIDE {
            let channel = run.tile * TERMS + 2 * pair;
            for lane in (0..BLOCK).step_by(S::LANES) {
                let column = run.column + lane;
                // SAFETY: this function's contract; room for all pairs (asserted).
                unsafe {
                    let (a, b) =
                        (row.vector::<S>(channel, column), row.vector::<S>(channel + 1, column));
                    store::<S, PARTS>(a, b, pair, lane, to.as_mut_ptr());
                }
            }
            ahead.step::<S>();
        }
    }
}

/// Writes a vector of a pair of channels in parts, from pixel `lane` of 32 on.
///
/// # Safety
/// The machine must have the instruction set of `S`; `to` must have room for 16 pairs.
#[inline(always)]
unsafe fn store<S: Vector, const PARTS: usize>(a: S, b: S, pair: usize, lane: usize, to: *mut f32) {
    // SAFETY: this function's contract.
    unsafe {
        let to = to.add((lane / SIDE * PARTS * SIDE + pair) * SIDE + lane % SIDE);
        store_pairs::<S, PARTS>(a, b, to);
    }
}

/// Asks for a row of all channels, one channel after the other. As pixels are taken apart, 32 of
/// many channels, the machine cannot guess what is next, and more of them are under way at a time
/// if neighbours are asked for one after the other.
pub struct Ahead {
    next: *const f32,
    /// Runs of 32 pixels of this channel still to be asked for, and of any.
    left: usize,
    runs: usize,
    /// From behind the last run of a channel to the next channel.
    skip: usize,
}

impl Ahead {
    /// Of row `row`, which may be none.
    pub fn new(picture: Picture, row: usize) -> Self {
        let g = picture.g;
        let runs = g.w.div_ceil(BLOCK);
        let next = picture.image.as_ptr().wrapping_add(row * g.w);
        Self { next, left: runs, runs, skip: g.in_pixels().wrapping_sub(runs * BLOCK) }
    }

    /// Asks for as much as a pair of channels has of 32 pixels.
    #[inline(always)]
    pub fn step<S: Vector>(&mut self) {
        for _ in 0..2 {
            S::prefetch_far(self.next);
            S::prefetch_far(self.next.wrapping_add(BLOCK / 2));
            self.next = self.next.wrapping_add(BLOCK);
            self.left -= 1;
            if self.left == 0 {
                self.left = self.runs;
                self.next = self.next.wrapping_add(self.skip);
            }
        }
    }
}

/// Takes numbers apart: 32 channels of 32 pixels to tiles of a right factor, those of the first 16
/// pixels before the others.
pub struct Split<'a, S, const PARTS: usize, const NORMED: bool> {
    /// From the first pixel of the first channel on.
    from: &'a [f32],
    /// From a channel to the next.
    pixels: usize,
    /// With the first channel, counted over all pictures.
    norm: Option<(&'a Channels, usize)>,
    to: &'a mut [f32],
    ahead: &'a mut Ahead,
    /// Of [`Beside::step`].
    calls: usize,
    /// Pairs of channels.
    done: usize,
    vectors: PhantomData<S>,
}

impl<S: Vector, const PARTS: usize, const NORMED: bool> Split<'_, S, PARTS, NORMED> {
    /// Takes the next pair of channels apart.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`; there must be a next pair.
    #[inline(always)]
    unsafe fn pair(&mut self) {
        let pair = self.done;
        for lane in (0..BLOCK).step_by(S::LANES) {
            // SAFETY: this function's contract; 32 pixels of 32 channels are there, and room for
            // them (see `Picture::split`).
            unsafe {
                let from = self.from.as_ptr().add(2 * pair * self.pixels + lane);
                let (mut a, mut b) = (S::load(from), S::load(from.add(self.pixels)));
                if NORMED && let Some((norm, first)) = self.norm {
                    a = norm.along(first + 2 * pair, a);
                    b = norm.along(first + 2 * pair + 1, b);
                }
                store::<S, PARTS>(a, b, pair, lane, self.to.as_mut_ptr());
            }
        }
        self.ahead.step::<S>();
        self.done += 1;
    }

    /// All pairs that are left.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`.
    #[inline(always)]
    pub unsafe fn all(&mut self) {
        while self.done < SIDE {
            // SAFETY: this function's contract.
            unsafe { self.pair() }
        }
    }
}

impl<S: Vector, const PARTS: usize, const NORMED: bool> Beside for Split<'_, S, PARTS, NORMED> {
    #[inline(always)]
    unsafe fn step(&mut self) {
        // In all steps all pairs, evenly.
        let due = (self.calls + 1) * SIDE / products::<PARTS>();
        while self.done < due {
            // SAFETY: this function's contract; there are as many.
            unsafe { self.pair() }
        }
        self.calls += 1;
    }
}
