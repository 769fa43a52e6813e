//! A model as the kernels see it: addresses of its weights.

use candle_core::cuda::CudaDType;
use candle_core::cuda_backend::cudarc::cublas::sys::cudaDataType;
use candle_core::cuda_backend::cudarc::driver::{CudaStream, DevicePtr, DeviceRepr};
use candle_core::{DType, Result, Storage, Tensor};
use half::{bf16, f16};

/// What weights and the cache are kept as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    F32,
    F16,
    Bf16,
}

impl Format {
    pub(super) fn of(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F32 => Some(Self::F32),
            DType::F16 => Some(Self::F16),
            DType::BF16 => Some(Self::Bf16),
            _ => None,
        }
    }

    /// How names of kernels for it end.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// For cuBLAS.
    pub(super) fn cublas(self) -> cudaDataType {
        match self {
            Self::F32 => cudaDataType::CUDA_R_32F,
            Self::F16 => cudaDataType::CUDA_R_16F,
            Self::Bf16 => cudaDataType::CUDA_R_16BF,
        }
    }
}

/// `x weight^T + bias`, `weight` `[out, in]`.
pub(crate) struct Affine<'a> {
    pub(crate) weight: &'a Tensor,
    pub(crate) bias: Option<&'a Tensor>,
}

impl Affine<'_> {
    pub(super) fn outputs(&self) -> Result<usize> {
        self.weight.dim(0)
    }
}

/// A norm over the last dimension.
pub(crate) struct Norm<'a> {
    pub(crate) kind: NormKind,
    pub(crate) weight: &'a Tensor,
    pub(crate) bias: Option<&'a Tensor>,
    pub(crate) eps: f64,
}

/// The numbers are those of `linear.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NormKind {
    Layer = 1,
    Rms = 2,
}

/// What follows attention.
pub(crate) enum FeedForward<'a> {
    /// `contract(gelu(expand(x)))`.
    Gelu { expand: Affine<'a>, contract: Affine<'a> },
    /// `down(silu(gate(x)) * up(x))`, without biases.
    Gated { gate: Affine<'a>, up: Affine<'a>, down: Affine<'a> },
}

/// A pre-norm decoder block.
pub(crate) struct Layer<'a> {
    pub(crate) attention_norm: Norm<'a>,
    /// Queries, keys and values side by side, or one matrix for each.
    pub(crate) inputs: Vec<Affine<'a>>,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) output: Affine<'a>,
    pub(crate) feed_forward_norm: Norm<'a>,
    pub(crate) feed_forward: FeedForward<'a>,
}

impl Layer<'_> {
    /// Width of queries, keys and values side by side.
    pub(super) fn inputs_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Width between the two halves of the feed-forward part.
    pub(super) fn hidden_width(&self) -> Result<usize> {
        match &self.feed_forward {
            FeedForward::Gelu { expand, .. } => expand.outputs(),
            FeedForward::Gated { gate, .. } => gate.outputs(),
        }
    }
}

/// All that a code goes through.
pub(crate) struct Model<'a> {
    /// Embeddings `[V, C]` of codes.
    pub(crate) table: &'a Tensor,
    /// Learned positions `[1, P, C]`.
    pub(crate) places: Option<&'a Tensor>,
    /// Cosine and sine `[P, D / 2]` of rotary positions, f32.
    pub(crate) rotary: Option<(&'a Tensor, &'a Tensor)>,
    pub(crate) layers: Vec<Layer<'a>>,
    pub(crate) norm: Norm<'a>,
    /// `[V, C]`, without a bias.
    pub(crate) head: &'a Tensor,
}

impl Model<'_> {
    /// The format of all weights, where the kernels can read them: of one format, without
    /// gaps, their widths multiples of four.
    pub(super) fn format(&self) -> Option<Format> {
        let dtype = self.table.dtype();
        let fits = |tensor: &Tensor| {
            tensor.dtype() == dtype
                && tensor.device().is_cuda()
                && tensor.is_contiguous()
                && tensor.layout().start_offset().is_multiple_of(4)
                && !tensor.track_op()
        };
        let affine = |affine: &Affine| {
            let whole = affine.weight.dims().last().is_some_and(|width| width.is_multiple_of(4));
            whole && fits(affine.weight) && affine.bias.is_none_or(fits)
        };
        let norm = |norm: &Norm| fits(norm.weight) && norm.bias.is_none_or(fits);
        let layer = |layer: &Layer| {
            let feed_forward = match &layer.feed_forward {
                FeedForward::Gelu { expand, contract } => affine(expand) && affine(contract),
                FeedForward::Gated { gate, up, down } => {
                    let plain = [gate, up, down].iter().all(|affine| affine.bias.is_none());
                    plain && affine(gate) && affine(up) && affine(down)
                }
            };
            let alike = layer.inputs.len() == 1
                || (layer.inputs.len() == 3 && layer.heads == layer.kv_heads);
            // `attention.cu` has a thread for each four numbers of a head.
            let heads = layer.head_dim.is_multiple_of(4) && layer.head_dim <= 1024;
            alike
                && heads
                && feed_forward
                && layer.inputs.iter().all(affine)
                && affine(&layer.output)
                && norm(&layer.attention_norm)
                && norm(&layer.feed_forward_norm)
        };
        let rotary = self.rotary.is_none_or(|(cosine, sine)| {
            [cosine, sine].iter().all(|t| t.dtype() == DType::F32 && t.is_contiguous())
        });
        let head = Affine { weight: self.head, bias: None };
        let all = rotary
            && fits(self.table)
            && self.places.is_none_or(fits)
            && norm(&self.norm)
            && affine(&head)
            && self.layers.iter().all(layer);
        Format::of(dtype).filter(|_| all)
    }
}

impl Model<'_> {
    /// Whether all rows of weights begin at multiples of eight numbers, for `products.cu`.
    pub(super) fn in_eights(&self) -> Result<bool> {
        let affine = |affine: &Affine| -> Result<bool> {
            let start = affine.weight.layout().start_offset();
            Ok(affine.weight.dim(1)?.is_multiple_of(8) && start.is_multiple_of(8))
        };
        let mut all = affine(&Affine { weight: self.head, bias: None })?;
        for layer in &self.layers {
            let mut matrices = vec![&layer.output];
            matrices.extend(&layer.inputs);
            match &layer.feed_forward {
                FeedForward::Gelu { expand, contract } => matrices.extend([expand, contract]),
                FeedForward::Gated { gate, up, down } => matrices.extend([gate, up, down]),
            }
            for matrix in matrices {
                all &= affine(matrix)?;
            }
        }
        Ok(all)
    }
}

/// Where the elements of a contiguous tensor begin on the device. Good for as long as the
/// tensor is there; 0 for none.
pub(super) fn address(tensor: Option<&Tensor>, stream: &CudaStream) -> Result<u64> {
    fn of<T: CudaDType + DeviceRepr>(tensor: &Tensor, stream: &CudaStream) -> Result<u64> {
        let (storage, layout) = tensor.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else {
            candle_core::bail!("a CUDA kernel got a tensor of another device")
        };
        let (start, _sync) = storage.as_cuda_slice::<T>()?.device_ptr(stream);
        Ok(start + (layout.start_offset() * size_of::<T>()) as u64)
    }
    let Some(tensor) = tensor else { return Ok(0) };
    match tensor.dtype() {
        DType::F32 => of::<f32>(tensor, stream),
        DType::F16 => of::<f16>(tensor, stream),
        DType::BF16 => of::<bf16>(tensor, stream),
        other => candle_core::bail!("no CUDA kernel for {other:?}"),
    }
}
