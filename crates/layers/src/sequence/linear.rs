//! Linear layers over rows.

use candle_core::{D, Result, Tensor};
use rayon::prelude::*;

use crate::cpu;
use crate::device::has_kernels;
use crate::factors::Factors;
use crate::matrix::{Start, product};
use crate::tape::{Gradients, Tape};

/// Rows that a thread sums at a time.
const ROWS: usize = 64;

/// `x W^T + b` over the last dimension.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Tensor,
    /// `[out]`.
    pub bias: Option<Tensor>,
    /// What the factors of its products may be rounded to on a CPU.
    pub factors: Factors,
}

/// Rows and width of `x: [.., width]`.
fn rows(x: &Tensor) -> Result<(usize, usize)> {
    let width = x.dim(D::Minus1)?;
    Ok((x.elem_count() / width.max(1), width))
}

/// The shape of `x` with `width` as its last dimension.
fn with_width(x: &Tensor, width: usize) -> Result<Vec<usize>> {
    let mut shape = x.dims().to_vec();
    match shape.last_mut() {
        Some(last) => *last = width,
        None => candle_core::bail!("a linear layer of a scalar"),
    }
    Ok(shape)
}

impl Linear {
    fn sizes(&self) -> Result<(usize, usize)> {
        let (outputs, inputs) = self.weight.dims2()?;
        if let Some(bias) = self.bias.as_ref().filter(|bias| bias.dims() != [outputs]) {
            candle_core::bail!("linear: bias {:?} for {outputs} outputs", bias.shape())
        }
        Ok((outputs, inputs))
    }

    fn fast(&self, x: &Tensor) -> bool {
        has_kernels(&[x, &self.weight, self.bias.as_ref().unwrap_or(&self.weight)])
    }

    /// `[.., in]` to `[.., out]` as the formula reads, in candle's graph.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn formula(&self, x: &Tensor) -> Result<Tensor> {
        let (_, inputs) = self.sizes()?;
        let (count, _) = rows(x)?;
        let y = x.reshape((count, inputs))?.matmul(&self.weight.t()?)?;
        let y = match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        y.reshape(with_width(x, self.weight.dim(0)?)?)
    }

    /// `[.., in]` to `[.., out]`, plus `residual` of that shape, without a graph.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        let (outputs, inputs) = self.sizes()?;
        let (count, width) = rows(x)?;
        let shape = with_width(x, outputs)?;
        if width != inputs || residual.is_some_and(|residual| residual.dims() != shape) {
            candle_core::bail!(
                "linear: {:?} and a residual {:?} for {inputs} inputs and {outputs} outputs",
                x.shape(),
                residual.map(Tensor::shape)
            )
        }
        if !self.fast(x) {
            let y = self.formula(&x.detach())?.detach();
            return residual.map_or(Ok(y.clone()), |residual| y + residual);
        }
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            let rows = x.detach().reshape((count, inputs))?;
            let y = rows.matmul(&self.weight.detach().t()?)?;
            let residual = residual.map(|r| r.detach().reshape((count, outputs))).transpose()?;
            return super::cuda::add_row(y, self.bias.as_ref(), residual.as_ref())?.reshape(shape);
        }
        // `x` stands in for what is not there.
        let tensors = [x, &self.weight, self.bias.as_ref().unwrap_or(x), residual.unwrap_or(x)];
        let y = cpu::with_slices(tensors, |[x, weight, bias, residual_values]| {
            let bias = self.bias.as_ref().map(|_| bias);
            let residual = residual.map(|_| residual_values);
            let mut y = Vec::new();
            let start = Start::Sum { row: bias, column: None, matrix: residual };
            let sizes = (count, outputs, inputs);
            product(self.factors, sizes, &mut y, start, (x, inputs, 1), (weight, 1, inputs));
            y
        })?;
        Tensor::from_vec(y, shape, x.device())
    }

    /// [`Self::forward`] on a tape, which knows nothing of `residual`: its gradient is
    /// that of the output.
    ///
    /// # Errors
    /// As there, and when a parameter was computed from variables.
    pub fn forward_taped(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        tape: &mut Tape,
    ) -> Result<Tensor> {
        if !self.fast(x) {
            let y = tape.record(x, |x| self.formula(x))?;
            return residual.map_or(Ok(y.clone()), |residual| y + residual);
        }
        let y = self.forward(x, residual)?;
        let (this, x, wants_input) = (self.trained(tape)?, x.detach(), tape.wants_input());
        tape.push(move |dy, plus, gradients| {
            this.0.parameter_gradients(&x, dy, this.1, gradients)?;
            drop(x);
            wants_input.then(|| input_gradient(&[(dy, &this.0)], plus)).transpose()
        });
        Ok(y)
    }

    /// Which of weight and bias a tape trains.
    ///
    /// # Errors
    /// When one was computed from variables.
    pub fn trained(&self, tape: &Tape) -> Result<(Self, (bool, bool))> {
        let bias = self.bias.as_ref().map(|bias| tape.wants(bias)).transpose()?;
        Ok((self.clone(), (tape.wants(&self.weight)?, bias.unwrap_or(false))))
    }

    /// Adds the gradients of weight and bias, those of them that are `trained`, for an
    /// input `x` and the gradient `dy` of the output, both of which kernels can take.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn parameter_gradients(
        &self,
        x: &Tensor,
        dy: &Tensor,
        trained: (bool, bool),
        gradients: &mut Gradients,
    ) -> Result<()> {
        let (outputs, inputs) = self.sizes()?;
        let (count, width) = rows(x)?;
        if width != inputs || rows(dy)? != (count, outputs) {
            candle_core::bail!("linear: a gradient {:?} for {:?}", dy.shape(), x.shape())
        }
        #[cfg(feature = "cuda")]
        if crate::cuda::supports(&[x, dy]) {
            let (x, dy) = (x.detach(), dy.detach());
            let (x, dy) = (x.reshape((count, inputs))?, dy.reshape((count, outputs))?);
            if trained.0 {
                gradients.add(&self.weight, dy.t()?.matmul(&x)?)?;
            }
            if let Some(bias) = self.bias.as_ref().filter(|_| trained.1) {
                gradients.add(bias, super::cuda::column_sums(&dy)?)?;
            }
            return Ok(());
        }
        if trained.0 {
            let dw = cpu::with_slices([x, dy], |[x, dy]| {
                let mut dw = Vec::new();
                let sizes = (outputs, inputs, count);
                product(
                    self.factors,
                    sizes,
                    &mut dw,
                    Start::ZERO,
                    (dy, 1, outputs),
                    (x, inputs, 1),
                );
                dw
            })?;
            gradients.add(&self.weight, Tensor::from_vec(dw, (outputs, inputs), x.device())?)?;
        }
        if let Some(bias) = self.bias.as_ref().filter(|_| trained.1) {
            let db = cpu::with_slices([dy], |[dy]| column_sums(dy, outputs))?;
            gradients.add(bias, Tensor::from_vec(db, outputs, x.device())?)?;
        }
        Ok(())
    }
}

/// `sum of dy W` over layers with one input, plus `plus`: the gradient of that input.
/// All of which kernels can take.
///
/// # Errors
/// When the shapes do not fit.
pub fn input_gradient(layers: &[(&Tensor, &Linear)], plus: Option<&Tensor>) -> Result<Tensor> {
    let Some((first, layer)) = layers.first() else {
        candle_core::bail!("linear: a gradient through no layer")
    };
    let inputs = layer.weight.dim(1)?;
    let (count, shape) = (rows(first)?.0, with_width(first, inputs)?);
    #[cfg(feature = "cuda")]
    if crate::cuda::supports(&[first, &layer.weight]) {
        let mut dx = plus.map(Tensor::detach);
        for (dy, Linear { weight, .. }) in layers {
            let dy = dy.detach().reshape((count, weight.dim(0)?))?;
            let own = dy.matmul(&weight.detach())?.reshape(shape.clone())?;
            dx = Some(crate::tape::sum(own, dx.as_ref())?);
        }
        return dx.ok_or_else(|| candle_core::Error::Msg("linear: no gradient".into()));
    }
    if let Some(plus) = plus.filter(|plus| plus.dims() != shape) {
        candle_core::bail!("linear: a gradient {:?} for {shape:?}", plus.shape())
    }
    let mut dx = Vec::new();
    for (i, (dy, Linear { weight, factors, .. })) in layers.iter().enumerate() {
        let outputs = weight.dim(0)?;
        if weight.dims() != [outputs, inputs] || rows(dy)? != (count, outputs) {
            candle_core::bail!("linear: a gradient {:?} for {:?}", dy.shape(), weight.shape())
        }
        // `dy` stands in for what is not there.
        cpu::with_slices([dy, weight, plus.unwrap_or(dy)], |[dy, weight, other]| {
            let start = match i {
                0 => Start::Sum { row: None, column: None, matrix: plus.map(|_| other) },
                _ => Start::Target,
            };
            let sizes = (count, inputs, outputs);
            product(*factors, sizes, &mut dx, start, (dy, outputs, 1), (weight, inputs, 1));
        })?;
    }
    Tensor::from_vec(dx, shape, first.device())
}

/// The sums of the columns of rows of `width`: in blocks of rows, then over blocks in
/// order, so that nothing depends on the threads.
pub(super) fn column_sums(values: &[f32], width: usize) -> Vec<f32> {
    let blocks: Vec<Vec<f32>> = values
        .par_chunks((ROWS * width).max(1))
        .map(|block| {
            let mut sums = vec![0f32; width];
            for row in block.chunks_exact(width) {
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
            sums
        })
        .collect();
    add_blocks(&blocks, width)
}

/// The sum of `blocks` of `width` numbers, in order, in f64.
pub(super) fn add_blocks(blocks: &[Vec<f32>], width: usize) -> Vec<f32> {
    let mut sums = vec![0f64; width];
    for block in blocks {
        sums.iter_mut().zip(block).for_each(|(sum, &value)| *sum += f64::from(value));
    }
    sums.into_iter().map(|sum| sum as f32).collect()
}
