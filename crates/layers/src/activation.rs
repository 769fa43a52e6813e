//! Pointwise functions, with gradients that agree with PyTorch's everywhere.
//!
//! candle's own `relu` and `abs` have wrong gradients at exactly 0, which padding
//! and dead features hit all the time.

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Tensor};
use rayon::prelude::*;

use crate::cpu;
use crate::shared_mut::SharedMut;
use crate::tape::{Tape, sum};

/// Elements that a thread takes at a time.
const CHUNK: usize = 1 << 14;

/// `x * sigmoid(x)`, in any shape.
///
/// # Errors
/// When `x` is not a float tensor.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    x.silu()
}

/// `max(x, 0)`, in any shape; the gradient at 0 is 0.
///
/// # Errors
/// When `x` is not a float tensor.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    x.mul(&x.gt(0.0)?.to_dtype(x.dtype())?)
}

/// [`relu`] on a tape, of a map that nobody else needs: on a CPU it is overwritten.
///
/// # Errors
/// As there.
pub fn relu_taped(x: Tensor, tape: &mut Tape) -> Result<Tensor> {
    if !cpu::supports(&x) || x.track_op() {
        return leaky_relu_taped(&x, 0.0, tape);
    }
    let y = x.contiguous()?;
    y.inplace_op1(&ReluOp)?;
    let kept = y.clone();
    tape.push(move |dy, plus, _| {
        let dx = zip([&kept, dy], |y, dy| if y > 0.0 { dy } else { 0.0 })?;
        sum(dx, plus).map(Some)
    });
    Ok(y)
}

/// [`relu`] where the numbers lie.
struct ReluOp;

impl InplaceOp1 for ReluOp {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (CpuStorage::F32(all), Some((start, end))) = (storage, layout.contiguous_offsets())
        else {
            candle_core::bail!("relu: {layout:?} is no contiguous map of f32")
        };
        all[start..end].par_chunks_mut(CHUNK).for_each(|chunk| {
            // NaN stays.
            chunk.iter_mut().for_each(|x| *x = if *x <= 0.0 { 0.0 } else { *x });
        });
        Ok(())
    }
}

/// `x` where positive, `slope * x` elsewhere; the gradient at 0 is `slope`.
///
/// # Errors
/// When `x` is not a float tensor.
pub fn leaky_relu(x: &Tensor, slope: f64) -> Result<Tensor> {
    let positive = x.gt(0.0)?.to_dtype(x.dtype())?;
    x.mul(&((positive * (1.0 - slope))? + slope)?)
}

/// [`leaky_relu`] on a tape.
///
/// # Errors
/// As there.
pub fn leaky_relu_taped(x: &Tensor, slope: f64, tape: &mut Tape) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if crate::cuda::supports(&[x]) {
        let (x, slope) = (x.detach(), slope as f32);
        let [y] = crate::cuda::map("leaky", [&x], slope)?;
        tape.push(move |dy, plus, _| {
            let [dx] = crate::cuda::map("leaky_back", [&x, dy], slope)?;
            sum(dx, plus).map(Some)
        });
        return Ok(y);
    }
    if !cpu::supports(x) {
        return tape.record(x, |x| leaky_relu(x, slope));
    }
    let slope = slope as f32;
    let y = zip([x, x], |x, _| if x > 0.0 { x } else { x * slope })?;
    let x = x.detach();
    tape.push(move |dy, plus, _| {
        let dx = zip([&x, dy], |x, dy| if x > 0.0 { dy } else { dy * slope })?;
        sum(dx, plus).map(Some)
    });
    Ok(y)
}

/// `f` of each pair of elements, of f32 tensors of one shape on the CPU.
fn zip(tensors: [&Tensor; 2], f: impl Fn(f32, f32) -> f32 + Sync) -> Result<Tensor> {
    let (shape, device) = (tensors[0].shape(), tensors[0].device());
    let values = cpu::with_slices(tensors, |[a, b]| {
        assert_eq!(a.len(), b.len(), "two tensors of one shape");
        let mut values = Vec::with_capacity(a.len());
        let target = SharedMut::new_spare(&mut values);
        let sources = a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK)).enumerate();
        sources.for_each(|(chunk, (a, b))| {
            let made = a.iter().zip(b).map(|(a, b)| f(*a, *b));
            // SAFETY: as many numbers, which are this chunk's alone.
            unsafe { target.write(chunk * CHUNK, a.len(), made) }
        });
        // SAFETY: every chunk was written.
        unsafe { values.set_len(a.len()) }
        values
    })?;
    Tensor::from_vec(values, shape, device)
}

/// `|x|`, in any shape; the gradient at 0 is 0.
///
/// # Errors
/// When `x` is not a float tensor.
pub fn abs(x: &Tensor) -> Result<Tensor> {
    let positive = x.gt(0.0)?.to_dtype(x.dtype())?;
    let negative = x.lt(0.0)?.to_dtype(x.dtype())?;
    x.mul(&(positive - negative)?)
}
