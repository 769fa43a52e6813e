//! Causal attention of many heads (Vaswani et al. 2017), for training: a block of
//! queries at a time, keys behind it not looked at, weights computed anew on the way
//! back (Dao et al. 2022).

#[cfg(feature = "cuda")]
mod cuda;
mod fast;

use candle_core::{D, Result, Tensor};

use super::Dropout;
use crate::cpu;
use crate::device::has_kernels;
use crate::factors::Factors;
use crate::wide::wide;

/// Which heads there are, and who sees whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values, of which each serves `heads / shared` neighbours.
    pub shared: usize,
    /// The first so many positions see each other; all others what lies before them.
    pub unmasked: usize,
    /// What the factors of products may be rounded to on a CPU.
    pub factors: Factors,
}

/// Gradients of [`Heads::attend`].
#[derive(Debug)]
pub struct HeadsGradients {
    /// As the queries.
    pub queries: Tensor,
    /// As the keys.
    pub keys: Tensor,
    /// As the values.
    pub values: Tensor,
}

/// The sizes of one pass.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    len: usize,
    dim: usize,
    heads: Heads,
}

impl Sizes {
    fn new(heads: Heads, queries: &Tensor, keys: &Tensor, values: &Tensor) -> Result<Self> {
        let (batch, len, width) = queries.dims3()?;
        let dim = width / heads.heads.max(1);
        let shared = [batch, len, dim * heads.shared];
        let whole = dim > 0 && width == dim * heads.heads && heads.shared > 0;
        if !whole
            || !heads.heads.is_multiple_of(heads.shared)
            || keys.dims() != shared
            || values.dims() != shared
        {
            candle_core::bail!(
                "attention of {heads:?}: queries {:?}, keys {:?} and values {:?} do not fit",
                queries.shape(),
                keys.shape(),
                values.shape()
            )
        }
        Ok(Self { batch, len, dim, heads })
    }

    /// How many keys, from the first on, the position `query` sees.
    fn visible(&self, query: usize) -> usize {
        if query < self.heads.unmasked { self.heads.unmasked.min(self.len) } else { query + 1 }
    }
}

impl Heads {
    /// Whether the kernels do it.
    pub fn fast(queries: &Tensor) -> bool {
        has_kernels(&[queries])
    }

    /// What the heads read: for queries `[B, T, H D]`, keys and values `[B, T, H' D]`,
    /// `dropout(softmax(q k^T / sqrt(D))) v`, `[B, T, H D]`. Without a graph; where
    /// it is [`fast`](Self::fast). On NVIDIA GPUs there is no matrix `[T, T]` unless
    /// dropout is on or heads have more than 128 dimensions.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn attend(
        self,
        queries: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        dropout: &Dropout,
    ) -> Result<Tensor> {
        let sizes = Sizes::new(self, queries, keys, values)?;
        #[cfg(feature = "cuda")]
        if crate::cuda::supports(&[queries, keys, values]) {
            let tensors = [queries, keys, values].map(Tensor::detach);
            return cuda::forward(sizes, tensors.each_ref(), dropout);
        }
        let read = cpu::with_slices([queries, keys, values], |tensors| {
            fast::forward(sizes, tensors, dropout)
        })?;
        Tensor::from_vec(read, queries.shape(), queries.device())
    }

    /// The gradients for that of [`Self::attend`]'s output, `[B, T, H D]`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn gradients(
        self,
        queries: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        read: &Tensor,
        dropout: &Dropout,
    ) -> Result<HeadsGradients> {
        let sizes = Sizes::new(self, queries, keys, values)?;
        if read.dims() != queries.dims() {
            candle_core::bail!("attention: a gradient {:?} for {:?}", read.shape(), queries.shape())
        }
        #[cfg(feature = "cuda")]
        if crate::cuda::supports(&[queries, keys, values, read]) {
            let tensors = [queries, keys, values, read].map(Tensor::detach);
            let [queries, keys, values] = cuda::backward(sizes, tensors.each_ref(), dropout)?;
            return Ok(HeadsGradients { queries, keys, values });
        }
        let [dq, dk, dv] = cpu::with_slices([queries, keys, values, read], |tensors| {
            fast::backward(sizes, tensors, dropout)
        })?;
        let device = queries.device();
        Ok(HeadsGradients {
            queries: Tensor::from_vec(dq, queries.shape(), device)?,
            keys: Tensor::from_vec(dk, keys.shape(), device)?,
            values: Tensor::from_vec(dv, values.shape(), device)?,
        })
    }

    /// [`Self::attend`] as the formula reads, in candle's graph; the soft-max of half
    /// precision in f32.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn formula(
        self,
        queries: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        dropout: &Dropout,
    ) -> Result<Tensor> {
        let sizes = Sizes::new(self, queries, keys, values)?;
        let Sizes { batch, len, dim, .. } = sizes;
        let split = |x: &Tensor, heads: usize| -> Result<Tensor> {
            let x = x.reshape((batch, len, heads, dim))?.transpose(1, 2)?;
            let groups = self.heads / heads;
            x.unsqueeze(2)?
                .broadcast_as((batch, heads, groups, len, dim))?
                .reshape((batch, self.heads, len, dim))
        };
        let (q, k, v) =
            (split(queries, self.heads)?, split(keys, self.shared)?, split(values, self.shared)?);
        let mut mask = vec![0f32; len * len];
        for (query, row) in mask.chunks_exact_mut(len.max(1)).enumerate() {
            row[sizes.visible(query)..].fill(f32::NEG_INFINITY);
        }
        let mask = Tensor::from_vec(mask, (1, 1, len, len), queries.device())?;
        let scores = (wide(&q.matmul(&k.t()?)?)? * (dim as f64).powf(-0.5))?;
        let scores = scores.broadcast_add(&mask.to_dtype(scores.dtype())?)?;
        let weights = candle_nn::ops::softmax(&scores, D::Minus1)?;
        let mut weights = weights.to_dtype(queries.dtype())?;
        if dropout.is_on() {
            let mask = dropout.mask_tensor(weights.dims(), queries.device())?;
            weights = (weights * mask.to_dtype(queries.dtype())?)?;
        }
        let read = weights.contiguous()?.matmul(&v.contiguous()?)?.transpose(1, 2)?;
        read.reshape((batch, len, self.heads * dim))
    }
}
