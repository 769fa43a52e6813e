//! Batch norm (Ioffe & Szegedy 2015) that trains, with its statistics in variables.

use candle_core::{DType, Result, Tensor, Var};
use candle_nn::{Init, ModuleT, VarBuilder};
use layers::{BatchNormLeaky, Tape, leaky_relu};

use crate::dual::Dual;

/// PyTorch's epsilon, added to the variance.
const EPS: f64 = 1e-5;
/// Share of the new batch in the running statistics.
const MOMENTUM: f64 = 0.1;

/// Batch norm over `[B, C, H, W]`, statistics per channel.
///
/// Keys: `weight`, `bias`, `running_mean`, `running_var` (all `[C]`) and
/// `num_batches_tracked` (scalar, i64).
#[derive(Clone, Debug)]
pub struct BatchNorm {
    weight: Tensor,
    bias: Tensor,
    running_mean: Var,
    running_var: Var,
    num_batches_tracked: Var,
}

impl BatchNorm {
    /// A batch norm of `channels` channels; a fresh one starts as in the
    /// reference's `weights_init`: weight N(1, 0.02), bias 0.
    ///
    /// # Errors
    /// When `vb` lacks a key or holds it in another shape.
    pub fn new(channels: usize, vb: VarBuilder) -> Result<Self> {
        let buffer = |name, value| -> Result<Var> {
            Var::from_tensor(&vb.get_with_hints(channels, name, Init::Const(value))?)
        };
        let count =
            vb.get_with_hints_dtype((), "num_batches_tracked", Init::Const(0.0), DType::I64)?;
        Ok(Self {
            weight: vb.get_with_hints(
                channels,
                "weight",
                Init::Randn { mean: 1.0, stdev: 0.02 },
            )?,
            bias: vb.get_with_hints(channels, "bias", Init::Const(0.0))?,
            running_mean: buffer("running_mean", 0.0)?,
            running_var: buffer("running_var", 1.0)?,
            num_batches_tracked: Var::from_tensor(&count)?,
        })
    }

    /// `[B, C, N]` by the statistics of this batch, which also move the running ones.
    fn by_batch(&self, x: &Tensor) -> Result<Tensor> {
        let (b, _, n) = x.dims3()?;
        let count = b * n;
        if count < 2 {
            candle_core::bail!(
                "batch_norm: training needs at least 2 values a channel, got {count} (larger images or batches)"
            )
        }
        // All rows have the same length: the mean of their means is the mean. Two
        // passes, because E[x²] - E[x]² loses the variance of features far from 0.
        let mean = x.mean(2)?.mean(0)?;
        let centred = x.sub(&spread(&mean, x)?)?;
        let var = centred.sqr()?.mean(2)?.mean(0)?;
        let unbiased = (var.detach() * (count as f64 / (count - 1) as f64))?;
        self.learn(&mean.detach(), &unbiased)?;
        self.affine(&centred, &var)
    }

    /// Moves the running statistics towards a batch's.
    fn learn(&self, mean: &Tensor, unbiased_variance: &Tensor) -> Result<()> {
        follow(&self.running_mean, mean)?;
        follow(&self.running_var, unbiased_variance)?;
        let seen = self.num_batches_tracked.as_detached_tensor();
        self.num_batches_tracked.set(&(&seen + seen.ones_like()?)?)
    }

    /// The norm in training, then a leaky ReLU of `slope`, on a tape.
    ///
    /// # Errors
    /// As for the forward pass in training.
    pub fn forward_leaky_taped(&self, x: &Tensor, slope: f64, tape: &mut Tape) -> Result<Tensor> {
        let (weight, bias) = (self.weight.clone(), self.bias.clone());
        let norm = BatchNormLeaky { weight, bias, eps: EPS, slope };
        if !norm.supports(x) {
            return tape.record(x, |x| leaky_relu(&self.forward_t(x, true)?, slope));
        }
        let (y, statistics) = norm.forward_taped(x, tape)?;
        self.learn(&statistics.mean, &statistics.unbiased_variance)?;
        Ok(y)
    }

    /// `[B, C, N]` and its derivative by the statistics of this batch, from which nothing
    /// is learnt.
    pub(crate) fn dual(&self, x: &Dual) -> Result<Dual> {
        let mean = |x: &Tensor| x.mean_keepdim(2)?.mean_keepdim(0)?.broadcast_as(x.shape());
        x.standardise(EPS, mean)?.affine(&self.weight, &self.bias)
    }

    /// `[B, C, N]` by the running statistics.
    fn by_running(&self, x: &Tensor) -> Result<Tensor> {
        let mean = self.running_mean.as_detached_tensor().to_dtype(x.dtype())?;
        let var = self.running_var.as_detached_tensor().to_dtype(x.dtype())?;
        self.affine(&x.sub(&spread(&mean, x)?)?, &var)
    }

    /// `centred / sqrt(var + eps) * weight + bias`.
    fn affine(&self, centred: &Tensor, var: &Tensor) -> Result<Tensor> {
        let scale = self.weight.to_dtype(var.dtype())?.div(&(var + EPS)?.sqrt()?)?;
        let bias = self.bias.to_dtype(var.dtype())?;
        centred.mul(&spread(&scale, centred)?)?.add(&spread(&bias, centred)?)
    }
}

impl ModuleT for BatchNorm {
    /// `[B, C, H, W]` to the same shape; f16 and bf16 are computed in f32.
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let (_, c, _, _) = x.dims4()?;
        if c != self.weight.dim(0)? {
            candle_core::bail!(
                "batch_norm: {:?} does not have {} channels",
                x.shape(),
                self.weight.dim(0)?
            )
        }
        let dtype = if x.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let flat = x.flatten_from(2)?.to_dtype(dtype)?;
        let y = if train { self.by_batch(&flat)? } else { self.by_running(&flat)? };
        y.to_dtype(x.dtype())?.reshape(x.shape())
    }
}

/// `C` values to the shape `[B, C, N]` of `like`, in two steps: the backward pass then
/// sums rows first, which candle does far faster than several dimensions at once.
pub(crate) fn spread(values: &Tensor, like: &Tensor) -> Result<Tensor> {
    let (b, c, n) = like.dims3()?;
    values.reshape((1, c, 1))?.broadcast_as((b, c, 1))?.broadcast_as((b, c, n))
}

/// Moves a running statistic towards the batch's by [`MOMENTUM`].
fn follow(running: &Var, batch: &Tensor) -> Result<()> {
    let batch = batch.to_dtype(running.dtype())?;
    let old = running.as_detached_tensor();
    running.set(&((old * (1.0 - MOMENTUM))? + (batch * MOMENTUM)?)?)
}

#[cfg(test)]
mod tests;
