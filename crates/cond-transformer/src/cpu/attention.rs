//! Attention of new positions to those of the cache and to each other.

use half::{bf16, f16};
use simd::isa::Isa;
use simd::shared_mut::SharedMut;
use simd::vector::{Kernel, Vector, run};

use super::dot::{Rows, add_products};
use super::format::Format;
use super::matrix::{Kind, with_format};
use super::pointwise::exponentials;

/// Queries that look at the same keys together.
const QUERIES: usize = 3;

/// Keys and values of one layer, `[B, H', P, D]` each, as bytes of `kind`.
#[derive(Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) kind: Kind,
    pub(crate) keys: SharedMut<u8>,
    pub(crate) values: SharedMut<u8>,
    /// From one layer to the next, in numbers.
    pub(crate) layer: usize,
    /// Where this layer begins, in numbers.
    pub(crate) offset: usize,
    /// P.
    pub(crate) positions: usize,
}

/// Which positions there are and who sees whom.
#[derive(Clone, Copy)]
pub(crate) struct Sight<'a> {
    /// Positions that the cache holds already.
    pub(crate) past: usize,
    /// New positions of every sequence.
    pub(crate) len: usize,
    /// The first so many positions see each other.
    pub(crate) unmasked: usize,
    /// Positions that only they themselves see, for every sequence; empty: none.
    pub(crate) hidden: &'a [Vec<bool>],
}

impl Sight<'_> {
    /// How many of the first keys the query at `position` sees.
    fn keys(&self, position: usize) -> usize {
        if position < self.unmasked {
            self.unmasked.min(self.past + self.len)
        } else {
            position + 1
        }
    }
}

/// The attention of one layer.
pub(crate) struct Attention<'a> {
    /// Queries `[H D]`, keys and values `[H' D]` of every new position,
    /// `[B len, (H + 2 H') D]`; queries and keys are turned in place.
    pub(crate) inputs: SharedMut,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) memory: Memory,
    pub(crate) sight: Sight<'a>,
    /// Cosine and sine of the new positions, `[len, D / 2]` each.
    pub(crate) rotary: Option<(&'a [f32], &'a [f32])>,
    /// The one new position of each sequence that looks; none: all.
    pub(crate) wanted: Option<&'a [usize]>,
    /// What was read, `[B len, H D]` or `[B, H D]`.
    pub(crate) out: SharedMut,
}

impl Attention<'_> {
    /// One task for every sequence and head of keys.
    pub(crate) fn task(&self, isa: Option<Isa>, task: usize, scratch: &mut Vec<f32>) {
        let (sequence, head) = (task / self.kv_heads, task % self.kv_heads);
        run(isa, Run { attention: self, sequence, head, scratch });
    }
}

struct Run<'a> {
    attention: &'a Attention<'a>,
    sequence: usize,
    /// The head of keys.
    head: usize,
    scratch: &'a mut Vec<f32>,
}

impl Kernel for Run<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        with_format!(self.attention.memory.kind, F => {
            // SAFETY: this function's contract.
            unsafe { self.of_format::<S, F>() }
        });
    }
}

impl Run<'_> {
    /// The number, within a layer, of the first position's first number.
    fn base(&self) -> usize {
        let a = self.attention;
        a.memory.offset + (self.sequence * a.kv_heads + self.head) * a.memory.positions * a.head_dim
    }

    /// Heads of queries that read this head of keys.
    fn group(&self) -> std::ops::Range<usize> {
        let a = self.attention;
        let group = a.heads / a.kv_heads;
        self.head * group..(self.head + 1) * group
    }

    /// `[D]` of the inputs of new position `t`, part `index` counted in heads.
    ///
    /// # Safety
    /// The part must belong to this task, and only one slice of it be there at a time.
    #[inline(always)]
    unsafe fn input<'x>(&self, t: usize, index: usize) -> &'x mut [f32] {
        let a = self.attention;
        let width = (a.heads + 2 * a.kv_heads) * a.head_dim;
        let row = self.sequence * a.sight.len + t;
        // SAFETY: this function's contract; the buffer outlives the pass.
        unsafe { a.inputs.slice(row * width + index * a.head_dim, a.head_dim) }
    }

    #[inline(always)]
    unsafe fn of_format<S: Vector, F: Format>(self) {
        let a = self.attention;
        let dim = a.head_dim;
        for t in 0..a.sight.len {
            self.place(t);
        }
        let rows = match a.wanted {
            Some(wanted) => wanted[self.sequence]..wanted[self.sequence] + 1,
            None => 0..a.sight.len,
        };
        let most = a.sight.past + a.sight.len;
        let mut scratch = std::mem::take(self.scratch);
        scratch.resize(scratch.len().max(QUERIES * (most + dim)), 0.0);
        let (scores, queries) = scratch.split_at_mut(QUERIES * most);
        let bytes = dim * F::BYTES;
        let start = self.base() * F::BYTES;
        let keys = a.memory.keys.range(start, most * bytes).cast_const();
        let values = a.memory.values.range(start, most * bytes).cast_const();
        for head in self.group() {
            let mut t = rows.start;
            while t < rows.end {
                let count = QUERIES.min(rows.end - t);
                let sees = |i: usize| a.sight.keys(a.sight.past + t + i);
                let keys_seen = (0..count).map(sees).max().unwrap_or(0);
                for i in 0..count {
                    let scale = 1.0 / (dim as f32).sqrt();
                    let to = &mut queries[i * dim..][..dim];
                    // SAFETY: a head of this task's group.
                    let query = unsafe { self.input(t + i, head) };
                    for (to, x) in to.iter_mut().zip(query.iter()) {
                        *to = x * scale;
                    }
                }
                let scores = &mut scores[..count * keys_seen];
                scores.fill(0.0);
                // SAFETY: the instruction set is there (contract); `keys_seen` is at most
                // `most`, so keys and values are there, placed before or by this task.
                unsafe {
                    let keys = Rows { first: keys, stride: bytes, count: keys_seen };
                    let queries = Rows { first: queries.as_ptr(), stride: dim, count };
                    let sums = scores.as_mut_ptr();
                    add_products::<S, F>(keys, queries, dim, sums, keys_seen, &mut []);
                }
                for i in 0..count {
                    let scores = &mut scores[i * keys_seen..][..sees(i)];
                    self.hide(scores, a.sight.past + t + i);
                    // Where only one position of a sequence looks, it has one row.
                    let row = match a.wanted {
                        Some(_) => self.sequence,
                        None => self.sequence * a.sight.len + t + i,
                    };
                    // SAFETY: as above; this part of the output is this task's.
                    unsafe {
                        let sum = exponentials::<S>(scores);
                        let out = a.out.slice((row * a.heads + head) * dim, dim);
                        mix::<S, F>(scores, values, out);
                        for out in out {
                            *out /= sum;
                        }
                    }
                }
                t += count;
            }
        }
        *self.scratch = scratch;
    }

    /// Puts keys and values of a new position into the memory; turns keys and queries.
    #[inline(always)]
    fn place(&self, t: usize) {
        let a = self.attention;
        if let Some((cosine, sine)) = a.rotary {
            let half = a.head_dim / 2;
            let angles = (&cosine[t * half..][..half], &sine[t * half..][..half]);
            for head in self.group().chain([a.heads + self.head]) {
                // SAFETY: queries and keys of this task's heads.
                rotate(unsafe { self.input(t, head) }, angles);
            }
        }
        let at = self.base() + (a.sight.past + t) * a.head_dim;
        let parts = [a.heads + self.head, a.heads + a.kv_heads + self.head];
        for (index, memory) in parts.into_iter().zip([a.memory.keys, a.memory.values]) {
            // SAFETY: keys and values of this task's head.
            let numbers = unsafe { self.input(t, index) };
            let (start, len) = (a.memory.kind.bytes(at), a.memory.kind.bytes(a.head_dim));
            // SAFETY: this sequence's head is written by this task alone.
            let bytes = unsafe { memory.slice(start, len) };
            write(a.memory.kind, numbers, bytes);
        }
    }

    /// Takes the scores of hidden positions out of the view of the query at `position`.
    fn hide(&self, scores: &mut [f32], position: usize) {
        let Some(hidden) = self.attention.sight.hidden.get(self.sequence) else { return };
        for (key, (score, &hidden)) in scores.iter_mut().zip(hidden).enumerate() {
            if hidden && key != position {
                *score = f32::NEG_INFINITY;
            }
        }
    }
}

/// Turns neighbouring pairs by angles.
#[inline(always)]
fn rotate(x: &mut [f32], (cosine, sine): (&[f32], &[f32])) {
    for (pair, (cosine, sine)) in x.chunks_exact_mut(2).zip(cosine.iter().zip(sine)) {
        let (even, odd) = (pair[0], pair[1]);
        pair[0] = even * cosine - odd * sine;
        pair[1] = odd * cosine + even * sine;
    }
}

/// Writes numbers in a dense format.
#[inline(always)]
fn write(kind: Kind, numbers: &[f32], bytes: &mut [u8]) {
    match kind {
        Kind::Brain => {
            for (to, x) in bytes.chunks_exact_mut(2).zip(numbers) {
                to.copy_from_slice(&bf16::from_f32(*x).to_bits().to_ne_bytes());
            }
        }
        Kind::Half => {
            for (to, x) in bytes.chunks_exact_mut(2).zip(numbers) {
                to.copy_from_slice(&f16::from_f32(*x).to_bits().to_ne_bytes());
            }
        }
        Kind::Single | Kind::Eight | Kind::Four => {
            debug_assert_eq!(kind, Kind::Single, "a memory of blocks");
            for (to, x) in bytes.chunks_exact_mut(4).zip(numbers) {
                to.copy_from_slice(&x.to_ne_bytes());
            }
        }
    }
}

/// The sum of rows of values `[weights, out]` by their weights, one row after another.
///
/// # Safety
/// The machine must have the instruction set of `S`, the rows must be there.
#[inline(always)]
unsafe fn mix<S: Vector, F: Format>(weights: &[f32], values: *const u8, out: &mut [f32]) {
    let (dim, mut at) = (out.len(), 0);
    // SAFETY: this function's contract; every step is within the rows.
    unsafe {
        while at + 8 * S::LANES <= dim {
            columns::<S, F, 8>(weights, values, dim, at, out);
            at += 8 * S::LANES;
        }
        while at + 4 * S::LANES <= dim {
            columns::<S, F, 4>(weights, values, dim, at, out);
            at += 4 * S::LANES;
        }
        while at + S::LANES <= dim {
            columns::<S, F, 1>(weights, values, dim, at, out);
            at += S::LANES;
        }
        for (at, out) in out.iter_mut().enumerate().skip(at) {
            let mut sum = 0.0;
            for (row, weight) in weights.iter().enumerate() {
                sum += weight * F::one(values.add(row * dim * F::BYTES), at);
            }
            *out = sum;
        }
    }
}

/// [`mix`] for `N` vectors of columns from `at` on.
#[inline(always)]
unsafe fn columns<S: Vector, F: Format, const N: usize>(
    weights: &[f32],
    values: *const u8,
    dim: usize,
    at: usize,
    out: &mut [f32],
) {
    // SAFETY: the caller's contract.
    unsafe {
        let one = S::splat(1.0);
        let mut sums = [S::splat(0.0); N];
        let mut row = values;
        for &weight in weights {
            let weight = S::splat(weight);
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = F::load(row, at, i * S::LANES, one).mul_add(weight, *sum);
            }
            row = row.add(dim * F::BYTES);
        }
        for (i, sum) in sums.into_iter().enumerate() {
            sum.store(out[at + i * S::LANES..][..S::LANES].as_mut_ptr());
        }
    }
}
