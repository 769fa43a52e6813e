//! One code from the logits of one position.

use candle_core::{DType, Tensor};

use super::{Sampling, Stream, filter_logits};
use crate::{Error, NoCode, Result};

/// Draws codes: the sampling options, checked, and the codes never to be drawn.
#[derive(Clone, Debug)]
pub struct Chooser {
    sampling: Sampling,
    forbidden: Vec<bool>,
}

impl Chooser {
    /// `forbidden` codes are treated as impossible before anything else happens:
    /// codes beyond the codebook where the vocabulary is larger, for example.
    ///
    /// # Errors
    /// If an option means nothing.
    pub fn new(sampling: &Sampling, forbidden: impl IntoIterator<Item = u32>) -> Result<Self> {
        sampling.validate()?;
        let mut flags = Vec::new();
        for code in forbidden {
            let code = code as usize;
            if code >= crate::gpt::limits::VOCABULARY {
                return Err(Error::Sampling(format!("forbidden code {code} is in no vocabulary")));
            }
            if code >= flags.len() {
                flags.resize(code + 1, false);
            }
            flags[code] = true;
        }
        Ok(Self { sampling: sampling.clone(), forbidden: flags })
    }

    /// The options.
    pub fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    /// Whether `code` may never be drawn.
    pub fn forbids(&self, code: u32) -> bool {
        self.forbidden.get(code as usize).copied().unwrap_or(false)
    }

    /// The code for the number `uniform` in `[0, 1)`: the inverse of the summed
    /// probabilities in the order of codes. `logits` is left filtered.
    ///
    /// # Errors
    /// If a logit is NaN or plus infinity or no code is left.
    pub fn choose(&self, logits: &mut [f32], uniform: f64) -> std::result::Result<u32, NoCode> {
        if logits.iter().any(|logit| logit.is_nan() || *logit == f32::INFINITY) {
            return Err(NoCode::NotFinite);
        }
        for (logit, _) in logits.iter_mut().zip(&self.forbidden).filter(|(_, flag)| **flag) {
            *logit = f32::NEG_INFINITY;
        }
        let (best, largest) = logits
            .iter()
            .enumerate()
            .fold((0, f32::NEG_INFINITY), |best, (i, &x)| if x > best.1 { (i, x) } else { best });
        if largest == f32::NEG_INFINITY {
            return Err(NoCode::NothingLeft);
        }
        if self.sampling.greedy {
            return Ok(best as u32);
        }
        filter_logits(logits, &self.sampling);
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let possible = logits.iter().enumerate().filter(|(_, logit)| **logit > f32::NEG_INFINITY);
        let weights: Vec<(usize, f64)> =
            possible.map(|(code, logit)| (code, f64::from(logit - largest).exp())).collect();
        let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
        let mut left = uniform * total;
        let mut last = best;
        for (code, weight) in weights {
            if weight > 0.0 {
                if left < weight {
                    return Ok(code as u32);
                }
                left -= weight;
                last = code;
            }
        }
        // Rounding left a crumb behind the last possible code.
        Ok(last as u32)
    }

    /// One code a row of `logits: [B, V]` (f32), at one position of every sample.
    ///
    /// # Errors
    /// [`Error::NoNextCode`] naming the sample.
    pub fn choose_batch(
        &self,
        logits: &Tensor,
        streams: &[Stream],
        position: usize,
    ) -> Result<Vec<u32>> {
        let mut rows = logits.to_dtype(DType::F32)?.to_vec2::<f32>()?;
        if rows.len() != streams.len() {
            return Err(Error::Request(format!(
                "{} rows of logits for {} samples",
                rows.len(),
                streams.len()
            )));
        }
        let numbers = streams.iter().map(|stream| stream.uniform(position));
        rows.iter_mut()
            .zip(numbers)
            .enumerate()
            .map(|(sample, (logits, uniform))| {
                self.choose(logits, uniform).map_err(|what| Error::NoNextCode {
                    sample,
                    position,
                    what,
                })
            })
            .collect()
    }
}
