//! Squares of pixels by channels, as transforms and tiles make them, written to the planes of the
//! channels.

use crate::shared_mut::SharedMut;
use crate::vector::{MAX_LANES, Vector};

/// The planes of an output `[B, out, H', W']`.
#[derive(Clone, Copy)]
pub(super) struct Planes<'a> {
    pub y: SharedMut,
    /// Pixels of a plane.
    pub pixels: usize,
    /// Added to the output, of the same shape.
    pub residual: Option<&'a [f32]>,
}

impl Planes<'_> {
    /// Writes `len` pixels of `channels` channels, at most a vector of both, the first of them
    /// element `at` of the output, from as many rows of channels, `stride` floats apart.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`; a vector of as many rows as it has lanes
    /// must be readable; no other task may write these pixels.
    #[inline(always)]
    pub unsafe fn write<S: Vector>(
        &self,
        (from, stride): (*const f32, usize),
        at: usize,
        (channels, len): (usize, usize),
    ) {
        let pixels = self.pixels;
        // Panics where the last channel's would end outside.
        let to = self.y.range(at, (channels - 1) * pixels + len);
        if (channels, len) == (S::LANES, S::LANES) && self.residual.is_none() {
            // SAFETY: this function's contract; `LANES` rows of the output.
            return unsafe { S::transpose(from, stride, to, pixels) };
        }
        let mut block = [0.0_f32; MAX_LANES * MAX_LANES];
        // SAFETY: this function's contract; `block` has `LANES` rows of `LANES`.
        unsafe { S::transpose(from, stride, block.as_mut_ptr(), S::LANES) }
        for (channel, row) in block.chunks_exact_mut(S::LANES).take(channels).enumerate() {
            // SAFETY: within the output (`range`), as is a plane of `len` pixels more.
            let to = unsafe { to.add(channel * pixels) };
            let residual = self.residual.map(|all| &all[at + channel * pixels..][..len]);
            if let (Some(residual), true) = (residual, len == S::LANES) {
                // SAFETY: a vector of each.
                unsafe { S::load(row.as_ptr()).plus(S::load(residual.as_ptr())).store(to) }
                continue;
            }
            if let Some(residual) = residual {
                row.iter_mut().zip(residual).for_each(|(y, residual)| *y += residual);
            }
            // SAFETY: `len` pixels of a row inside the output (`range`).
            unsafe { to.copy_from_nonoverlapping(row.as_ptr(), len) }
        }
    }
}
