//! Keys and values of the positions already seen.

use candle_core::{DType, Device, Tensor};

use crate::{Error, Result, cpu};

/// The size of a [`KvCache`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// Blocks of the model.
    pub layers: usize,
    /// Sequences side by side.
    pub batch: usize,
    /// Heads of keys and values.
    pub heads: usize,
    /// Positions there is room for, condition included.
    pub positions: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl CacheShape {
    /// Numbers held: keys and values of every layer.
    pub fn elements(&self) -> usize {
        2 * self.layers * self.batch * self.heads * self.positions * self.head_dim
    }
}

/// Keys and values of a batch of sequences that grow together, in memory
/// allocated once: `2 x [B, H, positions, D]` a layer.
///
/// Made by [`NextCode::cache`](crate::NextCode::cache), filled by the model.
#[derive(Debug)]
pub struct KvCache {
    memory: Memory,
    dtype: DType,
    shape: CacheShape,
    len: usize,
    /// Condition positions that no other position sees (padding), per sequence.
    hidden: Vec<Vec<bool>>,
    /// Inputs so far, kept while a model must still compute them anew.
    replay: Option<Tensor>,
}

/// Where keys and values are.
#[derive(Debug)]
enum Memory {
    /// For candle's ops.
    Tensors(Vec<(Tensor, Tensor)>),
    /// For the kernels of [`crate::cpu`]: `[layers, B, H, positions, D]`, the bytes of
    /// the cache's dtype.
    Host { keys: Vec<f32>, values: Vec<f32> },
}

impl KvCache {
    /// An empty cache.
    pub fn new(shape: CacheShape, dtype: DType, device: &Device) -> Result<Self> {
        let CacheShape { batch, heads, positions, head_dim, .. } = shape;
        let dims = (batch, heads, positions, head_dim);
        let layers = (0..shape.layers)
            .map(|_| Ok((Tensor::zeros(dims, dtype, device)?, Tensor::zeros(dims, dtype, device)?)))
            .collect::<Result<_>>()?;
        let memory = Memory::Tensors(layers);
        Ok(Self { memory, dtype, shape, len: 0, hidden: Vec::new(), replay: None })
    }

    /// An empty cache for the kernels of [`crate::cpu`].
    pub(crate) fn on_host(shape: CacheShape, dtype: DType) -> Self {
        let bytes = shape.elements() / 2 * dtype.size_in_bytes();
        // Zeros that nobody has touched yet cost nothing.
        let zeros = || vec![0.0; bytes.div_ceil(size_of::<f32>())];
        let memory = Memory::Host { keys: zeros(), values: zeros() };
        Self { memory, dtype, shape, len: 0, hidden: Vec::new(), replay: None }
    }

    /// Whether it is for the kernels of [`crate::cpu`].
    pub(crate) fn is_on_host(&self) -> bool {
        matches!(self.memory, Memory::Host { .. })
    }

    /// Keys and values as the kernels of [`crate::cpu`] see them.
    pub(crate) fn host_memory(&mut self) -> Option<cpu::Memory> {
        let kind = cpu::Kind::of(self.dtype)?;
        let Memory::Host { keys, values } = &mut self.memory else { return None };
        Some(cpu::Memory {
            kind,
            keys: cpu::bytes(keys),
            values: cpu::bytes(values),
            layer: self.shape.elements() / 2 / self.shape.layers.max(1),
            offset: 0,
            positions: self.shape.positions,
        })
    }

    /// Keys and values of every layer, where they are tensors.
    #[cfg(feature = "cuda")]
    pub(crate) fn tensors(&self) -> Option<&[(Tensor, Tensor)]> {
        match &self.memory {
            Memory::Tensors(layers) => Some(layers),
            Memory::Host { .. } => None,
        }
    }

    /// Positions filled.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its size.
    pub fn shape(&self) -> CacheShape {
        self.shape
    }

    /// Memory of keys and values, in bytes.
    pub fn bytes(&self) -> usize {
        self.shape.elements() * self.dtype.size_in_bytes()
    }

    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.len = 0;
        self.hidden.clear();
        self.replay = None;
    }

    /// Refuses a batch of another size, or more positions than there is room for.
    pub(crate) fn reserve(&self, batch: usize, more: usize) -> Result<()> {
        if batch != self.shape.batch {
            return Err(Error::Request(format!(
                "{batch} sequences in a cache made for {}",
                self.shape.batch
            )));
        }
        if self.len + more > self.shape.positions {
            return Err(Error::ContextFull {
                what: "cache",
                positions: self.len + more,
                limit: self.shape.positions,
            });
        }
        Ok(())
    }

    /// Writes keys and values `[B, H, T, D]` of `layer` behind those seen, and
    /// returns all of them, `[B, H, len + T, D]`. The length grows by
    /// [`Self::advance`], after the last layer.
    pub(crate) fn append(
        &self,
        layer: usize,
        keys: &Tensor,
        values: &Tensor,
    ) -> candle_core::Result<(Tensor, Tensor)> {
        let Memory::Tensors(layers) = &self.memory else {
            return Err(candle_core::Error::Msg("a cache that another model made".to_owned()));
        };
        let (all_keys, all_values) = &layers[layer];
        let len = self.len + keys.dim(2)?;
        all_keys.slice_set(&keys.contiguous()?, 2, self.len)?;
        all_values.slice_set(&values.contiguous()?, 2, self.len)?;
        Ok((all_keys.narrow(2, 0, len)?, all_values.narrow(2, 0, len)?))
    }

    /// Counts positions that every layer has appended.
    pub(crate) fn advance(&mut self, positions: usize) {
        self.len += positions;
    }

    pub(crate) fn hidden(&self) -> &[Vec<bool>] {
        &self.hidden
    }

    pub(crate) fn hide(&mut self, hidden: Vec<Vec<bool>>) {
        self.hidden = hidden;
    }

    pub(crate) fn replay(&self) -> Option<&Tensor> {
        self.replay.as_ref()
    }

    pub(crate) fn set_replay(&mut self, inputs: Option<Tensor>) {
        self.replay = inputs;
    }
}
