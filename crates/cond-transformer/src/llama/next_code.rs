//! The LlamaGen-style model as a [`NextCode`].

use candle_core::{DType, Device, Tensor};
use candle_nn::Module;

use super::Llama;
#[cfg(feature = "cuda")]
use super::block::Block;
use crate::condition::check_tokens;
use crate::decoder;
use crate::{CacheShape, Conditions, Error, KvCache, NextCode, Result};

impl NextCode for Llama {
    fn vocabulary(&self) -> usize {
        self.config.vocab_size
    }

    fn context(&self) -> usize {
        self.config.prefix_positions() + self.config.block_size
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn cache(&self, batch: usize, positions: usize) -> Result<KvCache> {
        let shape = CacheShape {
            layers: self.config.n_layer,
            batch,
            heads: self.config.kv_heads(),
            positions: positions.min(self.context()),
            head_dim: self.config.head_dim(),
        };
        let dtype = self.tok_embeddings.embeddings().dtype();
        decoder::cache(&self.layers, shape, dtype, &self.device)
    }

    fn prefill(
        &self,
        conditions: &Conditions,
        codes: Option<&Tensor>,
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        let (x, hidden) = self.embed(conditions, codes)?;
        let (batch, len, _) = x.dims3()?;
        cache.clear();
        cache.hide(hidden);
        let last = Some(vec![len - 1; batch]);
        let pass = self.pass(Some(cache), Vec::new(), (0, len), last)?;
        self.next_logits(&pass.run(&self.layers, &x)?)
    }

    fn step(&self, codes: &Tensor, cache: &mut KvCache) -> Result<Tensor> {
        check_tokens("code", codes, self.config.vocab_size)?;
        let x = self.tok_embeddings.forward(codes)?;
        let (batch, len, _) = x.dims3()?;
        if len == 0 {
            return Err(Error::Request("a step of no codes".to_owned()));
        }
        let start = cache.len();
        let last = Some(vec![len - 1; batch]);
        let pass = self.pass(Some(cache), Vec::new(), (start, len), last)?;
        self.next_logits(&pass.run(&self.layers, &x)?)
    }

    fn logits_after(
        &self,
        conditions: &Conditions,
        codes: &Tensor,
        known: &[usize],
    ) -> Result<Tensor> {
        let (x, hidden) = self.embed(conditions, Some(codes))?;
        let (batch, len, _) = x.dims3()?;
        let front = self.config.prefix_positions();
        if known.len() != batch || known.iter().any(|known| front + known > len) {
            return Err(Error::Request(format!(
                "codes known {known:?} in {batch} sequences of {} codes",
                len - front
            )));
        }
        let last = known.iter().map(|known| front + known - 1).collect();
        let pass = self.pass(None, hidden, (0, len), Some(last))?;
        self.next_logits(&pass.run(&self.layers, &x)?)
    }

    fn logits_of_all(&self, conditions: &Conditions, codes: &Tensor) -> Result<Tensor> {
        let length = codes.dim(1)?;
        if length < 2 {
            return Ok(self
                .logits_after(conditions, codes, &vec![0; codes.dim(0)?])?
                .unsqueeze(1)?);
        }
        let read = codes.narrow(1, 0, length - 1)?.contiguous()?;
        Ok(self.forward(conditions, &read)?.to_dtype(DType::F32)?)
    }

    #[cfg(feature = "cuda")]
    fn draw(
        &self,
        draw: &mut crate::Draw<'_>,
        cache: &mut KvCache,
    ) -> Result<Option<Vec<Vec<u32>>>> {
        let layers = self.layers.iter().map(Block::on_device).collect::<Option<_>>();
        let (Some(layers), Some(head)) = (layers, self.output.on_device()) else {
            return Ok(None);
        };
        let (cosine, sine) = &self.rotary;
        let model = crate::cuda::Model {
            table: self.tok_embeddings.embeddings(),
            places: None,
            rotary: Some((cosine, sine)),
            layers,
            norm: self.norm.on_device(),
            head: head.weight,
        };
        crate::cuda::draw(&model, cache, draw)
    }
}
