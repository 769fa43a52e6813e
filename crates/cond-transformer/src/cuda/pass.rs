//! One position of every sequence through the whole model.

use std::sync::Arc;

use candle_core::cuda_backend::cudarc::cublas::CudaBlas;
use candle_core::cuda_backend::cudarc::driver::CudaStream;
use candle_core::{CudaDevice, Result, Tensor};

use super::kernels::Then;
use super::model::{Affine, FeedForward, Format, Model};
use super::{Memory, SHARED_BYTES, int};

/// How linear layers are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// By `linear.cu`, every weight read once, for a few rows.
    Rows,
    /// By `products.cu`, in half precision.
    TensorCores,
    /// By cuBLAS, and kernels around its products.
    Blas,
}

impl Way {
    fn of(model: &Model, format: Format, rows: usize, width: usize) -> Result<Self> {
        let (few, more) = match format {
            Format::F32 => (8, 0),
            Format::F16 | Format::Bf16 => (2, MORE / width.max(1)),
        };
        let tensor_cores = rows <= more && model.in_eights()?;
        if rows <= few && !(tensor_cores && width >= WIDE) {
            return Ok(Self::Rows);
        }
        Ok(if tensor_cores { Self::TensorCores } else { Self::Blas })
    }
}

/// Numbers of a layer's input up to which products of half precision are ours: each of their
/// blocks reads all of the inputs, which for 64 rows of 1280 costs more than cuBLAS's launches.
const MORE: usize = 64 * 1024;
/// The width from which a single row, too, is faster on tensor cores, whose blocks share what they
/// read: 8 rows of LlamaGen-L and XL took 0.8 of the time of one by `linear.cu`.
const WIDE: usize = 1024;
/// Rows up to which they are where the outputs are as many as there are codes.
const MORE_OF_HEAD: usize = 16;

/// Threads of a block of `attention.cu`.
pub(super) const ATTENTION: u32 = 256;

/// The cache's tensors, which kernels write to: one pair a layer, `[R, H', P, D]`.
pub(super) struct Cache<'a> {
    pub(super) layers: &'a [(Tensor, Tensor)],
    pub(super) room: usize,
    /// Of the first `front` positions of each row those that are not seen, as 1.
    pub(super) hidden: Vec<u8>,
    pub(super) front: usize,
}

/// A pass of `rows` sequences, and the memory that it needs.
pub(super) struct Pass<'a> {
    pub(super) stream: Arc<CudaStream>,
    pub(super) blas: Arc<CudaBlas>,
    pub(super) model: &'a Model<'a>,
    pub(super) cache: Cache<'a>,
    pub(super) format: Format,
    pub(super) rows: usize,
    pub(super) width: usize,
    pub(super) way: Way,
    /// How many positions the cache holds.
    pub(super) position: Memory<i32>,
    /// Input, then output of the layer at work, `[R, C]`.
    pub(super) x: Memory<f32>,
    pub(super) logits: Memory<f32>,
    pub(super) hidden: Memory<u8>,
    pub(super) inputs: Memory<f32>,
    pub(super) between: Memory<f32>,
    /// The other half of what is between, and outputs that are still to be added.
    pub(super) more: Memory<f32>,
    /// Factors for products: norms, what was read, activations.
    pub(super) factors: Memory<u8>,
}

impl<'a> Pass<'a> {
    /// `None` where the kernels are not made for such a model or cache.
    pub(super) fn new(
        device: &'a CudaDevice,
        model: &'a Model<'a>,
        cache: Cache<'a>,
        rows: usize,
        past: usize,
    ) -> Result<Option<Self>> {
        let Some(format) = model.format() else { return Ok(None) };
        let (vocabulary, width) = model.table.dims2()?;
        let stream = device.cuda_stream();
        let (mut inputs, mut between, mut shared) = (0, 0, 0);
        for layer in &model.layers {
            inputs = inputs.max(layer.inputs_width());
            between = between.max(layer.hidden_width()?);
            shared = shared.max(attention_bytes(layer.head_dim, cache.room));
        }
        let alike = cache.layers.len() == model.layers.len()
            && cache.layers.iter().all(|(keys, values)| {
                [keys, values].iter().all(|t| Format::of(t.dtype()) == Some(format))
            });
        if !alike || shared > SHARED_BYTES || rows == 0 || rows > 65_535 {
            return Ok(None);
        }
        let way = Way::of(model, format, rows, width)?;
        let widest = between.max(width).max(inputs);
        Ok(Some(Self {
            position: Memory::from_slice(device, &[int(past)?])?,
            x: Memory::zeros(device, rows * width)?,
            logits: Memory::zeros(device, rows * vocabulary)?,
            hidden: Memory::from_slice(device, &cache.hidden)?,
            inputs: Memory::zeros(device, rows * inputs)?,
            between: Memory::zeros(device, rows * between)?,
            more: Memory::zeros(device, rows * between.max(width))?,
            factors: Memory::zeros(device, rows * widest * size_of::<f32>())?,
            blas: device.cublas_handle(),
            stream,
            model,
            cache,
            format,
            rows,
            width,
            way,
        }))
    }

    /// How names of kernels for the weights' format end.
    pub(super) fn suffix(&self) -> &'static str {
        self.format.suffix()
    }

    /// Has `x` gone through all layers, keys and values added to the cache, and leaves the
    /// logits. Only launches.
    pub(super) fn launch(&self) -> Result<()> {
        match self.way {
            Way::Rows => self.by_rows(),
            Way::TensorCores => self.by_tensor_cores(),
            Way::Blas => self.by_blas(),
        }
    }

    fn by_rows(&self) -> Result<()> {
        let (x, read) = (self.x.address, self.factors.address);
        let between = self.between.address;
        for (index, layer) in self.model.layers.iter().enumerate() {
            let inputs: Vec<&Affine> = layer.inputs.iter().collect();
            let norm = Some(&layer.attention_norm);
            self.linear(x, self.width, norm, &inputs, Then::Keep, self.inputs.address)?;
            self.attend(index, layer, [None; 3])?;
            let heads = layer.heads * layer.head_dim;
            self.linear(read, heads, None, &[&layer.output], Then::Add, x)?;
            let norm = Some(&layer.feed_forward_norm);
            let hidden = layer.hidden_width()?;
            let last = match &layer.feed_forward {
                FeedForward::Gelu { expand, contract } => {
                    self.linear(x, self.width, norm, &[expand], Then::Gelu, between)?;
                    contract
                }
                FeedForward::Gated { gate, up, down } => {
                    self.linear(x, self.width, norm, &[gate, up], Then::Gate, between)?;
                    down
                }
            };
            self.linear(between, hidden, None, &[last], Then::Add, x)?;
        }
        let head = Affine { weight: self.model.head, bias: None };
        let norm = Some(&self.model.norm);
        self.linear(x, self.width, norm, &[&head], Then::Keep, self.logits.address)
    }

    fn by_tensor_cores(&self) -> Result<()> {
        let (x, factors) = (self.x.address, self.factors.address);
        let (width, between) = (self.width, self.between.address);
        for (index, layer) in self.model.layers.iter().enumerate() {
            self.add_and_norm(None, &layer.attention_norm)?;
            let inputs: Vec<&Affine> = layer.inputs.iter().collect();
            self.product(factors, width, &inputs, Then::Keep, self.inputs.address)?;
            self.attend(index, layer, [None; 3])?;
            let heads = layer.heads * layer.head_dim;
            self.product(factors, heads, &[&layer.output], Then::Add, x)?;
            self.add_and_norm(None, &layer.feed_forward_norm)?;
            let hidden = layer.hidden_width()?;
            let last = match &layer.feed_forward {
                FeedForward::Gelu { expand, contract } => {
                    self.product(factors, width, &[expand], Then::Gelu, between)?;
                    contract
                }
                FeedForward::Gated { gate, up, down } => {
                    self.product(factors, width, &[gate, up], Then::Gate, between)?;
                    down
                }
            };
            self.product(between, hidden, &[last], Then::Add, x)?;
        }
        self.add_and_norm(None, &self.model.norm)?;
        if self.rows > MORE_OF_HEAD {
            return self.head();
        }
        let head = Affine { weight: self.model.head, bias: None };
        self.product(factors, width, &[&head], Then::Keep, self.logits.address)
    }

    fn by_blas(&self) -> Result<()> {
        let (factors, made) = (self.factors.address, self.more.address);
        let (width, between) = (self.width, self.between.address);
        let mut added = None;
        for (index, layer) in self.model.layers.iter().enumerate() {
            self.add_and_norm(added, &layer.attention_norm)?;
            let mut start = self.inputs.address;
            let mut biases = [None; 3];
            for (input, bias) in layer.inputs.iter().zip(&mut biases) {
                self.large_product(factors, width, input.weight, start, layer.inputs_width())?;
                start += (input.outputs()? * size_of::<f32>()) as u64;
                *bias = input.bias;
            }
            self.attend(index, layer, biases)?;
            let heads = layer.heads * layer.head_dim;
            self.large_product(factors, heads, layer.output.weight, made, width)?;
            self.add_and_norm(Some(&layer.output), &layer.feed_forward_norm)?;
            let hidden = layer.hidden_width()?;
            let last = match &layer.feed_forward {
                FeedForward::Gelu { expand, contract } => {
                    self.large_product(factors, width, expand.weight, between, hidden)?;
                    self.activate(expand.bias, 0, hidden)?;
                    contract
                }
                FeedForward::Gated { gate, up, down } => {
                    self.large_product(factors, width, gate.weight, between, hidden)?;
                    self.large_product(factors, width, up.weight, made, hidden)?;
                    self.activate(None, made, hidden)?;
                    down
                }
            };
            self.large_product(factors, hidden, last.weight, made, width)?;
            added = Some(last);
        }
        self.add_and_norm(added, &self.model.norm)?;
        self.head()
    }

    /// The logits, from a norm in `factors`.
    fn head(&self) -> Result<()> {
        let (head, logits) = (self.model.head, self.logits.address);
        self.large_product(self.factors.address, self.width, head, logits, head.dim(0)?)
    }
}

/// Shared memory of a block of `attention.cu`; `tests/kernels_on_host` has no more for it.
pub(super) fn attention_bytes(dim: usize, room: usize) -> usize {
    (3 * dim + 4 * ATTENTION as usize + room) * size_of::<f32>()
}
