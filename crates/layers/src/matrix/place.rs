//! Where in a whole product a block goes, and what is added to it there.

use super::Start;
use super::block::{Addend, Addends, Out, product};
use crate::shared_mut::SharedMut;
use crate::vector::{MAX_LANES, Vector};

impl Start<'_> {
    /// What is added to `rows` rows from the `first` on and `columns` columns from element
    /// `at` on of the whole product, whose rows have `stride` floats.
    #[inline(always)]
    pub(super) fn addends(
        self,
        (at, stride): (usize, usize),
        (first, rows): (usize, usize),
        columns: usize,
        target: *const f32,
    ) -> Addends {
        match self {
            Self::Target => {
                Addends { blocks: [Some(Addend { data: target, row: stride }), None], column: None }
            }
            Self::Sum { row, column, matrix } => Addends {
                blocks: [
                    row.map(|row| Addend { data: row[at % stride..][..columns].as_ptr(), row: 0 }),
                    matrix.map(|matrix| Addend {
                        data: matrix[at..][..(rows - 1) * stride + columns].as_ptr(),
                        row: stride,
                    }),
                ],
                column: column.map(|column| column[first..][..rows].as_ptr()),
            },
        }
    }
}

/// A block of a product.
pub(super) struct Place<'a> {
    pub target: SharedMut,
    /// Its first element, and how far rows are apart.
    pub at: usize,
    pub stride: usize,
    /// Its first row, and how many rows and columns there are: two vectors of the latter, or
    /// fewer in the last panel.
    pub row: usize,
    pub rows: usize,
    pub columns: usize,
    pub start: Start<'a>,
}

impl Place<'_> {
    /// The product of a packed block of rows and a panel, of `count` terms both.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`; nothing else may use this block of the
    /// target meanwhile, which must be there if it is added to.
    #[inline(always)]
    pub unsafe fn multiply<S: Vector>(self, left: &[f32], right: &[f32], count: usize) {
        let Self { target, at, stride, row, rows, columns, start } = self;
        let width = 2 * S::LANES;
        assert!(left.len() >= count * S::PAIRS && right.len() >= count * width);
        let (left, right) = (left.as_ptr(), right.as_ptr());
        let to = target.range(at, (rows - 1) * stride + columns);
        let out = Out { data: to, row: stride, streams: false };
        let addends = start.addends((at, stride), (row, rows), columns, to);
        // SAFETY: both factors have `count` terms (asserted), the target and what is added
        // these rows and columns (contract); `tile` has room for a whole block.
        unsafe {
            if columns == width {
                product::<S>(rows, left, right, count, out, addends);
                return;
            }
            let mut tile = [0f32; 24 * MAX_LANES];
            let whole = Out { data: tile.as_mut_ptr(), row: width, streams: false };
            product::<S>(rows, left, right, count, whole, Addends::NONE);
            write::<S>((&tile, width), out, addends, (rows, columns));
        }
    }
}

/// Writes a block of sums, rows `apart` floats apart, to `out`, with what is added to it.
///
/// # Safety
/// The machine must have the instruction set of `S`; `out` must be writable, and all that is
/// added readable, for so many rows and columns. Where it is streamed its rows must begin with
/// lines of the cache.
#[inline(always)]
pub(crate) unsafe fn write<S: Vector>(
    (sums, apart): (&[f32], usize),
    out: Out,
    addends: Addends,
    (rows, columns): (usize, usize),
) {
    let whole = columns / S::LANES * S::LANES;
    for (m, sums) in sums.chunks(apart).take(rows).enumerate() {
        let sums = &sums[..columns];
        // SAFETY: this function's contract; `columns` of the sums' row.
        unsafe {
            let to = out.data.add(m * out.row);
            let column = addends.column.map_or(0.0, |column| *column.add(m));
            for n in (0..whole).step_by(S::LANES) {
                let mut sum = S::load(sums.as_ptr().add(n));
                if addends.column.is_some() {
                    sum = sum.plus(S::splat(column));
                }
                for addend in addends.blocks.into_iter().flatten() {
                    sum = sum.plus(S::load(addend.data.add(m * addend.row + n)));
                }
                if out.streams {
                    sum.stream(to.add(n));
                } else {
                    sum.store(to.add(n));
                }
            }
            for (n, &sum) in sums.iter().enumerate().skip(whole) {
                let mut sum = if addends.column.is_some() { sum + column } else { sum };
                for addend in addends.blocks.into_iter().flatten() {
                    sum += *addend.data.add(m * addend.row + n);
                }
                *to.add(n) = sum;
            }
        }
    }
}
