//! A pass of some positions through all blocks, on all threads from beginning to end.

use candle_core::{Result, Tensor};
use simd::isa::Isa;
use simd::scratch::with_scratch;
use simd::shared_mut::SharedMut;
use simd::vector::{Kernel, Vector, run};

use super::attention::{Attention, Memory, Sight};
use super::layer::{Affine, FeedForward, Layer, Norm};
use super::matrix::{Kind, Numbers};
use super::pointwise;
use super::product::{Product, Then};
use super::team::{self, Member};

/// Multiply-adds that are worth another thread: what starting one takes, some ten times.
const WORTH: usize = 1 << 21;
/// Rows whose norms are one task.
const NORMS: usize = 8;

/// As many threads of the pool's number as `operations` are worth.
fn threads(operations: usize) -> usize {
    rayon::current_num_threads().min(1 + operations / WORTH)
}

/// What a pass works on.
pub(crate) struct Pass<'a> {
    pub(crate) layers: Vec<Layer<'a>>,
    pub(crate) sight: Sight<'a>,
    /// Cosine and sine of the new positions, `[len, D / 2]` each.
    pub(crate) rotary: Option<(Numbers<'a>, Numbers<'a>)>,
    /// The one new position of each sequence that is wanted; none: all.
    pub(crate) wanted: Option<&'a [usize]>,
    /// Keys and values of all layers; none: they are forgotten after each.
    pub(crate) memory: Option<Memory>,
}

/// Buffers of rows.
#[derive(Clone, Copy)]
struct Buffers {
    x: SharedMut,
    normed: SharedMut,
    inputs: SharedMut,
    read: SharedMut,
    hidden: SharedMut,
}

impl Pass<'_> {
    /// The outputs `[B, len, C]`, or `[B, 1, C]` of the positions wanted, of the last
    /// block for the inputs `x: [B, len, C]`; f32.
    pub(crate) fn run(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, len, width) = x.dims3()?;
        let given = Numbers::of(x)?;
        let rows = batch * len;
        let most = |f: &dyn Fn(&Layer) -> usize| self.layers.iter().map(f).max().unwrap_or(0);
        let inputs = most(&|layer| layer.inputs_width());
        let read = most(&|layer| layer.heads * layer.head_dim);
        let hidden = most(&|layer| layer.hidden_width());
        let own = match self.memory {
            Some(_) => 0,
            None => rows * most(&|layer| layer.kv_heads * layer.head_dim),
        };
        let kept = if self.wanted.is_some() { batch } else { rows };
        let operations = rows * self.layers.iter().map(Layer::operations).sum::<usize>();
        let threads = threads(operations);
        let isa = Isa::detect();
        let sizes = [width, width, inputs, read, hidden].map(|width| rows * width);
        let total = sizes.iter().sum::<usize>() + 2 * own;
        let output = with_scratch(total, |buffer| {
            let mut rest = buffer;
            let mut take = |len: usize| {
                let (taken, left) = std::mem::take(&mut rest).split_at_mut(len);
                rest = left;
                taken
            };
            let [x, normed, inputs, read, hidden] = sizes.map(&mut take);
            x.copy_from_slice(&given);
            let (keys, values) = (take(own), take(own));
            let (x, normed) = (SharedMut::new(x), SharedMut::new(normed));
            let (inputs, read) = (SharedMut::new(inputs), SharedMut::new(read));
            let buffers = Buffers { x, normed, inputs, read, hidden: SharedMut::new(hidden) };
            let memory = self.memory.unwrap_or(Memory {
                kind: Kind::Single,
                keys: bytes(keys),
                values: bytes(values),
                layer: 0,
                offset: 0,
                positions: len,
            });
            team::run(threads, |member| {
                let worker = Worker { member, isa, threads, batch, len, width };
                worker.blocks(self, buffers, memory);
            });
            // SAFETY: the threads are gone.
            unsafe { buffers.x.slice(0, kept * width) }.to_vec()
        });
        Tensor::from_vec(output, (batch, kept / batch.max(1), width), x.device())
    }
}

/// The bytes of floats.
pub(crate) fn bytes(floats: &mut [f32]) -> SharedMut<u8> {
    let len = size_of_val(floats);
    // SAFETY: the same memory; every byte is one and the alignment is less.
    SharedMut::new(unsafe { std::slice::from_raw_parts_mut(floats.as_mut_ptr().cast(), len) })
}

/// A thread at work on a pass.
struct Worker<'a> {
    member: &'a Member<'a>,
    isa: Option<Isa>,
    threads: usize,
    batch: usize,
    len: usize,
    width: usize,
}

impl Worker<'_> {
    fn blocks(&self, pass: &Pass, b: Buffers, memory: Memory) {
        let mut scratch = Vec::new();
        let rotary = pass.rotary.as_ref().map(|(cosine, sine)| (&**cosine, &**sine));
        let mut rows = self.batch * self.len;
        for (number, layer) in pass.layers.iter().enumerate() {
            let last = number + 1 == pass.layers.len();
            let wanted = pass.wanted.filter(|_| last);
            self.norms(&layer.attention_norm, b.x, b.normed, rows);
            let width = layer.inputs_width();
            let parts: Vec<&Affine> = layer.inputs.iter().collect();
            self.product(&parts, Then::Set, (b.normed, rows), (b.inputs, width), &mut scratch);
            let attention = Attention {
                inputs: b.inputs,
                heads: layer.heads,
                kv_heads: layer.kv_heads,
                head_dim: layer.head_dim,
                memory: Memory { offset: number * memory.layer, ..memory },
                sight: pass.sight,
                rotary,
                wanted,
                out: b.read,
            };
            self.member.share(self.batch * layer.kv_heads, |task| {
                attention.task(self.isa, task, &mut scratch);
            });
            if let Some(wanted) = wanted {
                self.keep(b.x, wanted);
                rows = self.batch;
            }
            let to_x = (b.x, self.width);
            self.product(&[&layer.output], Then::Add, (b.read, rows), to_x, &mut scratch);
            self.norms(&layer.feed_forward_norm, b.x, b.normed, rows);
            let hidden = (b.hidden, layer.hidden_width());
            let (first, then, second) = match &layer.feed_forward {
                FeedForward::Gelu { expand, contract } => (expand, Then::Gelu, contract),
                FeedForward::Gated { gate, up, down } => (gate, Then::Gate(up), down),
            };
            self.product(&[first], then, (b.normed, rows), hidden, &mut scratch);
            self.product(&[second], Then::Add, (b.hidden, rows), to_x, &mut scratch);
        }
    }

    fn product(
        &self,
        layers: &[&Affine],
        then: Then,
        (x, count): (SharedMut, usize),
        (out, width): (SharedMut, usize),
        scratch: &mut Vec<f32>,
    ) {
        let product = Product { layers, then, x, count, out, width };
        self.member.share(product.tasks(self.threads), |task| {
            product.task(self.isa, self.threads, task, scratch);
        });
    }

    fn norms(&self, norm: &Norm, x: SharedMut, to: SharedMut, rows: usize) {
        self.member.share(rows.div_ceil(NORMS), |task| {
            for row in task * NORMS..rows.min((task + 1) * NORMS) {
                // SAFETY: x is only read in this phase, and this row of the output is
                // written by this task alone.
                let (x, to) = unsafe {
                    (x.slice(row * self.width, self.width), to.slice(row * self.width, self.width))
                };
                run(self.isa, NormOf { norm, x, to });
            }
        });
    }

    /// Moves the rows wanted to the front.
    fn keep(&self, x: SharedMut, wanted: &[usize]) {
        self.member.share(1, |_| {
            for (sequence, &wanted) in wanted.iter().enumerate() {
                let from = sequence * self.len + wanted;
                // SAFETY: one thread uses x in this phase. A row never moves behind
                // those that are still to be read.
                unsafe {
                    let from = x.range(from * self.width, self.width);
                    let to = x.range(sequence * self.width, self.width);
                    std::ptr::copy(from, to, self.width);
                }
            }
        });
    }
}

struct NormOf<'a> {
    norm: &'a Norm<'a>,
    x: &'a [f32],
    to: &'a mut [f32],
}

impl Kernel for NormOf<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        // SAFETY: this function's contract.
        unsafe { pointwise::norm::<S>(self.norm, self.x, self.to) }
    }
}

/// `x: [.., columns]` (contiguous) through a linear layer, `[.., rows]`; f32.
pub(crate) fn linear(x: &Tensor, layer: &Affine) -> Result<Tensor> {
    let (rows, columns) = (layer.weight.rows(), layer.weight.columns());
    let mut shape = x.dims().to_vec();
    if shape.pop() != Some(columns) {
        candle_core::bail!("a linear layer of {columns} inputs got {:?}", x.shape());
    }
    let count = shape.iter().product::<usize>();
    shape.push(rows);
    let mut given = Numbers::of(x)?.to_vec();
    let mut out = vec![0.0; count * rows];
    let threads = threads(count * rows * columns);
    let isa = Isa::detect();
    let product = Product {
        layers: &[layer],
        then: Then::Set,
        x: SharedMut::new(&mut given),
        count,
        out: SharedMut::new(&mut out),
        width: rows,
    };
    team::run(threads, |member| {
        let mut scratch = Vec::new();
        member.share(product.tasks(threads), |task| {
            product.task(isa, threads, task, &mut scratch);
        });
    });
    Tensor::from_vec(out, shape, x.device())
}
