//! Exact GELU, and the gate of SwiGLU.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use crate::cpu;
use crate::elementary::{erf, exp, sigmoid};
use crate::isa::Isa;
use crate::shared_mut::SharedMut;
use crate::tape::{Tape, sum};
use crate::vector::{self, Kernel, Vector};

/// Elements of a task.
const CHUNK: usize = 1 << 13;

/// `x Phi(x)` with the normal distribution function Phi (Hendrycks and Gimpel 2016), in
/// any shape, on a tape.
///
/// # Errors
/// When `x` is not a float tensor.
pub fn gelu_taped(x: &Tensor, tape: &mut Tape) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if crate::cuda::supports(&[x]) {
        let x = x.detach();
        let [y] = crate::cuda::map("gelu", [&x], 0.0)?;
        tape.push(move |dy, plus, _| {
            check(&x, dy)?;
            let [dx] = crate::cuda::map("gelu_back", [&x, dy], 0.0)?;
            sum(dx, plus).map(Some)
        });
        return Ok(y);
    }
    if !cpu::supports(x) {
        return tape.record(x, Tensor::gelu_erf);
    }
    let y = map([x, x], gelu)?;
    let x = x.detach();
    tape.push(move |dy, plus, _| {
        check(&x, dy)?;
        let dx = map([&x, dy], gelu_back)?;
        sum(dx, plus).map(Some)
    });
    Ok(y)
}

/// `silu(a) * b` for tensors of one shape (SwiGLU, Shazeer 2020): its value, and a
/// function from its gradient to those of `a` and `b`.
///
/// # Errors
/// When the shapes differ.
#[allow(clippy::type_complexity)]
pub fn gate_taped(
    a: &Tensor,
    b: &Tensor,
) -> Result<(Tensor, Box<dyn FnOnce(&Tensor) -> Result<(Tensor, Tensor)> + Send>)> {
    check(a, b)?;
    let (a, b) = (a.detach(), b.detach());
    #[cfg(feature = "cuda")]
    if crate::cuda::supports(&[&a, &b]) {
        let [y] = crate::cuda::map("gate", [&a, &b], 0.0)?;
        let back = move |dy: &Tensor| {
            check(&a, dy)?;
            let [da, db] = crate::cuda::map("gate_back", [&a, &b, dy], 0.0)?;
            Ok((da, db))
        };
        return Ok((y, Box::new(back)));
    }
    if !cpu::supports(&a) || !cpu::supports(&b) {
        let y = (a.silu()? * &b)?;
        let back = move |dy: &Tensor| {
            let share = candle_nn::ops::sigmoid(&a)?;
            let slope = (&share * ((&a * share.affine(-1.0, 1.0)?)? + 1.0)?)?;
            Ok((((dy * &b)? * slope)?, (dy * a.silu()?)?))
        };
        return Ok((y, Box::new(back)));
    }
    let y = map([&a, &b], gate)?;
    let back = move |dy: &Tensor| {
        check(&a, dy)?;
        let slope = map([&a, &b], gate_slope)?;
        let da = map([&slope, dy], |slope, dy| slope * dy)?;
        let db = map([&a, dy], gate)?;
        Ok((da, db))
    };
    Ok((y, Box::new(back)))
}

fn check(x: &Tensor, other: &Tensor) -> Result<()> {
    if x.dims() != other.dims() {
        candle_core::bail!("a gradient or factor {:?} for {:?}", other.shape(), x.shape())
    }
    Ok(())
}

/// `f` of each pair of elements, compiled for every instruction set: a function that is
/// always inlined, as closures are not where they are large.
fn map(tensors: [&Tensor; 2], f: impl Fn(f32, f32) -> f32 + Copy + Sync) -> Result<Tensor> {
    let (shape, device) = (tensors[0].shape(), tensors[0].device());
    let values = cpu::with_slices(tensors, |[a, b]| {
        let isa = Isa::detect();
        let mut values = Vec::with_capacity(a.len());
        let spare = SharedMut::new_spare(&mut values);
        let sources = a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK));
        sources.enumerate().for_each(|(chunk, (a, b))| {
            vector::run(isa, Map { a, b, f, to: (spare, chunk * CHUNK) });
        });
        // SAFETY: every chunk was written.
        unsafe { values.set_len(a.len()) };
        values
    })?;
    Tensor::from_vec(values, shape, device)
}

struct Map<'a, F> {
    a: &'a [f32],
    b: &'a [f32],
    f: F,
    to: (SharedMut, usize),
}

impl<F: Fn(f32, f32) -> f32> Kernel for Map<'_, F> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let to = self.to.0.range(self.to.1, self.a.len());
        for (i, (&a, &b)) in self.a.iter().zip(self.b).enumerate() {
            // SAFETY: an element of this task's chunk, which has room.
            unsafe { to.add(i).write((self.f)(a, b)) }
        }
    }
}

#[inline(always)]
fn gelu(x: f32, _: f32) -> f32 {
    x * normal_cdf(x)
}

#[inline(always)]
fn gelu_back(x: f32, dy: f32) -> f32 {
    dy * (normal_cdf(x) + x * normal_density(x))
}

#[inline(always)]
fn gate(a: f32, b: f32) -> f32 {
    a * sigmoid(a) * b
}

/// By `a`.
#[inline(always)]
fn gate_slope(a: f32, b: f32) -> f32 {
    let share = sigmoid(a);
    b * share * (1.0 + a * (1.0 - share))
}

#[inline(always)]
fn normal_cdf(x: f32) -> f32 {
    0.5 + 0.5 * erf(x * std::f32::consts::FRAC_1_SQRT_2)
}

#[inline(always)]
fn normal_density(x: f32) -> f32 {
    const SCALE: f32 = 0.398_942_3;
    SCALE * exp(-0.5 * x * x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn gelu_and_its_gradient_are_candles_in_f64() -> anyhow::Result<()> {
        let points: Vec<f64> = (-6000..=6000).map(|i| f64::from(i) * 1e-3).collect();
        let exact = candle_core::Var::new(points, &Device::Cpu)?;
        let y = exact.gelu_erf()?;
        let store = y.sum_all()?.backward()?;
        let slope = store.get(exact.as_tensor()).ok_or_else(|| anyhow::anyhow!("none"))?;
        let x = exact.as_detached_tensor().to_dtype(DType::F32)?;
        let mut tape = Tape::default();
        golden::close("y", &gelu_taped(&x, &mut tape)?, &y, 2e-6)?;
        let dx = tape.backward(&x.ones_like()?, &mut crate::Gradients::default())?;
        golden::close("dx", &dx.ok_or_else(|| anyhow::anyhow!("none"))?, slope, 2e-6)?;
        let nan = gelu_taped(&Tensor::new(&[f32::NAN], &Device::Cpu)?, &mut Tape::default())?;
        assert!(nan.to_vec1::<f32>()?[0].is_nan());
        Ok(())
    }

    #[test]
    fn the_gate_and_its_gradients_are_those_of_f64() -> anyhow::Result<()> {
        let numbers = |seed: u32| {
            (0..2000u32).map(|i| (((i * 37 + seed) % 113) as f64 - 56.0) / 9.0).collect::<Vec<_>>()
        };
        let [a, b, dy] = [1, 5, 11].map(|seed| Tensor::new(numbers(seed), &Device::Cpu));
        let (a, b, dy) = (a?, b?, dy?);
        let f32s = |x: &Tensor| x.to_dtype(DType::F32);
        let (exact, back) = gate_taped(&a, &b)?;
        let (da, db) = back(&dy)?;
        let (fast, back) = gate_taped(&f32s(&a)?, &f32s(&b)?)?;
        let (fast_da, fast_db) = back(&f32s(&dy)?)?;
        for (name, fast, exact) in
            [("y", fast, exact), ("da", fast_da, da.clone()), ("db", fast_db, db)]
        {
            golden::close(name, &fast, &f32s(&exact)?, 2e-5)?;
        }
        // The formula's own gradient, by candle.
        let leaf = candle_core::Var::from_tensor(&a)?;
        let store = ((leaf.silu()? * &b)? * &dy)?.sum_all()?.backward()?;
        let expected = store.get(leaf.as_tensor()).ok_or_else(|| anyhow::anyhow!("none"))?;
        golden::close("da", &da, expected, 1e-12)
    }
}
