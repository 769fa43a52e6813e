//! The launches of a pass.

use std::ffi::c_void;

use candle_core::cuda_backend::cudarc::cublas::{result, sys as cublas};
use candle_core::{Result, Tensor};

use super::launch::{Kernel, Module};
use super::model::{Affine, Format, Layer, Norm, address};
use super::pass::{ATTENTION, Pass, Way, attention_bytes};
use super::{grid, int};

/// Threads and outputs of a block of `linear.cu`.
const LINEAR: (u32, usize) = (128, 4);
/// Threads and outputs of a block of `products.cu`.
const PRODUCT: (u32, usize) = (256, 16);

/// What becomes of a layer's outputs, in the names of `linear.cu` and `products.cu`.
#[derive(Clone, Copy)]
pub(super) enum Then {
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

/// Matrices of one shape.
struct Matrices {
    /// Of up to three weights, then of their biases.
    addresses: [u64; 6],
    /// Of one of them.
    outputs: usize,
    /// How many have outputs of their own.
    kinds: usize,
}

impl Pass<'_> {
    fn address(&self, tensor: Option<&Tensor>) -> Result<u64> {
        address(tensor, &self.stream)
    }

    /// Rows at `x` of `inputs` numbers, times matrices of one shape: see `linear_few`.
    pub(super) fn linear(
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
        let kernel = Kernel::new(&self.stream, Module::LINEAR, &name)?;
        let Matrices { addresses, outputs, kinds } = self.matrices(matrices, then)?;
        let (kind, norm_weight, norm_bias, eps) = self.norm(norm)?;
        let grid = grid(outputs.div_ceil(LINEAR.1), kinds, LINEAR.0, 0)?;
        let (rows, inputs, outputs) = (int(self.rows)?, int(inputs)?, int(outputs)?);
        let mut launch = kernel.arguments();
        launch.arg(&x).arg(&rows).arg(&inputs).arg(&outputs);
        launch.arg(&kind).arg(&norm_weight).arg(&norm_bias).arg(&eps);
        for address in &addresses {
            launch.arg(address);
        }
        launch.arg(&y);
        // SAFETY: the arguments are those of the kernel, all addresses those of memory of
        // this pass or of the model, with room for `rows` of what is read and written; every
        // kernel here waits as it should.
        unsafe { launch.launch(grid) }
    }

    /// The same of rows in the weights' format, on tensor cores: see `products.cu`.
    pub(super) fn product(
        &self,
        x: u64,
        inputs: usize,
        matrices: &[&Affine],
        then: Then,
        y: u64,
    ) -> Result<()> {
        let group = self.rows.next_power_of_two().clamp(8, 32);
        let name = format!("product_{}_{group}_{}", then.name(), self.suffix());
        let kernel = Kernel::new(&self.stream, Module::PRODUCTS, &name)?;
        let Matrices { addresses, outputs, kinds } = self.matrices(matrices, then)?;
        let blocks = outputs.div_ceil(PRODUCT.1) * self.rows.div_ceil(group);
        let grid = grid(blocks, kinds, PRODUCT.0, 0)?;
        let (rows, inputs, outputs) = (int(self.rows)?, int(inputs)?, int(outputs)?);
        let mut launch = kernel.arguments();
        launch.arg(&x).arg(&rows).arg(&inputs).arg(&outputs);
        for address in &addresses {
            launch.arg(address);
        }
        launch.arg(&y);
        // SAFETY: as in `linear`.
        unsafe { launch.launch(grid) }
    }

    fn matrices(&self, matrices: &[&Affine], then: Then) -> Result<Matrices> {
        let Some(first) = matrices.first() else { candle_core::bail!("a product of nothing") };
        let mut addresses = [0u64; 6];
        let (weights, biases) = addresses.split_at_mut(3);
        for ((matrix, weight), bias) in matrices.iter().zip(weights).zip(biases) {
            *weight = self.address(Some(matrix.weight))?;
            *bias = self.address(matrix.bias)?;
        }
        let kinds = if matches!(then, Then::Gate) { 1 } else { matrices.len() };
        Ok(Matrices { addresses, outputs: first.outputs()?, kinds })
    }

    fn norm(&self, norm: Option<&Norm>) -> Result<(i32, u64, u64, f32)> {
        let Some(norm) = norm else { return Ok((0, 0, 0, 0.0)) };
        let (weight, bias) = (self.address(Some(norm.weight))?, self.address(norm.bias)?);
        Ok((norm.kind as i32, weight, bias, norm.eps as f32))
    }

    /// Attention of layer `index`, from `inputs` to `factors`.
    pub(super) fn attend(
        &self,
        index: usize,
        layer: &Layer,
        biases: [Option<&Tensor>; 3],
    ) -> Result<()> {
        let kind = if self.way == Way::Rows { "few" } else { "many" };
        let name = format!("attend_{kind}_{}", self.suffix());
        let kernel = Kernel::new(&self.stream, Module::ATTENTION, &name)?;
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
        let mut launch = kernel.arguments();
        launch.arg(&inputs).arg(&query).arg(&key).arg(&value).arg(&cosine).arg(&sine);
        launch.arg(&hidden).arg(&front).arg(&position).arg(&heads).arg(&dim).arg(&room);
        launch.arg(&keys).arg(&values).arg(&read);
        // SAFETY: as in `linear`; the position is below `room`, which `draw` sees to.
        unsafe { launch.launch(grid) }
    }

    /// Adds what is in `more` to `x`, with the bias of the layer that made it; the norm goes
    /// to `factors`.
    pub(super) fn add_and_norm(&self, made_by: Option<&Affine>, norm: &Norm) -> Result<()> {
        let name = format!("add_and_norm_{}", self.suffix());
        let kernel = Kernel::new(&self.stream, Module::LINEAR, &name)?;
        let made = made_by.map_or(0, |_| self.more.address);
        let bias = self.address(made_by.and_then(|layer| layer.bias))?;
        let (kind, weight, norm_bias, eps) = self.norm(Some(norm))?;
        let grid = grid(self.rows, 1, LINEAR.0, 0)?;
        let width = int(self.width)?;
        let (x, to) = (self.x.address, self.factors.address);
        let mut launch = kernel.arguments();
        launch.arg(&x).arg(&width).arg(&made).arg(&bias);
        launch.arg(&kind).arg(&weight).arg(&norm_bias).arg(&eps).arg(&to);
        // SAFETY: as in `linear`.
        unsafe { launch.launch(grid) }
    }

    /// What is between the halves of the feed-forward part, from `between` to `factors`.
    pub(super) fn activate(&self, bias: Option<&Tensor>, up: u64, width: usize) -> Result<()> {
        let name = format!("activate_{}", self.suffix());
        let kernel = Kernel::new(&self.stream, Module::LINEAR, &name)?;
        let count = self.rows * width;
        let grid = grid(count.div_ceil(LINEAR.0 as usize), 1, LINEAR.0, 0)?;
        let (bias, width, count) = (self.address(bias)?, int(width)?, count as i64);
        let (made, to) = (self.between.address, self.factors.address);
        let mut launch = kernel.arguments();
        launch.arg(&made).arg(&bias).arg(&up).arg(&width).arg(&count).arg(&to);
        // SAFETY: as in `linear`.
        unsafe { launch.launch(grid) }
    }

    /// Rows at `x`, in the weights' format, times `weight` `[out, in]`: f32 at `y`, rows
    /// `stride` apart. By cuBLAS.
    pub(super) fn large_product(
        &self,
        x: u64,
        inputs: usize,
        weight: &Tensor,
        y: u64,
        stride: usize,
    ) -> Result<()> {
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
