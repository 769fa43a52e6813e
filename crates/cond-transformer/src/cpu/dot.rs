//! Dot products of rows, many at a time.
//!
//! Every product is one sum in one order, which depends on the length of the rows
//! alone: `PART` numbers after another, each part lane by lane. So a result does not
//! depend on what else is computed with it. Numbers of every format are read exactly,
//! so a result is also that of the same numbers in f32.

use simd::vector::Vector;

use super::format::{Format, Single};

/// Numbers that are added up lane by lane; then the lanes, then the parts.
pub(crate) const PART: usize = 768;
/// Rows of weights of a tile.
const ROWS: usize = 4;
/// Rows of x of a block: as many as stay in the second cache while weights pass.
const BLOCK: usize = 48;
/// With more rows of x than this, weights are turned into f32 once for all of them.
const FEW: usize = 3;
/// From one such row to the next: an odd number of cache lines.
const STRIDE: usize = PART + 16;
/// Floats of working memory: two tiles of weights.
pub(crate) const WORK: usize = 2 * ROWS * STRIDE;

// No closures around vectors: what is compiled as a function of its own knows nothing
// of the instruction set, and its operations become calls.

/// Sums of the products of `N` rows of weights and `M` rows of x over `part` (start, end).
#[inline(always)]
unsafe fn tile<S: Vector, F: Format, const N: usize, const M: usize>(
    weights: [*const u8; N],
    x: [*const f32; M],
    (start, end): (usize, usize),
    ahead: Ahead,
) -> [[f32; M]; N] {
    // SAFETY: the caller's contract: the rows hold the numbers of the part, whose start
    // is that of a block.
    unsafe {
        let mut sums = [[S::splat(0.0); M]; N];
        let mut at = start;
        let step = if F::BLOCK > S::LANES { F::BLOCK } else { 4 * S::LANES };
        while at + step <= end {
            let mut scales = [S::splat(1.0); N];
            for n in 0..N {
                scales[n] = F::scale(weights[n], at);
            }
            if ahead.bytes > 0 {
                let mut n = ahead.first;
                while n < N {
                    let address = weights[n].wrapping_add(at / F::BLOCK * F::BYTES + ahead.bytes);
                    S::prefetch(address.cast());
                    if F::BLOCK == 1 && step * F::BYTES > 64 {
                        S::prefetch(address.wrapping_add(64).cast());
                    }
                    n += ahead.step;
                }
            }
            let mut offset = 0;
            while offset < step {
                let mut numbers = [S::splat(0.0); M];
                for m in 0..M {
                    numbers[m] = S::load(x[m].add(at + offset));
                }
                for n in 0..N {
                    let weight = F::load(weights[n], at, offset, scales[n]);
                    for m in 0..M {
                        sums[n][m] = weight.mul_add(numbers[m], sums[n][m]);
                    }
                }
                offset += S::LANES;
            }
            at += step;
        }
        if F::BLOCK == 1 {
            while at + S::LANES <= end {
                for n in 0..N {
                    let weight = F::load(weights[n], at, 0, S::splat(1.0));
                    for m in 0..M {
                        sums[n][m] = weight.mul_add(S::load(x[m].add(at)), sums[n][m]);
                    }
                }
                at += S::LANES;
            }
        }
        let mut totals = [[0.0; M]; N];
        for n in 0..N {
            for m in 0..M {
                totals[n][m] = sums[n][m].sum();
            }
        }
        if F::BLOCK == 1 {
            while at < end {
                for n in 0..N {
                    let weight = F::one(weights[n], at);
                    for m in 0..M {
                        totals[n][m] += weight * *x[m].add(at);
                    }
                }
                at += 1;
            }
        }
        totals
    }
}

/// Weights to ask the memory for.
#[derive(Clone, Copy)]
struct Ahead {
    /// How far behind those at work; 0: none.
    bytes: usize,
    /// Of which rows: the first, and every `step`-th from there on.
    first: usize,
    step: usize,
}

/// Rows of equal length at equal distances.
#[derive(Clone, Copy)]
pub(crate) struct Rows<T> {
    pub(crate) first: *const T,
    /// From one row to the next, in `T`.
    pub(crate) stride: usize,
    pub(crate) count: usize,
}

impl<T> Rows<T> {
    #[inline(always)]
    fn row(&self, index: usize) -> *const T {
        // Parts turned into f32 are in rows that begin before their memory does.
        self.first.wrapping_add(index * self.stride)
    }
}

impl Rows<f32> {
    /// The same as bytes.
    #[inline(always)]
    fn bytes(self) -> Rows<u8> {
        let Self { first, stride, count } = self;
        Rows { first: first.cast(), stride: stride * size_of::<f32>(), count }
    }
}

/// Adds the products of rows of weights and rows of x, `len` numbers each, to `sums`:
/// that of weight row n and x row m to `sums[m * sums_stride + n]`. `work` is empty, or
/// [`WORK`] floats, without which other formats than f32 take longer.
///
/// # Safety
/// The machine must have the instruction set of `S`; all rows must hold `len` numbers,
/// whole blocks; `sums` must be writable and used by nobody else meanwhile.
#[inline(always)]
pub(crate) unsafe fn add_products<S: Vector, F: Format>(
    weights: Rows<u8>,
    x: Rows<f32>,
    len: usize,
    sums: *mut f32,
    sums_stride: usize,
    work: &mut [f32],
) {
    let widened = F::BLOCK * F::BYTES != 4 && x.count > FEW && work.len() >= WORK;
    let ahead = if x.count <= BLOCK { ROWS * weights.stride } else { 0 };
    let mut start = 0;
    while start < len {
        let part = (start, (start + PART).min(len));
        let mut first = 0;
        while first < x.count {
            let count = BLOCK.min(x.count - first);
            let block = Rows { first: x.row(first), count, ..x };
            let mut n = 0;
            while n < weights.count {
                let count = if widened { 2 * ROWS } else { ROWS }.min(weights.count - n);
                let of = Rows { first: weights.row(n), count, ..weights };
                // SAFETY: the caller's contract, for these rows; there is room for them
                // where they are widened.
                unsafe {
                    let sums = sums.add(first * sums_stride + n);
                    if widened {
                        let of = widen::<S, F>(of, part, work).bytes();
                        against::<S, Single>(of, block, part, 0, sums, sums_stride);
                    } else {
                        against::<S, F>(of, block, part, ahead, sums, sums_stride);
                    }
                }
                n += count;
            }
            first += BLOCK;
        }
        start += PART;
    }
}

/// Writes a part of some rows as f32, in rows that do not share the sets of the cache as
/// those of a matrix do; where these begin, as if they were whole.
#[inline(always)]
unsafe fn widen<S: Vector, F: Format>(
    rows: Rows<u8>,
    (start, end): (usize, usize),
    wide: &mut [f32],
) -> Rows<f32> {
    let wide = &mut wide[..rows.count * STRIDE];
    for (n, to) in wide.chunks_exact_mut(STRIDE).enumerate() {
        let to = to.as_mut_ptr();
        // SAFETY: the caller's contract: the rows hold the part, which is at most `PART`
        // long and begins with a block.
        unsafe {
            let row = rows.row(n);
            let mut at = start;
            let step = if F::BLOCK > S::LANES { F::BLOCK } else { S::LANES };
            while at + step <= end {
                let scale = F::scale::<S>(row, at);
                let mut offset = 0;
                while offset < step {
                    F::load(row, at, offset, scale).store(to.add(at - start + offset));
                    offset += S::LANES;
                }
                at += step;
            }
            while F::BLOCK == 1 && at < end {
                *to.add(at - start) = F::one(row, at);
                at += 1;
            }
        }
    }
    Rows { first: wide.as_ptr().wrapping_sub(start), stride: STRIDE, count: rows.count }
}

/// Some rows of weights against a block of x.
#[inline(always)]
unsafe fn against<S: Vector, F: Format>(
    weights: Rows<u8>,
    x: Rows<f32>,
    part: (usize, usize),
    ahead: usize,
    sums: *mut f32,
    stride: usize,
) {
    // SAFETY: the caller's contract, for all rows.
    unsafe {
        // The weights that follow are asked for bit by bit, while these are at work.
        let step = x.count.div_ceil(3).min(ROWS);
        let mut ahead = Ahead { bytes: ahead, first: 0, step };
        let mut m = 0;
        while m < x.count {
            // Twice as many registers hold twice as many sums.
            let most = if S::PAIRS > 6 && x.count - m >= 6 { 6 } else { 3 };
            let count = most.min(x.count - m);
            let of = Rows { first: x.row(m), count, ..x };
            let mut n = 0;
            while n < weights.count {
                let sums = sums.add(m * stride + n);
                if n + ROWS <= weights.count {
                    let rows = [0, 1, 2, 3].map(|i| weights.row(n + i));
                    tiles::<S, F, ROWS>(rows, of, part, ahead, sums, stride);
                    n += ROWS;
                } else {
                    tiles::<S, F, 1>([weights.row(n)], of, part, ahead, sums, stride);
                    n += 1;
                }
            }
            ahead.first += 1;
            m += count;
        }
    }
}

/// Adds a tile of as many rows of x as there are.
#[inline(always)]
unsafe fn tiles<S: Vector, F: Format, const N: usize>(
    weights: [*const u8; N],
    x: Rows<f32>,
    part: (usize, usize),
    ahead: Ahead,
    sums: *mut f32,
    stride: usize,
) {
    // SAFETY: the caller's contract, for all rows.
    unsafe {
        match x.count {
            6 => {
                let x = [0, 1, 2, 3, 4, 5].map(|i| x.row(i));
                add(tile::<S, F, N, 6>(weights, x, part, ahead), sums, stride);
            }
            3 => {
                let x = [x.row(0), x.row(1), x.row(2)];
                add(tile::<S, F, N, 3>(weights, x, part, ahead), sums, stride);
            }
            2 => {
                let x = [x.row(0), x.row(1)];
                add(tile::<S, F, N, 2>(weights, x, part, ahead), sums, stride);
            }
            _ => add(tile::<S, F, N, 1>(weights, [x.row(0)], part, ahead), sums, stride),
        }
    }
}

/// Adds what a tile gave to its place.
#[inline(always)]
unsafe fn add<const N: usize, const M: usize>(found: [[f32; M]; N], to: *mut f32, stride: usize) {
    for (n, found) in found.into_iter().enumerate() {
        for (m, sum) in found.into_iter().enumerate() {
            // SAFETY: the caller's contract: these sums are writable.
            unsafe { *to.add(m * stride + n) += sum };
        }
    }
}

#[cfg(test)]
mod tests;
