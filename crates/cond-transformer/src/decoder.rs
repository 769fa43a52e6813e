//! One pass through a stack of decoder blocks: what both models share.
//!
//! [`Pass::run`] leaves it to the kernels of [`crate::cpu`] where they can, else to
//! candle's ops, which are their plain twin.

use candle_core::{DType, Device, Tensor};

use crate::{CacheShape, Error, KvCache, Result, attention, cpu};

/// A pre-norm decoder block, cut where the attention reads other positions.
pub(crate) trait Block {
    /// Queries `[B, H, T, D]`, keys and values `[B, H', T, D]` of `x: [B, T, C]`.
    fn project(
        &self,
        x: &Tensor,
        rotary: Option<&(Tensor, Tensor)>,
    ) -> Result<(Tensor, Tensor, Tensor)>;

    /// The block's output `[B, T, C]` for its input `x: [B, T, C]` and what the
    /// heads read, `[B, T, H * D]`.
    fn mix(&self, x: &Tensor, read: &Tensor) -> Result<Tensor>;

    /// The block as the kernels of [`crate::cpu`] see it, if they can read its weights.
    fn layer(&self) -> Option<cpu::Layer<'_>>;
}

/// All blocks as the kernels of [`crate::cpu`] see them, if they can.
fn layers<B: Block>(blocks: &[B]) -> Option<Vec<cpu::Layer<'_>>> {
    blocks.iter().map(Block::layer).collect()
}

/// A cache for passes through `blocks`.
pub(crate) fn cache<B: Block>(
    blocks: &[B],
    shape: CacheShape,
    dtype: DType,
    device: &Device,
) -> Result<KvCache> {
    match layers(blocks) {
        Some(_) if device.is_cpu() => Ok(KvCache::on_host(shape, dtype)),
        _ => KvCache::new(shape, dtype, device),
    }
}

/// Which positions see which, and which of them are wanted in the end.
pub(crate) struct Pass<'a> {
    /// Keys and values of earlier positions; takes those of this pass.
    pub(crate) cache: Option<&'a mut KvCache>,
    /// Condition positions that only they themselves see; empty: none.
    pub(crate) hidden: Vec<Vec<bool>>,
    /// The first so many positions see each other.
    pub(crate) unmasked: usize,
    /// Cosine and sine, `[T, D / 2]`, for models with rotary positions.
    pub(crate) rotary: Option<(Tensor, Tensor)>,
    /// One position a sequence that the result is wanted of; none: all.
    pub(crate) wanted: Option<Vec<usize>>,
}

impl Pass<'_> {
    /// Runs `x: [B, T, C]` through the blocks. Result `[B, T, C]`, or `[B, 1, C]` of the
    /// positions wanted.
    pub(crate) fn run<B: Block>(self, blocks: &[B], x: &Tensor) -> Result<Tensor> {
        let readable = cpu::reads(x) && x.elem_count() > 0;
        let fitting = self.cache.as_ref().is_none_or(|cache| cache.is_on_host());
        match layers(blocks) {
            Some(layers) if readable && fitting => self.by_kernels(layers, x),
            _ => self.visit(blocks, x, |_| ()),
        }
    }

    /// [`Self::run`] by the kernels of [`crate::cpu`].
    fn by_kernels(mut self, layers: Vec<cpu::Layer>, x: &Tensor) -> Result<Tensor> {
        let (batch, len, _) = x.dims3()?;
        let mut memory = None;
        if let Some(cache) = &mut self.cache {
            cache.reserve(batch, len)?;
            memory = cache.host_memory();
        }
        let rotary = match &self.rotary {
            Some((cosine, sine)) => Some((cpu::Numbers::of(cosine)?, cpu::Numbers::of(sine)?)),
            None => None,
        };
        let sight = cpu::Sight {
            past: self.cache.as_ref().map_or(0, |cache| cache.len()),
            len,
            unmasked: self.unmasked,
            hidden: self.hidden(),
        };
        let pass = cpu::Pass { layers, sight, rotary, wanted: self.wanted.as_deref(), memory };
        let out = pass.run(x)?.to_dtype(x.dtype())?;
        drop(pass);
        if let Some(cache) = self.cache.as_mut() {
            cache.advance(len);
        }
        Ok(out)
    }

    /// Condition positions that only they themselves see.
    fn hidden(&self) -> &[Vec<bool>] {
        match &self.cache {
            Some(cache) if !cache.hidden().is_empty() => cache.hidden(),
            _ => &self.hidden,
        }
    }

    /// [`Self::run`] by candle's ops, telling `visit` each block's output.
    pub(crate) fn visit<B: Block>(
        mut self,
        blocks: &[B],
        x: &Tensor,
        mut visit: impl FnMut(&Tensor),
    ) -> Result<Tensor> {
        let (batch, len, _) = x.dims3()?;
        if let Some(cache) = &self.cache {
            if cache.is_on_host() {
                return Err(Error::Request("a cache that another model made".to_owned()));
            }
            cache.reserve(batch, len)?;
        }
        let rows: Vec<_> = (0..len).collect();
        let all_rows = vec![rows; batch];
        let mask = self.mask(&all_rows, len, x.device())?;
        let mut x = x.clone();
        for (layer, block) in blocks.iter().enumerate() {
            let (mut queries, mut keys, mut values) = block.project(&x, self.rotary.as_ref())?;
            if let Some(cache) = &self.cache {
                (keys, values) = cache.append(layer, &keys, &values)?;
            } else {
                (keys, values) = (keys.contiguous()?, values.contiguous()?);
            }
            let read = match &self.wanted {
                // After the last block's keys and values, only the wanted positions matter.
                Some(wanted) if layer + 1 == blocks.len() => {
                    let rows: Vec<_> = wanted.iter().map(|&row| vec![row]).collect();
                    queries = pick(&queries, 2, wanted)?;
                    x = pick(&x, 1, wanted)?;
                    let mask = self.mask(&rows, len, x.device())?;
                    attention::attend(&queries, &keys, &values, mask.as_ref())?
                }
                _ => attention::attend(&queries, &keys, &values, mask.as_ref())?,
            };
            x = block.mix(&x, &read)?;
            visit(&x);
        }
        if let Some(cache) = self.cache.as_mut() {
            cache.advance(len);
        }
        Ok(x)
    }

    /// The mask for queries at `rows[b]` of `len` new positions, or none if every
    /// query sees every key.
    fn mask(&self, rows: &[Vec<usize>], len: usize, device: &Device) -> Result<Option<Tensor>> {
        let past = self.cache.as_ref().map_or(0, |cache| cache.len());
        let hidden = self.hidden();
        let hides = |b: usize, k: usize| {
            hidden.get(b).and_then(|sample| sample.get(k)).copied().unwrap_or(false)
        };
        let sees = |query: usize, key: usize| {
            key <= query || (query < self.unmasked && key < self.unmasked)
        };
        let alike = hidden.is_empty() && rows.windows(2).all(|pair| pair[0] == pair[1]);
        let batch = if alike { rows.len().min(1) } else { rows.len() };
        let queries = rows.first().map_or(0, Vec::len);
        let keys = past + len;
        let last_of_all = queries == 1 && rows.iter().all(|rows| past + rows[0] + 1 == keys);
        if hidden.is_empty() && last_of_all {
            return Ok(None);
        }
        Ok(Some(attention::mask((batch, queries, keys), device, |b, q, key| {
            let query = past + rows[b][q];
            key == query || (sees(query, key) && !hides(b, key))
        })?))
    }
}

/// Row `rows[b]` of dimension `dim` of sample b, as a dimension of one.
fn pick(x: &Tensor, dim: usize, rows: &[usize]) -> Result<Tensor> {
    if let Some(&row) = rows.first()
        && rows.iter().all(|&other| other == row)
    {
        return Ok(x.narrow(dim, row, 1)?.contiguous()?);
    }
    let picked = rows
        .iter()
        .enumerate()
        .map(|(b, &row)| x.narrow(0, b, 1)?.narrow(dim, row, 1))
        .collect::<candle_core::Result<Vec<_>>>()?;
    Ok(Tensor::cat(&picked, 0)?)
}
