//! Linear layers, cut into tasks by rows of weights.

use simd::isa::Isa;
use simd::shared_mut::SharedMut;
use simd::vector::{Kernel, Vector, run};

use super::dot::{Rows, WORK};
use super::layer::Affine;
use super::pointwise::{gelu, silu};

/// Bytes of weights of a task with few rows of x: read once, some ten microseconds.
const BYTES: usize = 96 << 10;
/// Rows of weights of a task with many rows of x: together with as many numbers of x
/// as are looked at meanwhile, they stay in the second cache.
const MANY: usize = 32;

/// What becomes of products.
#[derive(Clone, Copy)]
pub(crate) enum Then<'a> {
    /// They are the output.
    Set,
    /// They are added to the output.
    Add,
    /// Their GELU is the output.
    Gelu,
    /// Their SiLU times the products of another layer with the same x is the output.
    Gate(&'a Affine<'a>),
}

/// Linear layers that read the same rows and may run at once.
pub(crate) struct Product<'a> {
    pub(crate) layers: &'a [&'a Affine<'a>],
    pub(crate) then: Then<'a>,
    /// `[count, columns]`.
    pub(crate) x: SharedMut,
    pub(crate) count: usize,
    /// `[count, width]`: outputs of the layers side by side.
    pub(crate) out: SharedMut,
    pub(crate) width: usize,
}

impl Product<'_> {
    /// Rows of weights in a task of `layer`.
    fn rows(&self, layer: &Affine, threads: usize) -> usize {
        let fitting = if self.count > 8 { MANY } else { BYTES / layer.weight.stride().max(1) };
        // Enough tasks that nobody waits long for the last.
        let fair = layer.weight.rows().div_ceil(4 * threads);
        (fitting.min(fair).max(1)).next_multiple_of(4)
    }

    /// The number of tasks for so many threads.
    pub(crate) fn tasks(&self, threads: usize) -> usize {
        let of = |layer: &&Affine| layer.weight.rows().div_ceil(self.rows(layer, threads));
        self.layers.iter().map(of).sum()
    }

    /// Does a task; `scratch` is working memory of the thread.
    pub(crate) fn task(
        &self,
        isa: Option<Isa>,
        threads: usize,
        mut task: usize,
        scratch: &mut Vec<f32>,
    ) {
        let mut column = 0;
        for layer in self.layers {
            let rows = self.rows(layer, threads);
            let tasks = layer.weight.rows().div_ceil(rows);
            if task < tasks {
                let first = task * rows;
                let count = rows.min(layer.weight.rows() - first);
                let chunk = Chunk { product: self, layer, first, count, column: column + first };
                return run(isa, Run { chunk, scratch });
            }
            task -= tasks;
            column += layer.weight.rows();
        }
    }
}

/// Some outputs of a layer for all rows of x.
struct Chunk<'a> {
    product: &'a Product<'a>,
    layer: &'a Affine<'a>,
    first: usize,
    count: usize,
    /// Where they go in a row of the output.
    column: usize,
}

struct Run<'a> {
    chunk: Chunk<'a>,
    scratch: &'a mut Vec<f32>,
}

impl Kernel for Run<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let Self { chunk, scratch } = self;
        let Chunk { product, layer, first, count, column } = chunk;
        let columns = layer.weight.columns();
        let len = product.count * count;
        let x = product.x.range(0, product.count * columns);
        let x = Rows { first: x.cast_const(), stride: columns, count: product.count };
        scratch.resize(scratch.len().max(2 * len + WORK), 0.0);
        let (sums, rest) = scratch.split_at_mut(len);
        let (others, rest) = rest.split_at_mut(len);
        let work = &mut rest[..WORK];
        sums.fill(0.0);
        if matches!(product.then, Then::Gate(_)) {
            others.fill(0.0);
        }
        // SAFETY: the machine has the instruction set (contract); x is there (asked for
        // above) and not written in this phase; there is room for all sums.
        unsafe {
            layer.weight.add_products::<S>(first, count, x, sums.as_mut_ptr(), work);
            if let Then::Gate(other) = product.then {
                other.weight.add_products::<S>(first, count, x, others.as_mut_ptr(), work);
            }
        }
        for (row, sums) in sums.chunks_exact_mut(count.max(1)).enumerate() {
            if let Some(bias) = &layer.bias {
                for (sum, bias) in sums.iter_mut().zip(&bias[first..first + count]) {
                    *sum += bias;
                }
            }
            // SAFETY: these outputs are written by this task alone, within the buffer.
            let out = unsafe { product.out.slice(row * product.width + column, count) };
            match product.then {
                Then::Set => out.copy_from_slice(sums),
                Then::Add => {
                    for (out, sum) in out.iter_mut().zip(sums) {
                        *out += *sum;
                    }
                }
                Then::Gelu => {
                    for (out, sum) in out.iter_mut().zip(sums) {
                        *out = gelu(*sum);
                    }
                }
                Then::Gate(_) => {
                    let others = &others[row * count..][..count];
                    for ((out, sum), other) in out.iter_mut().zip(sums).zip(others) {
                        *out = silu(*sum) * other;
                    }
                }
            }
        }
    }
}
