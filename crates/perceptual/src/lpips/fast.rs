//! LPIPS on a CPU without candle's graph: one op, whose way back is on tapes.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Storage, Tensor};
use layers::{Gradients, Tape};

use super::Lpips;
use crate::distance::Maps;

/// Whether this is done for scaled images: gradients go to `y` alone.
pub(super) fn suits(lpips: &Lpips, x: &Tensor, y: &Tensor) -> bool {
    [x, y, &lpips.lins[0]].iter().all(|t| t.device().is_cpu() && t.dtype() == DType::F32)
        && !x.track_op()
}

/// The distances of scaled images, `[B, 1, 1, 1]`.
pub(super) fn forward(lpips: &Lpips, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let pass = Pass::new(lpips, x, y)?;
    let mut sums = vec![0.0_f64; y.dim(0)?];
    for slice in 0..pass.x.len() {
        let distances = pass.with_maps(slice, |maps| maps.distances())?;
        sums.iter_mut().zip(distances).for_each(|(sum, distance)| *sum += distance);
    }
    let distances: Vec<f32> = sums.into_iter().map(|sum| sum as f32).collect();
    if !y.track_op() {
        return Tensor::from_vec(distances, ((), 1, 1, 1), y.device());
    }
    let op =
        Distance { lpips: lpips.clone(), distances, pass: Mutex::new(Some(pass)), x: x.clone() };
    y.contiguous()?.apply_op1(op)
}

/// The features of both, and the way back from those of `y`.
struct Pass {
    x: Vec<Tensor>,
    y: Vec<Tensor>,
    /// `[C]` each.
    lins: Vec<Vec<f32>>,
    tapes: Vec<Tape>,
}

impl Pass {
    fn new(lpips: &Lpips, x: &Tensor, y: &Tensor) -> Result<Self> {
        let tape = || Tape::frozen().with_factors(lpips.factors);
        let (x, _) = lpips.net.features_taped(x, tape, false)?;
        let (y, tapes) = lpips.net.features_taped(y, tape, y.track_op())?;
        let lins = lpips.lins.iter().map(|lin| lin.to_vec1::<f32>()).collect::<Result<_>>()?;
        Ok(Self { x, y, lins, tapes })
    }

    /// Calls `f` with the maps of a slice.
    fn with_maps<T>(&self, slice: usize, f: impl FnOnce(Maps) -> T) -> Result<T> {
        let (_, _, h, w) = self.y[slice].dims4()?;
        let [x, y] = [&self.x[slice], &self.y[slice]].map(Tensor::contiguous);
        let (x, y) = (x?, y?);
        let ((x, of_x), (y, of_y)) = (x.storage_and_layout(), y.storage_and_layout());
        let (x, y) = (numbers(&x, of_x)?, numbers(&y, of_y)?);
        Ok(f(Maps { x, y, weights: &self.lins[slice], pixels: h * w }))
    }

    /// The gradient to `y`'s images, where that to each distance is `upstream`.
    fn gradient(mut self, upstream: &[f32]) -> Result<Option<Tensor>> {
        let mut found = Gradients::default();
        // That to the output of a slice: what the next one has found for its input, and the distance.
        let mut gradient: Option<Tensor> = None;
        while let Some(tape) = self.tapes.pop() {
            let slice = self.tapes.len();
            let of_distance = |pass: &Self, slice: usize| {
                let numbers = pass.with_maps(slice, |maps| maps.gradient(upstream))?;
                Tensor::from_vec(numbers, pass.y[slice].shape(), pass.y[slice].device())
            };
            let dy = match gradient.take() {
                Some(gradient) => gradient,
                None => of_distance(&self, slice)?,
            };
            let plus = slice.checked_sub(1).map(|before| of_distance(&self, before)).transpose()?;
            gradient = tape.backward_add(&dy, plus.as_ref(), &mut found)?;
            self.x.pop();
            self.y.pop();
        }
        Ok(gradient)
    }
}

/// The numbers of a contiguous map on a CPU.
fn numbers<'a>(storage: &'a Storage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (Storage::Cpu(storage), Some((start, end))) => Ok(&storage.as_slice::<f32>()?[start..end]),
        _ => candle_core::bail!("lpips: a feature map that is not on a CPU, {layout:?}"),
    }
}

/// The distances as an op of `y`'s images.
struct Distance {
    lpips: Lpips,
    x: Tensor,
    distances: Vec<f32>,
    /// Until a gradient is asked for; made anew for another.
    pass: Mutex<Option<Pass>>,
}

impl CustomOp1 for Distance {
    fn name(&self) -> &'static str {
        "lpips"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let shape = Shape::from((self.distances.len(), 1, 1, 1));
        Ok((CpuStorage::F32(self.distances.clone()), shape))
    }

    fn bwd(&self, y: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let kept = self.pass.lock().unwrap_or_else(PoisonError::into_inner).take();
        let pass = match kept {
            Some(pass) => pass,
            None => Pass::new(&self.lpips, &self.x, y)?,
        };
        pass.gradient(&grad.flatten_all()?.to_vec1::<f32>()?)
    }
}
