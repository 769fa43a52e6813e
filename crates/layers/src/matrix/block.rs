//! A block of a product in registers, from packed factors.

use crate::shared_mut::SharedMut;
use crate::vector::Vector;

/// Steps along the sum between two looks at the counter.
const UNROLL: usize = 4;

/// Bytes of an output that no cache keeps until it is read: it is written past them.
pub(crate) const STREAMED_BYTES: usize = 16 << 20;
/// Bytes of a cache line.
const LINE_BYTES: usize = 64;

/// Whether an output of so many floats, in rows of `row`, is written past the caches: a large one
/// of whole lines, each of which is written at once.
pub(crate) fn streams(floats: usize, row: usize, target: SharedMut) -> bool {
    size_of::<f32>() * floats >= STREAMED_BYTES
        && target.at(0).addr().is_multiple_of(LINE_BYTES)
        && (size_of::<f32>() * row).is_multiple_of(LINE_BYTES)
}

/// Where a block of the product goes: rows `row` floats apart.
#[derive(Clone, Copy)]
pub(crate) struct Out {
    pub data: *mut f32,
    pub row: usize,
    /// Past the caches: see [`Vector::stream`].
    pub streams: bool,
}

/// What is added to a block on the way: rows `row` floats apart.
#[derive(Clone, Copy)]
pub(crate) struct Addend {
    pub data: *const f32,
    pub row: usize,
}

/// All that is added to a block.
#[derive(Clone, Copy)]
pub(crate) struct Addends {
    pub blocks: [Option<Addend>; 2],
    /// A number for each row.
    pub column: Option<*const f32>,
}

impl Addends {
    /// Nothing.
    pub const NONE: Self = Self { blocks: [None; 2], column: None };
}

/// `out[m][n] = sum_k left[k][m] right[k][n]`, plus the `addends`, for `rows` rows and two
/// vectors of columns. `left` has [`Vector::PAIRS`] floats for each of the `depth`
/// terms, of which `rows` are used, `right` two vectors: every address is a constant away
/// from one of two pointers, so that there is little but the multiply-adds to execute. The
/// order of the sum depends on nothing but `depth`.
///
/// # Safety
/// The machine must have the instruction set; all that is named must be readable, `out`
/// writable, which may be an addend too; `rows` is 1 to [`Vector::PAIRS`].
#[inline(always)]
pub(crate) unsafe fn product<S: Vector>(
    rows: usize,
    left: *const f32,
    right: *const f32,
    depth: usize,
    out: Out,
    addends: Addends,
) {
    // SAFETY: this function's contract.
    unsafe {
        match rows {
            1 => block::<S, 1>(left, right, depth, out, addends),
            2 => block::<S, 2>(left, right, depth, out, addends),
            3 => block::<S, 3>(left, right, depth, out, addends),
            4 => block::<S, 4>(left, right, depth, out, addends),
            5 => block::<S, 5>(left, right, depth, out, addends),
            6 => block::<S, 6>(left, right, depth, out, addends),
            7 if S::PAIRS > 6 => block::<S, 7>(left, right, depth, out, addends),
            8 if S::PAIRS > 6 => block::<S, 8>(left, right, depth, out, addends),
            9 if S::PAIRS > 6 => block::<S, 9>(left, right, depth, out, addends),
            10 if S::PAIRS > 6 => block::<S, 10>(left, right, depth, out, addends),
            11 if S::PAIRS > 6 => block::<S, 11>(left, right, depth, out, addends),
            12 if S::PAIRS > 6 => block::<S, 12>(left, right, depth, out, addends),
            _ => debug_assert!(false, "{rows} rows of {}", S::PAIRS),
        }
    }
}

#[inline(always)]
unsafe fn block<S: Vector, const M: usize>(
    mut left: *const f32,
    mut right: *const f32,
    depth: usize,
    out: Out,
    addends: Addends,
) {
    let width = 2 * S::LANES;
    // SAFETY: within the matrices (contract of `product`); a prefetch may be of anything.
    unsafe {
        // What the sums are written to in the end, and mostly added to.
        for m in 0..if out.streams { 0 } else { M } {
            S::prefetch(out.data.wrapping_add(m * out.row));
            S::prefetch(out.data.wrapping_add(m * out.row + width - 1));
        }
        for addend in addends.blocks.into_iter().flatten().filter(|addend| addend.row > 0) {
            for m in 0..M {
                S::prefetch(addend.data.wrapping_add(m * addend.row));
                S::prefetch(addend.data.wrapping_add(m * addend.row + width - 1));
            }
        }
        let mut sums = [[S::splat(0.0); 2]; M];
        for _ in 0..depth / UNROLL {
            for k in 0..UNROLL {
                step::<S, M>(left.add(k * S::PAIRS), right.add(k * width), &mut sums);
            }
            (left, right) = (left.add(UNROLL * S::PAIRS), right.add(UNROLL * width));
        }
        for k in 0..depth % UNROLL {
            step::<S, M>(left.add(k * S::PAIRS), right.add(k * width), &mut sums);
        }
        // Last, so that a long sum is one of shorter ones, which rounds less.
        if let Some(column) = addends.column {
            for (m, sums) in sums.iter_mut().enumerate() {
                let value = S::splat(*column.add(m));
                *sums = [value.plus(sums[0]), value.plus(sums[1])];
            }
        }
        if let Some(addend) = addends.blocks[0] {
            add::<S, M>(addend, &mut sums);
        }
        if let Some(addend) = addends.blocks[1] {
            add::<S, M>(addend, &mut sums);
        }
        for (m, sums) in sums.into_iter().enumerate() {
            let to = out.data.add(m * out.row);
            if out.streams {
                sums[0].stream(to);
                sums[1].stream(to.add(S::LANES));
                continue;
            }
            sums[0].store(to);
            sums[1].store(to.add(S::LANES));
        }
    }
}

/// Adds a block to the sums.
#[inline(always)]
unsafe fn add<S: Vector, const M: usize>(addend: Addend, sums: &mut [[S; 2]; M]) {
    for (m, sums) in sums.iter_mut().enumerate() {
        // SAFETY: within what is added (contract of `product`).
        unsafe {
            let from = addend.data.add(m * addend.row);
            *sums = [S::load(from).plus(sums[0]), S::load(from.add(S::LANES)).plus(sums[1])];
        }
    }
}

/// One term of each sum. A function, not a closure: those are not compiled for the
/// caller's instruction set.
#[inline(always)]
unsafe fn step<S: Vector, const M: usize>(
    left: *const f32,
    right: *const f32,
    sums: &mut [[S; 2]; M],
) {
    // SAFETY: within the matrices (contract of `product`).
    unsafe {
        let (a, b) = (S::load(right), S::load(right.add(S::LANES)));
        for (m, sums) in sums.iter_mut().enumerate() {
            let value = S::splat(*left.add(m));
            sums[0] = value.mul_add(a, sums[0]);
            sums[1] = value.mul_add(b, sums[1]);
        }
    }
}
