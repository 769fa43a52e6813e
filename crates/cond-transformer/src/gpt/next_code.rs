//! The minGPT-style model as a [`NextCode`].

use candle_core::{DType, Device, Tensor};
use candle_nn::Module;

use super::Gpt;
#[cfg(feature = "cuda")]
use super::block::Block;
use crate::condition::check_tokens;
use crate::decoder;
use crate::{CacheShape, Conditions, Error, KvCache, NextCode, Result};

impl Gpt {
    /// Runs embedded tokens `x: [B, T, C]` behind those of the cache.
    ///
    /// While fewer positions than `n_unmasked` are known, each new one changes how
    /// the earlier ones are seen: then all are computed anew.
    fn extend(&self, x: &Tensor, cache: &mut KvCache) -> Result<Tensor> {
        let x = match cache.replay() {
            Some(before) => Tensor::cat(&[before, x], 1)?,
            None => x.clone(),
        };
        if cache.replay().is_some() {
            cache.clear();
        }
        let (len, start) = (x.dim(1)?, cache.len());
        let placed = self.place(&x, start)?;
        let pass = self.pass(Some(&mut *cache), Some(vec![len - 1; x.dim(0)?]));
        let out = pass.run(&self.blocks, &placed)?;
        if start + len < self.config.n_unmasked {
            cache.set_replay(Some(x));
        }
        self.next_logits(&out)
    }
}

impl NextCode for Gpt {
    fn vocabulary(&self) -> usize {
        self.config.vocab_size
    }

    fn context(&self) -> usize {
        self.config.block_size
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn cache(&self, batch: usize, positions: usize) -> Result<KvCache> {
        let shape = CacheShape {
            layers: self.config.n_layer,
            batch,
            heads: self.config.n_head,
            positions: positions.min(self.config.block_size),
            head_dim: self.config.n_embd / self.config.n_head,
        };
        decoder::cache(&self.blocks, shape, self.pos_emb.dtype(), &self.device)
    }

    fn prefill(
        &self,
        conditions: &Conditions,
        codes: Option<&Tensor>,
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        let tokens = self.sequence(conditions, codes)?;
        if tokens.elem_count() == 0 {
            return Err(Error::Request("an empty prefix; give a start token".to_owned()));
        }
        cache.clear();
        self.extend(&self.tok_emb.forward(&tokens)?, cache)
    }

    fn step(&self, codes: &Tensor, cache: &mut KvCache) -> Result<Tensor> {
        check_tokens("code", codes, self.config.vocab_size)?;
        if codes.elem_count() == 0 {
            return Err(Error::Request("a step of no codes".to_owned()));
        }
        self.extend(&self.tok_emb.forward(codes)?, cache)
    }

    fn logits_after(
        &self,
        conditions: &Conditions,
        codes: &Tensor,
        known: &[usize],
    ) -> Result<Tensor> {
        let tokens = self.sequence(conditions, Some(codes))?;
        let front = conditions.positions()?;
        let (batch, len) = tokens.dims2()?;
        if known.len() != batch || known.iter().any(|&known| !(1..=len).contains(&(front + known)))
        {
            return Err(Error::Request(format!(
                "codes known {known:?} in {batch} sequences of {} codes",
                len - front
            )));
        }
        let one = |tokens: &Tensor, last: Vec<usize>| -> Result<Tensor> {
            let x = self.place(&self.tok_emb.forward(tokens)?, 0)?;
            self.next_logits(&self.pass(None, Some(last)).run(&self.blocks, &x)?)
        };
        let last: Vec<_> = known.iter().map(|known| front + known - 1).collect();
        if last.iter().all(|&last| last + 1 >= self.config.n_unmasked) {
            return one(&tokens, last);
        }
        // Positions that see later ones must not see codes that are not known yet.
        let rows = last
            .iter()
            .enumerate()
            .map(|(b, &last)| one(&tokens.narrow(0, b, 1)?.narrow(1, 0, last + 1)?, vec![last]))
            .collect::<Result<Vec<_>>>()?;
        Ok(Tensor::cat(&rows, 0)?)
    }

    fn logits_of_all(&self, conditions: &Conditions, codes: &Tensor) -> Result<Tensor> {
        let front = conditions.positions()?;
        let (batch, length) = codes.dims2()?;
        if front == 0 || length == 0 {
            return Err(Error::Request("codes to score need something in front".to_owned()));
        }
        if self.config.n_unmasked > front {
            // Earlier positions see later ones: each code needs a pass of its own.
            let each = (0..length)
                .map(|known| self.logits_after(conditions, codes, &vec![known; batch]))
                .collect::<Result<Vec<_>>>()?;
            return Ok(Tensor::stack(&each, 1)?);
        }
        let tokens = self.sequence(conditions, Some(codes))?;
        let read = tokens.narrow(1, 0, front + length - 1)?.contiguous()?;
        let x = self.place(&self.tok_emb.forward(&read)?, 0)?;
        let x = self.pass(None, None).run(&self.blocks, &x)?;
        Ok(self.logits(&x.narrow(1, front - 1, length)?)?.to_dtype(DType::F32)?)
    }

    #[cfg(feature = "cuda")]
    fn draw(
        &self,
        draw: &mut crate::Draw<'_>,
        cache: &mut KvCache,
    ) -> Result<Option<Vec<Vec<u32>>>> {
        let layers = self.blocks.iter().map(Block::on_device).collect::<Option<_>>();
        let (Some(layers), Some(head)) = (layers, self.head.on_device()) else { return Ok(None) };
        let model = crate::cuda::Model {
            table: self.tok_emb.embeddings(),
            places: Some(&self.pos_emb),
            rotary: None,
            layers,
            norm: self.ln_f.on_device(),
            head: head.weight,
        };
        crate::cuda::draw(&model, cache, draw)
    }
}
