//! One position of every sequence through the whole model.

use std::ffi::c_void;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::cublas::{CudaBlas, result, sys as cublas};
use candle_core::cuda_backend::cudarc::driver::{CudaStream, PushKernelArg};
use candle_core::{CudaDevice, Result, Tensor};

use super::model::{Affine, FeedForward, Format, Layer, Model, Norm, address};
use super::{Kernel, Memory, Module, SHARED_BYTES, grid, int};

/// Rows up to which weights of a format are read by kernels of ours, each once; beyond,
/// cuBLAS's products have more launches but tensor cores.
fn few(format: Format) -> usize {
    match format {
        Format::F32 => 8,
        Format::F16 | Format::Bf16 => 2,
    }
}

/// Threads and outputs of a block of `linear.cu`.
const LINEAR: (u32, usize) = (128, 4);
/// Threads of a block of `attention.cu`.
const ATTENTION: u32 = 256;

/// What becomes of a layer's outputs, in the names of `linear.cu`.
#[derive(Clone, Copy)]
enum Then {
    Keep,
    Gelu,
    Add,
    Gate,
}

impl Then {
    fn name(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Gelu => "gelu",
            Self::Add => "add",
            Self::Gate => "gate",
        }
    }
}

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
    device: &'a CudaDevice,
    stream: Arc<CudaStream>,
    blas: Arc<CudaBlas>,
    model: &'a Model<'a>,
    cache: Cache<'a>,
    format: Format,
    rows: usize,
    width: usize,
    few: bool,
    /// How many positions the cache holds.
    pub(super) position: Memory<i32>,
    /// Input, then output of the layer at work, `[R, C]`.
    pub(super) x: Memory<f32>,
    pub(super) logits: Memory<f32>,
    hidden: Memory<u8>,
    inputs: Memory<f32>,
    between: Memory<f32>,
    /// The other half of what is between, and outputs that are still to be added.
    more: Memory<f32>,
    /// Factors for products: norms, what was read, activations.
    factors: Memory<u8>,
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
        // Rows of a norm lie in shared memory.
        let few = rows <= few(format) && rows * width * size_of::<f32>() <= SHARED_BYTES;
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
            device,
            stream,
            model,
            cache,
            format,
            rows,
            width,
            few,
        }))
    }

    /// How names of kernels for the weights' format end.
    pub(super) fn suffix(&self) -> &'static str {
        self.format.suffix()
    }

    /// Has `x` gone through all layers, keys and values added to the cache, and leaves the
    /// logits. Only launches.
    pub(super) fn launch(&self) -> Result<()> {
        if self.few { self.by_rows() } else { self.by_products() }
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

    fn by_products(&self) -> Result<()> {
        let (factors, made) = (self.factors.address, self.more.address);
        let (width, between) = (self.width, self.between.address);
        let mut added = None;
        for (index, layer) in self.model.layers.iter().enumerate() {
            self.add_and_norm(added, &layer.attention_norm)?;
            let mut start = self.inputs.address;
            let mut biases = [None; 3];
            for (input, bias) in layer.inputs.iter().zip(&mut biases) {
                self.product(factors, width, input.weight, start, layer.inputs_width())?;
                start += (input.outputs()? * size_of::<f32>()) as u64;
                *bias = input.bias;
            }
            self.attend(index, layer, biases)?;
            let heads = layer.heads * layer.head_dim;
            self.product(factors, heads, layer.output.weight, made, width)?;
            self.add_and_norm(Some(&layer.output), &layer.feed_forward_norm)?;
            let hidden = layer.hidden_width()?;
            let last = match &layer.feed_forward {
                FeedForward::Gelu { expand, contract } => {
                    self.product(factors, width, expand.weight, between, hidden)?;
                    self.activate(expand.bias, 0, hidden)?;
                    contract
                }
                FeedForward::Gated { gate, up, down } => {
                    self.product(factors, width, gate.weight, between, hidden)?;
                    self.product(factors, width, up.weight, made, hidden)?;
                    self.activate(None, made, hidden)?;
                    down
                }
            };
            self.product(factors, hidden, last.weight, made, width)?;
            added = Some(last);
        }
        self.add_and_norm(added, &self.model.norm)?;
        let vocabulary = self.model.head.dim(0)?;
        self.product(factors, width, self.model.head, self.logits.address, vocabulary)
    }

    fn address(&self, tensor: Option<&Tensor>) -> Result<u64> {
        address(tensor, &self.stream)
    }

    /// Rows at `x` of `inputs` numbers, times matrices of one shape: see `linear_few`.
    fn linear(
        &self,
        x: u64,
        inputs: usize,
        norm: Option<&Norm>,
        matrices: &[&Affine],
        then: Then,
        y: u64,
    ) -> Result<()> {
        let rows = self.rows.next_power_of_two();
        let name = format!("linear_{}_{rows}_{}", then.name(), self.suffix());
        let kernel = Kernel::new(self.device, Module::LINEAR, &name)?;
        let Some(first) = matrices.first() else { candle_core::bail!("a product of nothing") };
        let outputs = first.outputs()?;
        let mut weights = [0u64; 3];
        let mut biases = [0u64; 3];
        for (at, matrix) in matrices.iter().enumerate().take(3) {
            weights[at] = self.address(Some(matrix.weight))?;
            biases[at] = self.address(matrix.bias)?;
        }
        let (kind, norm_weight, norm_bias, eps) = self.norm(norm)?;
        let shared = if norm.is_some() { self.rows * inputs * size_of::<f32>() } else { 0 };
        let (threads, each) = LINEAR;
        let kinds = if matches!(then, Then::Gate) { 1 } else { matrices.len() };
        let grid = grid(outputs.div_ceil(each), kinds, threads, shared)?;
        let (rows, inputs, outputs) = (int(self.rows)?, int(inputs)?, int(outputs)?);
        let mut launch = kernel.builder();
        launch.arg(&x).arg(&rows).arg(&inputs).arg(&outputs);
        launch.arg(&kind).arg(&norm_weight).arg(&norm_bias).arg(&eps);
        weights.iter().chain(&biases).for_each(|address| {
            launch.arg(address);
        });
        launch.arg(&y);
        // SAFETY: the arguments are those of the kernel, all addresses those of memory of
        // this pass or of the model, with room for `rows` of what is read and written.
        unsafe { launch.launch(grid) }.map_err(candle_core::Error::wrap)?;
        Ok(())
    }

    fn norm(&self, norm: Option<&Norm>) -> Result<(i32, u64, u64, f32)> {
        let Some(norm) = norm else { return Ok((0, 0, 0, 0.0)) };
        let (weight, bias) = (self.address(Some(norm.weight))?, self.address(norm.bias)?);
        Ok((norm.kind as i32, weight, bias, norm.eps as f32))
    }

    /// Attention of layer `index`, from `inputs` to `factors`.
    fn attend(&self, index: usize, layer: &Layer, biases: [Option<&Tensor>; 3]) -> Result<()> {
        let kind = if self.few { "few" } else { "many" };
        let name = format!("attend_{kind}_{}", self.suffix());
        let kernel = Kernel::new(self.device, Module::ATTENTION, &name)?;
        let shared = attention_bytes(layer.head_dim, self.cache.room);
        let grid = grid(layer.heads, self.rows, ATTENTION, shared)?;
        let [query, key, value] = biases.map(|bias| self.address(bias));
        let (query, key, value) = (query?, key?, value?);
        let (cosine, sine) = match self.model.rotary {
            Some((cosine, sine)) => (self.address(Some(cosine))?, self.address(Some(sine))?),
            None => (0, 0),
        };
        let Some((keys, values)) = self.cache.layers.get(index) else {
            candle_core::bail!("a cache without layer {index}")
        };
        let (keys, values) = (self.address(Some(keys))?, self.address(Some(values))?);
        let (front, heads) = (int(self.cache.front)?, int(layer.kv_heads)?);
        let (dim, room) = (int(layer.head_dim)?, int(self.cache.room)?);
        let (hidden, inputs) = (self.hidden.address, self.inputs.address);
        let (position, read) = (self.position.address, self.factors.address);
        let mut launch = kernel.builder();
        launch.arg(&inputs).arg(&query).arg(&key).arg(&value).arg(&cosine).arg(&sine);
        launch.arg(&hidden).arg(&front).arg(&position).arg(&heads).arg(&dim).arg(&room);
        launch.arg(&keys).arg(&values).arg(&read);
        // SAFETY: as in `linear`; the position is below `room`, which `draw` sees to.
        unsafe { launch.launch(grid) }.map_err(candle_core::Error::wrap)?;
        Ok(())
    }

    /// Adds what is in `more` to `x`, with the bias of the layer that made it; the norm goes
    /// to `factors`.
    fn add_and_norm(&self, made_by: Option<&Affine>, norm: &Norm) -> Result<()> {
        let name = format!("add_and_norm_{}", self.suffix());
        let kernel = Kernel::new(self.device, Module::LINEAR, &name)?;
        let made = made_by.map_or(0, |_| self.more.address);
        let bias = self.address(made_by.and_then(|layer| layer.bias))?;
        let (kind, weight, norm_bias, eps) = self.norm(Some(norm))?;
        let grid = grid(self.rows.div_ceil(LINEAR.1), 1, LINEAR.0, 0)?;
        let (rows, width) = (int(self.rows)?, int(self.width)?);
        let (x, to) = (self.x.address, self.factors.address);
        let mut launch = kernel.builder();
        launch.arg(&x).arg(&rows).arg(&width).arg(&made).arg(&bias);
        launch.arg(&kind).arg(&weight).arg(&norm_bias).arg(&eps).arg(&to);
        // SAFETY: as in `linear`.
        unsafe { launch.launch(grid) }.map_err(candle_core::Error::wrap)?;
        Ok(())
    }

    /// What is between the halves of the feed-forward part, from `between` to `factors`.
    fn activate(&self, bias: Option<&Tensor>, up: u64, width: usize) -> Result<()> {
        let name = format!("activate_{}", self.suffix());
        let kernel = Kernel::new(self.device, Module::LINEAR, &name)?;
        let count = self.rows * width;
        let grid = grid(count.div_ceil(LINEAR.0 as usize), 1, LINEAR.0, 0)?;
        let (bias, width, count) = (self.address(bias)?, int(width)?, count as i64);
        let (made, to) = (self.between.address, self.factors.address);
        let mut launch = kernel.builder();
        launch.arg(&made).arg(&bias).arg(&up).arg(&width).arg(&count).arg(&to);
        // SAFETY: as in `linear`.
        unsafe { launch.launch(grid) }.map_err(candle_core::Error::wrap)?;
        Ok(())
    }

    /// Rows at `x`, in the weights' format, times `weight` `[out, in]`: f32 at `y`, rows
    /// `stride` apart.
    fn product(&self, x: u64, inputs: usize, weight: &Tensor, y: u64, stride: usize) -> Result<()> {
        let (outputs, rows) = (int(weight.dim(0)?)?, int(self.rows)?);
        let (inputs, stride) = (int(inputs)?, int(stride)?);
        let weight = self.address(Some(weight))?;
        let (one, zero) = (1f32, 0f32);
        let number = |x: &f32| std::ptr::from_ref(x).cast::<c_void>();
        let format = self.format.cublas();
        // As candle's products: see `layers::cuda::allow_tf32`.
        let compute = if self.format == Format::F32 && layers::cuda::tf32_is_allowed() {
            cublas::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32
        } else {
            cublas::cublasComputeType_t::CUBLAS_COMPUTE_32F
        };
        let (as_is, turned) =
            (cublas::cublasOperation_t::CUBLAS_OP_N, cublas::cublasOperation_t::CUBLAS_OP_T);
        // SAFETY: column by column, a row-major [out, in] is an [in, out], to be turned, and
        // [rows, in] an [in, rows]; all are memory of this pass or of the model, of at least
        // that size, and cuBLAS runs on this stream.
        unsafe {
            result::gemm_ex(
                *self.blas.handle(),
                turned,
                as_is,
                outputs,
                rows,
                inputs,
                number(&one),
                weight as *const c_void,
                format,
                inputs,
                x as *const c_void,
                format,
                inputs,
                number(&zero),
                y as *mut c_void,
                cublas::cudaDataType::CUDA_R_32F,
                stride,
                compute,
                cublas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .map_err(candle_core::Error::wrap)
    }
}

/// Shared memory of a block of `attention.cu`.
fn attention_bytes(dim: usize, room: usize) -> usize {
    (3 * dim + 4 * ATTENTION as usize + room) * size_of::<f32>()
}
