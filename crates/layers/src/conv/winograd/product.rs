//! The matrix product of one element of all transformed tiles: registers hold a
//! block of tiles x two vectors of output channels.

use super::super::vector::Vector;

/// Tiles of one block, at most.
pub const MAX_TILES: usize = 12;

/// `out[t][o] = Σ_k tiles[t][k] weights[k][o]` for `count` tiles and two vectors of
/// outputs. Rows of `tiles` are `stride` floats apart, those of `weights` and `out`
/// two vectors. The order of the sum depends on nothing but `depth`.
///
/// # Safety
/// The machine must have the instruction set; `count` rows of `depth` floats of
/// `tiles` and `depth` rows of `weights` must be readable, `count` rows of `out`
/// writable; `count` is 1 to [`MAX_TILES`].
#[inline(always)]
pub unsafe fn product<S: Vector>(
    count: usize,
    tiles: *const f32,
    stride: usize,
    weights: *const f32,
    depth: usize,
    out: *mut f32,
) {
    // SAFETY: this function's contract.
    unsafe {
        match count {
            1 => block::<S, 1>(tiles, stride, weights, depth, out),
            2 => block::<S, 2>(tiles, stride, weights, depth, out),
            3 => block::<S, 3>(tiles, stride, weights, depth, out),
            4 => block::<S, 4>(tiles, stride, weights, depth, out),
            5 => block::<S, 5>(tiles, stride, weights, depth, out),
            6 => block::<S, 6>(tiles, stride, weights, depth, out),
            7 => block::<S, 7>(tiles, stride, weights, depth, out),
            8 => block::<S, 8>(tiles, stride, weights, depth, out),
            9 => block::<S, 9>(tiles, stride, weights, depth, out),
            10 => block::<S, 10>(tiles, stride, weights, depth, out),
            11 => block::<S, 11>(tiles, stride, weights, depth, out),
            _ => block::<S, MAX_TILES>(tiles, stride, weights, depth, out),
        }
    }
}

#[inline(always)]
unsafe fn block<S: Vector, const M: usize>(
    tiles: *const f32,
    stride: usize,
    weights: *const f32,
    depth: usize,
    out: *mut f32,
) {
    // SAFETY: within the rows (contract of `product`).
    unsafe {
        let mut sums = [[S::splat(0.0); 2]; M];
        for k in 0..depth {
            let row = weights.add(k * 2 * S::LANES);
            let (a, b) = (S::load(row), S::load(row.add(S::LANES)));
            for (m, sums) in sums.iter_mut().enumerate() {
                let tile = S::splat(*tiles.add(m * stride + k));
                sums[0] = tile.mul_add(a, sums[0]);
                sums[1] = tile.mul_add(b, sums[1]);
            }
        }
        for (m, sums) in sums.into_iter().enumerate() {
            let row = out.add(m * 2 * S::LANES);
            sums[0].store(row);
            sums[1].store(row.add(S::LANES));
        }
    }
}
