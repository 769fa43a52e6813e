//! The last linear layer with soft-max and cross entropy, without all logits at once.

use candle_core::{DType, Device, Result, Tensor, Var};
use rayon::prelude::*;

use super::Linear;
use crate::cpu;
use crate::elementary::exp;
use crate::isa::Isa;
use crate::matrix::{Start, product};
use crate::reduce::sum;
use crate::vector::{self, Kernel, Vector};
use crate::wide::wide;

/// Logits at a time: a few megabytes, which stay in the cache or nearly.
const LOGITS: usize = 1 << 20;
/// Fewest rows at a time, for the product's sake.
const LEAST_ROWS: usize = 64;

/// What [`classify`] found.
#[derive(Debug)]
pub struct Classified {
    /// The mean negative log-likelihood of the targets, in nats: a scalar, f64, on the
    /// device, which is not waited for.
    pub nll: Tensor,
    /// Its gradients to input `[R, C]` and weight `[V, C]`, where asked for.
    pub gradients: Option<(Tensor, Tensor)>,
}

/// The mean negative log-likelihood of `targets` (R of them) under the soft-max of
/// `x W^T`, for `x` `[R, C]` and the weight `[V, C]` of `head`, which has no bias, and its
/// gradients if `learns`.
///
/// # Errors
/// When the shapes do not fit, a target is none of the V, or there is a bias.
pub fn classify(x: &Tensor, head: &Linear, targets: &[u32], learns: bool) -> Result<Classified> {
    let Linear { weight, bias: None, factors } = head else {
        candle_core::bail!("classify: a head with a bias")
    };
    let factors = *factors;
    let (rows, width) = x.dims2()?;
    let (classes, inputs) = weight.dims2()?;
    if inputs != width || targets.len() != rows || rows == 0 {
        candle_core::bail!(
            "classify: {} targets for {:?} and {:?}",
            targets.len(),
            x.shape(),
            weight.shape()
        )
    }
    if let Some(target) = targets.iter().find(|&&target| target as usize >= classes) {
        candle_core::bail!("classify: target {target} of {classes} classes")
    }
    #[cfg(feature = "cuda")]
    if crate::cuda::supports(&[x, weight]) {
        return on_gpu(&x.detach(), &weight.detach(), targets, learns);
    }
    if !cpu::supports(x) || !cpu::supports(weight) {
        return formula(x, weight, targets, learns);
    }
    let chunk = (LOGITS / classes).max(LEAST_ROWS);
    // Chunks that are about alike: a product of few rows is slow.
    let chunk = rows.div_ceil(rows.div_ceil(chunk));
    let (total, dx, dw) = cpu::with_slices([x, weight], |[x, weight]| {
        let share = 1.0 / rows as f32;
        let (mut logits, mut part) = (Vec::new(), Vec::new());
        let (mut dx, mut dw) = (Vec::new(), Vec::new());
        let mut total = 0.0;
        for (i, x) in x.chunks(chunk * width).enumerate() {
            let count = x.len() / width;
            let targets = &targets[i * chunk..][..count];
            let sizes = (count, classes, width);
            product(factors, sizes, &mut logits, Start::ZERO, (x, width, 1), (weight, 1, width));
            total += surprise(&mut logits, targets, classes, learns.then_some(share));
            if learns {
                let sizes = (count, width, classes);
                product(
                    factors,
                    sizes,
                    &mut part,
                    Start::ZERO,
                    (&logits, classes, 1),
                    (weight, width, 1),
                );
                dx.extend_from_slice(&part);
                let start = if i > 0 { Start::Target } else { Start::ZERO };
                let sizes = (classes, width, count);
                product(factors, sizes, &mut dw, start, (&logits, 1, classes), (x, width, 1));
            }
        }
        (total, dx, dw)
    })?;
    let gradients = if learns {
        let dx = Tensor::from_vec(dx, (rows, width), x.device())?;
        Some((dx, Tensor::from_vec(dw, (classes, width), x.device())?))
    } else {
        None
    };
    Ok(Classified { nll: Tensor::new(total / rows as f64, x.device())?, gradients })
}

/// The same on an NVIDIA GPU.
#[cfg(feature = "cuda")]
fn on_gpu(x: &Tensor, weight: &Tensor, targets: &[u32], learns: bool) -> Result<Classified> {
    /// Logits at a time: few enough for memory, enough to keep the device busy.
    const LOGITS: usize = 1 << 26;
    let (rows, classes) = (x.dim(0)?, weight.dim(0)?);
    let targets = Tensor::new(targets, x.device())?;
    let chunk = (LOGITS / classes).max(LEAST_ROWS);
    let (mut nll, mut dx, mut dw) = (Vec::new(), Vec::new(), None);
    for first in (0..rows).step_by(chunk) {
        let count = chunk.min(rows - first);
        let x = x.narrow(0, first, count)?.contiguous()?;
        let logits = x.matmul(&weight.t()?)?;
        let share = learns.then_some(1.0 / rows as f32);
        let targets = targets.narrow(0, first, count)?;
        let (own, gradients) = super::scores::surprise(&logits, &targets, share)?;
        drop(logits);
        nll.push(own);
        if let Some(gradients) = gradients {
            dx.push(gradients.matmul(weight)?);
            let own = gradients.t()?.matmul(&x)?;
            dw = Some(crate::tape::sum(own, dw.as_ref())?);
        }
    }
    let nll = Tensor::cat(&nll, 0)?.to_dtype(DType::F64)?.mean_all()?;
    let gradients = dw.map(|dw| -> Result<_> { Ok((Tensor::cat(&dx, 0)?, dw)) }).transpose()?;
    Ok(Classified { nll, gradients })
}

/// The same by the formula, with candle's gradients; of half precision in f32 from the
/// logits on.
fn formula(x: &Tensor, weight: &Tensor, targets: &[u32], learns: bool) -> Result<Classified> {
    let (x, weight) = (Var::from_tensor(&x.detach())?, Var::from_tensor(&weight.detach())?);
    let logits = wide(&x.matmul(&weight.t()?)?)?;
    let targets = Tensor::new(targets, &Device::Cpu)?.to_device(x.device())?;
    let loss = candle_nn::loss::cross_entropy(&logits, &targets)?;
    let nll = loss.detach().to_dtype(DType::F64)?;
    let gradients = if learns {
        let mut store = loss.backward()?;
        let (dx, dw) = (store.remove(x.as_tensor()), store.remove(weight.as_tensor()));
        dx.zip(dw).map(|(dx, dw)| (dx.detach(), dw.detach()))
    } else {
        None
    };
    Ok(Classified { nll, gradients })
}

/// The negative log-likelihoods of `targets`, added up; with a `share`, rows of logits
/// become those of the gradient, times it.
fn surprise(logits: &mut [f32], targets: &[u32], classes: usize, share: Option<f32>) -> f64 {
    let isa = Isa::detect();
    let rows: Vec<f64> = logits
        .par_chunks_exact_mut(classes)
        .zip(targets)
        .map(|(row, &target)| {
            let mut nll = 0.0;
            vector::run(isa, Row { row, target: target as usize, share, nll: &mut nll });
            nll
        })
        .collect();
    rows.iter().sum()
}

struct Row<'a> {
    row: &'a mut [f32],
    target: usize,
    share: Option<f32>,
    nll: &'a mut f64,
}

impl Kernel for Row<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let mut most = [f32::NEG_INFINITY; 16];
        for chunk in self.row.chunks(16) {
            for (most, &logit) in most.iter_mut().zip(chunk) {
                *most = if logit > *most { logit } else { *most };
            }
        }
        let most = most.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
        let logit = self.row[self.target];
        for value in self.row.iter_mut() {
            *value = exp(*value - most);
        }
        let total = sum(self.row);
        *self.nll = total.ln() + f64::from(most) - f64::from(logit);
        if let Some(share) = self.share {
            let scale = (f64::from(share) / total) as f32;
            for value in self.row.iter_mut() {
                *value *= scale;
            }
            self.row[self.target] -= share;
        }
    }
}
