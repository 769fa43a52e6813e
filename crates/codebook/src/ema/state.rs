//! The moving averages behind a codebook.

use candle_core::{DType, Tensor};

use crate::feature_map::precise;
use crate::{Result, Revival};

/// A codebook and the averages that it is made of.
///
/// `codebook = embed_avg / smoothed`, where `smoothed` is `cluster_size` after
/// Laplace smoothing; see [`EmaQuantizer::update`](crate::EmaQuantizer::update).
#[derive(Clone, Debug)]
pub struct EmaState {
    /// The rows, `[K, D]`.
    pub codebook: Tensor,
    /// The moving average of how many vectors a code got, `[K]`.
    pub cluster_size: Tensor,
    /// The moving average of the sum of these vectors, `[K, D]`.
    pub embed_avg: Tensor,
}

impl EmaState {
    /// The state in which every row of `codebook` `[K, D]` has had one vector.
    pub fn from_codebook(codebook: &Tensor, eps: f64) -> Result<Self> {
        let codebook = codebook.detach();
        let cluster_size = Tensor::ones(codebook.dim(0)?, codebook.dtype(), codebook.device())?;
        let embed_avg = codebook.broadcast_mul(&smoothed(&cluster_size, eps)?.unsqueeze(1)?)?;
        Ok(Self { codebook, cluster_size, embed_avg })
    }

    /// Codebook, cluster sizes, averages.
    pub fn tensors(&self) -> [&Tensor; 3] {
        [&self.codebook, &self.cluster_size, &self.embed_avg]
    }

    /// The state after `vectors` `[N, D]` got `codes` `[N]`.
    pub(super) fn updated(
        &self,
        vectors: &Tensor,
        codes: &Tensor,
        decay: f64,
        eps: f64,
    ) -> Result<Self> {
        let dtype = self.codebook.dtype();
        let (cluster_size, embed_avg) =
            (precise(&self.cluster_size.detach())?, precise(&self.embed_avg.detach())?);
        let vectors = vectors.to_dtype(embed_avg.dtype())?;
        let (sums, counts) = sums_and_counts(&vectors, codes, cluster_size.dim(0)?)?;
        let average = |old: &Tensor, new: Tensor| (old * decay)? + (new * (1.0 - decay))?;
        let cluster_size = average(&cluster_size, counts)?;
        let embed_avg = average(&embed_avg, sums)?;
        let codebook = embed_avg.broadcast_div(&smoothed(&cluster_size, eps)?.unsqueeze(1)?)?;
        Ok(Self { codebook, cluster_size, embed_avg }.to_dtype(dtype)?)
    }

    /// The state in which the revived rows are what `revival` says, as the
    /// average of one vector each: old averages would pull them back.
    ///
    /// `eps` is the quantizer's.
    pub fn revived(&self, revival: &Revival, eps: f64) -> Result<Self> {
        let dtype = self.codebook.dtype();
        let values = revival.values().to_dtype(dtype)?;
        let ones = Tensor::ones(revival.rows().len(), dtype, self.codebook.device())?;
        let codebook = revival.replace_in(&self.codebook, &values)?;
        let cluster_size = revival.replace_in(&self.cluster_size, &ones)?;
        let scale = revival.select(&smoothed(&precise(&cluster_size)?, eps)?.to_dtype(dtype)?)?;
        let embed_avg =
            revival.replace_in(&self.embed_avg, &values.broadcast_mul(&scale.unsqueeze(1)?)?)?;
        Ok(Self { codebook, cluster_size, embed_avg })
    }

    fn to_dtype(&self, dtype: DType) -> candle_core::Result<Self> {
        Ok(Self {
            codebook: self.codebook.to_dtype(dtype)?,
            cluster_size: self.cluster_size.to_dtype(dtype)?,
            embed_avg: self.embed_avg.to_dtype(dtype)?,
        })
    }
}

/// The sums `[K, D]` and counts `[K]` of the `vectors` `[N, D]` of each of `len` `codes`
/// `[N]`, the same in every run.
fn sums_and_counts(
    vectors: &Tensor,
    codes: &Tensor,
    len: usize,
) -> candle_core::Result<(Tensor, Tensor)> {
    #[cfg(feature = "cuda")]
    if vectors.device().is_cuda() && vectors.dtype() == DType::F32 {
        return crate::cuda::sums_and_counts(vectors, codes, len);
    }
    let (dtype, device) = (vectors.dtype(), vectors.device());
    let ones = Tensor::ones(codes.shape(), dtype, device)?;
    let counts = Tensor::zeros(len, dtype, device)?.index_add(codes, &ones, 0)?;
    let sums = Tensor::zeros((len, vectors.dim(1)?), dtype, device)?;
    Ok((sums.index_add(codes, vectors, 0)?, counts))
}

/// `(c + eps) / (n + K eps) * n` with `n` the sum of `cluster_size` `[K]`.
fn smoothed(cluster_size: &Tensor, eps: f64) -> candle_core::Result<Tensor> {
    let total = cluster_size.sum_all()?;
    let scale = (&total / (&total + cluster_size.elem_count() as f64 * eps)?)?;
    (cluster_size + eps)?.broadcast_mul(&scale)
}
