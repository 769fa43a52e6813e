//! Layer norm and RMS norm of rows.

use candle_core::{D, Result, Tensor};
use rayon::prelude::*;

use super::linear::add_blocks;
use crate::cpu;
use crate::isa::Isa;
use crate::reduce::{sum, sum_of};
use crate::shared_mut::SharedMut;
use crate::tape::Tape;
use crate::vector::{self, Kernel, Vector};
use crate::wide::wide;

/// Rows of a task.
const ROWS: usize = 32;

/// The parameters of a norm over the last dimension.
#[derive(Clone, Debug)]
pub struct RowNorm {
    /// `[C]`.
    pub weight: Tensor,
    /// `[C]` for layer norm, `(x - mean) / sqrt(variance + eps) * weight + bias`; none
    /// for RMS norm, `x / sqrt(mean(x^2) + eps) * weight`.
    pub bias: Option<Tensor>,
    /// Added to the variance.
    pub eps: f64,
}

impl RowNorm {
    /// The formula, in candle's graph; statistics of half precision in f32.
    fn formula(&self, x: &Tensor) -> Result<Tensor> {
        let dtype = x.dtype();
        let x = wide(x)?;
        let x = match self.bias {
            Some(_) => x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?,
            None => x,
        };
        let variance = x.sqr()?.mean_keepdim(D::Minus1)?;
        let y = x.broadcast_div(&(variance + self.eps)?.sqrt()?)?.to_dtype(dtype)?;
        let y = y.broadcast_mul(&self.weight)?;
        self.bias.as_ref().map_or(Ok(y.clone()), |bias| y.broadcast_add(bias))
    }
}

/// A norm of the rows of `x` `[.., C]` on a tape.
///
/// # Errors
/// When the shapes do not fit.
pub fn row_norm_taped(norm: &RowNorm, x: &Tensor, tape: &mut Tape) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    let parameters = [Some(&norm.weight), norm.bias.as_ref()];
    if parameters.into_iter().flatten().any(|parameter| parameter.dims() != [width]) {
        candle_core::bail!("row norm: {:?} for {:?}", norm.weight.shape(), x.shape())
    }
    #[cfg(feature = "cuda")]
    if crate::cuda::supports(&[x, &norm.weight, norm.bias.as_ref().unwrap_or(&norm.weight)]) {
        return on_gpu(norm, x, tape);
    }
    if !cpu::supports(x) || !cpu::supports(&norm.weight) || width == 0 {
        return tape.record(x, |x| norm.formula(x));
    }
    let eps = norm.eps;
    let centred = norm.bias.is_some();
    let tensors = [x, &norm.weight, norm.bias.as_ref().unwrap_or(&norm.weight)];
    let y = cpu::with_slices(tensors, |[x, weight, bias]| {
        let isa = Isa::detect();
        let mut y = Vec::with_capacity(x.len());
        let spare = SharedMut::new_spare(&mut y);
        x.par_chunks(ROWS * width).enumerate().for_each(|(block, x)| {
            let to = (spare, block * ROWS * width);
            let bias = centred.then_some(bias);
            vector::run(isa, Forward { x, weight, bias, eps, to });
        });
        // SAFETY: every row was written.
        unsafe { y.set_len(x.len()) };
        y
    })?;
    let y = Tensor::from_vec(y, x.shape(), x.device())?;

    let trains_weight = tape.wants(&norm.weight)?;
    let trains_bias = norm.bias.as_ref().map(|bias| tape.wants(bias)).transpose()?;
    let (norm, x) = (norm.clone(), x.detach());
    tape.push(move |dy, plus, gradients| {
        if dy.dims() != x.dims() || plus.is_some_and(|plus| plus.dims() != x.dims()) {
            candle_core::bail!("row norm: a gradient {:?} for {:?}", dy.shape(), x.shape())
        }
        let tensors = [&x, &norm.weight, dy, plus.unwrap_or(&x)];
        let (dx, dw, db) = cpu::with_slices(tensors, |[x, weight, dy, other]| {
            backward(width, centred, eps, [x, weight, dy], plus.map(|_| other))
        })?;
        if trains_weight {
            gradients.add(&norm.weight, Tensor::from_vec(dw, width, x.device())?)?;
        }
        if let Some(bias) = norm.bias.as_ref().filter(|_| trains_bias == Some(true)) {
            gradients.add(bias, Tensor::from_vec(db, width, x.device())?)?;
        }
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    });
    Ok(y)
}

/// The same on an NVIDIA GPU.
#[cfg(feature = "cuda")]
fn on_gpu(norm: &RowNorm, x: &Tensor, tape: &mut Tape) -> Result<Tensor> {
    let (x, weight) = (x.detach(), norm.weight.detach());
    let (y, stats) = super::cuda::row_norm(&x, &weight, norm.bias.as_ref(), norm.eps)?;
    let trains_weight = tape.wants(&norm.weight)?;
    let trains_bias = norm.bias.as_ref().map(|bias| tape.wants(bias)).transpose()?;
    let norm = norm.clone();
    tape.push(move |dy, plus, gradients| {
        if dy.dims() != x.dims() || plus.is_some_and(|plus| plus.dims() != x.dims()) {
            candle_core::bail!("row norm: a gradient {:?} for {:?}", dy.shape(), x.shape())
        }
        let centred = norm.bias.is_some();
        let [dx, dw, db] = super::cuda::row_norm_back([&x, &weight, &stats], centred, dy, plus)?;
        if trains_weight {
            gradients.add(&norm.weight, dw)?;
        }
        if let Some(bias) = norm.bias.as_ref().filter(|_| trains_bias == Some(true)) {
            gradients.add(bias, db)?;
        }
        Ok(Some(dx))
    });
    Ok(y)
}

/// The gradients to input, weight and bias.
fn backward(
    width: usize,
    centred: bool,
    eps: f64,
    [x, weight, dy]: [&[f32]; 3],
    plus: Option<&[f32]>,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let isa = Isa::detect();
    let mut dx = Vec::with_capacity(x.len());
    let spare = SharedMut::new_spare(&mut dx);
    let blocks: Vec<(Vec<f32>, Vec<f32>)> = x
        .par_chunks(ROWS * width)
        .enumerate()
        .map(|(block, x)| {
            let at = block * ROWS * width;
            let dy = &dy[at..at + x.len()];
            let plus = plus.map(|plus| &plus[at..at + x.len()]);
            let (mut dw, mut db) = (vec![0f32; width], vec![0f32; width]);
            let sums = (&mut dw[..], &mut db[..]);
            vector::run(isa, Backward { x, weight, dy, plus, centred, eps, sums, to: (spare, at) });
            (dw, db)
        })
        .collect();
    // SAFETY: every row was written.
    unsafe { dx.set_len(x.len()) };
    let (dw, db): (Vec<_>, Vec<_>) = blocks.into_iter().unzip();
    (dx, add_blocks(&dw, width), add_blocks(&db, width))
}

/// Mean (0 where the norm does not centre) and reciprocal standard deviation.
#[inline(always)]
fn moments(x: &[f32], centred: bool, eps: f64) -> (f32, f32) {
    let n = x.len() as f64;
    let mean = if centred { (sum(x) / n) as f32 } else { 0.0 };
    let variance = sum_of(x, x, |x, _| (x - mean) * (x - mean)) / n;
    (mean, (1.0 / (variance + eps).sqrt()) as f32)
}

struct Forward<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    eps: f64,
    to: (SharedMut, usize),
}

impl Kernel for Forward<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let width = self.weight.len();
        for (row, x) in self.x.chunks_exact(width).enumerate() {
            let (mean, scale) = moments(x, self.bias.is_some(), self.eps);
            let values = x.iter().zip(self.weight);
            let at = self.to.1 + row * width;
            // SAFETY: the rows of this task's block, which has room.
            unsafe {
                match self.bias {
                    Some(bias) => {
                        let values = values.zip(bias).map(|((x, w), b)| (x - mean) * scale * w + b);
                        self.to.0.write(at, width, values);
                    }
                    None => self.to.0.write(at, width, values.map(|(x, w)| x * scale * w)),
                }
            }
        }
    }
}

struct Backward<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    dy: &'a [f32],
    plus: Option<&'a [f32]>,
    centred: bool,
    eps: f64,
    /// Of weight and bias.
    sums: (&'a mut [f32], &'a mut [f32]),
    to: (SharedMut, usize),
}

impl Kernel for Backward<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let width = self.weight.len();
        let n = width as f64;
        let (dw, db) = self.sums;
        for (row, (x, dy)) in
            self.x.chunks_exact(width).zip(self.dy.chunks_exact(width)).enumerate()
        {
            let (mean, scale) = moments(x, self.centred, self.eps);
            for (((dw, db), x), dy) in dw.iter_mut().zip(db.iter_mut()).zip(x).zip(dy) {
                *dw += dy * ((x - mean) * scale);
                *db += dy;
            }
            // The gradient to the normed row, its mean, and its share along the row.
            let mean_g = if self.centred {
                (sum_of(dy, self.weight, |dy, w| dy * w) / n) as f32
            } else {
                0.0
            };
            let mut along = 0f64;
            for ((x, dy), w) in x.chunks(256).zip(dy.chunks(256)).zip(self.weight.chunks(256)) {
                let mut lanes = [0f32; 16];
                for ((x, dy), w) in x.chunks(16).zip(dy.chunks(16)).zip(w.chunks(16)) {
                    for (lane, ((x, dy), w)) in lanes.iter_mut().zip(x.iter().zip(dy).zip(w)) {
                        *lane += dy * w * ((x - mean) * scale);
                    }
                }
                along += lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>();
            }
            let along = (along / n) as f32;
            let values = x
                .iter()
                .zip(dy)
                .zip(self.weight)
                .map(|((x, dy), w)| scale * (dy * w - mean_g - (x - mean) * scale * along));
            let at = self.to.1 + row * width;
            // SAFETY: the rows of this task's block, which has room.
            unsafe {
                match self.plus {
                    Some(plus) => {
                        let plus = &plus[row * width..(row + 1) * width];
                        self.to.0.write(at, width, values.zip(plus).map(|(dx, plus)| dx + plus));
                    }
                    None => self.to.0.write(at, width, values),
                }
            }
        }
    }
}
