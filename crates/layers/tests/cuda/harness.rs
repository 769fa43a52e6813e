//! What the tests share: devices, numbers, comparisons.

use std::sync::{RwLock, RwLockReadGuard};

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor, Var};
use layers::{Gradients, Tape};

/// Held while f32 must not be rounded to TF32, which is a switch of the whole process.
pub static EXACT: RwLock<()> = RwLock::new(());

/// A GPU of this test's own, or nothing, having said so. Each test has its own because
/// candle's handles are not made for several threads at once.
pub fn gpu(name: &str) -> Option<(Device, RwLockReadGuard<'static, ()>)> {
    match Device::new_cuda_with_stream(0) {
        Ok(device) => Some((device, EXACT.read().unwrap_or_else(|e| e.into_inner()))),
        Err(error) => {
            let why = error.to_string();
            println!("skipped: no CUDA device ({name}: {})", why.lines().next().unwrap_or(""));
            None
        }
    }
}

/// Runs `test` where there is a GPU and says how it went.
pub fn on_gpu(name: &str, test: impl FnOnce(&Device) -> Result<()>) -> Result<()> {
    let Some((device, _exact)) = gpu(name) else { return Ok(()) };
    layers::cuda::prepare(&device)?;
    test(&device).with_context(|| format!("FAILED {name}"))?;
    println!("ok {name}");
    Ok(())
}

/// Numbers in [-1, 1) that depend on `seed` alone.
pub fn noise(shape: &[usize], seed: u64) -> Result<Tensor> {
    let len: usize = shape.iter().product();
    let values: Vec<f32> = (0..len)
        .map(|i| ((i as f64 + 1.0) * 12.9898 + seed as f64 * 78.233).sin() * 43758.5453)
        .map(|x| ((x - x.floor()) * 2.0 - 1.0) as f32)
        .collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// How far apart results may be, as a share of the largest: bf16 has 8 bits, f16 11.
pub fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => 3e-2,
        DType::F16 => 1e-2,
        _ => 1e-4,
    }
}

/// Numbers below are taken for as large as this.
const FLOOR: f64 = 1e-2;
/// And in a layer for this share of the largest: a gradient that is 0 but for rounding (of
/// the bias of attention's keys) is not the same anywhere, and as small as rounding is in
/// what it is the sum of.
const SHARE_OF_ALL: f64 = 0.1;

fn list(t: &Tensor) -> Result<Vec<f64>> {
    let t = t.detach().to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
    Ok(t.flatten_all()?.to_vec1::<f64>()?)
}

fn largest(values: &[f64]) -> f64 {
    values.iter().filter(|x| x.is_finite()).fold(0f64, |a, x| a.max(x.abs()))
}

/// Whether `actual` is within `share` of the largest number of `expected`, and NaN where
/// that is.
pub fn close(name: &str, actual: &Tensor, expected: &Tensor, share: f64) -> Result<()> {
    close_above(FLOOR, name, actual, expected, share)
}

/// [`close`], of numbers that are taken for as large as `floor`.
fn close_above(
    floor: f64,
    name: &str,
    actual: &Tensor,
    expected: &Tensor,
    share: f64,
) -> Result<()> {
    ensure!(
        actual.dims() == expected.dims(),
        "{name}: {:?} instead of {:?}",
        actual.shape(),
        expected.shape()
    );
    let (actual, expected) = (list(actual)?, list(expected)?);
    let largest = largest(&expected);
    let mut worst = (0f64, 0, 0f64, 0f64);
    for (i, (&a, &e)) in actual.iter().zip(&expected).enumerate() {
        ensure!(a.is_nan() == e.is_nan(), "{name}: {a} instead of {e} at {i}");
        let error = if a == e || a.is_nan() { 0.0 } else { (a - e).abs() };
        if error.is_nan() || error > worst.0 {
            worst = (error, i, a, e);
        }
    }
    let (error, at, a, e) = worst;
    ensure!(
        error <= share * largest.max(floor),
        "{name}: {a} instead of {e} at {at} of {}, largest {largest}, {:.1e} of it off",
        actual.len(),
        error / largest.max(floor)
    );
    Ok(())
}

/// What a layer gave: names and tensors.
pub type Found = Vec<(String, Tensor)>;

/// Compares what a GPU and the CPU found.
pub fn compare(case: &str, gpu: &Found, cpu: &Found, share: f64) -> Result<()> {
    ensure!(gpu.len() == cpu.len(), "{case}: {} results instead of {}", gpu.len(), cpu.len());
    let mut floor = FLOOR;
    for (_, expected) in cpu {
        floor = floor.max(SHARE_OF_ALL * largest(&list(expected)?));
    }
    for ((name, actual), (_, expected)) in gpu.iter().zip(cpu) {
        close_above(floor, &format!("{case}: {name}"), actual, expected, share)?;
    }
    Ok(())
}

type OnTape<'a> = dyn Fn(&[Tensor], &Tensor, &mut Tape) -> Result<Tensor> + 'a;

/// A layer made of parameters, in candle's graph and on a tape.
pub struct Layer<'a> {
    /// From parameters and input.
    pub plain: &'a dyn Fn(&[Tensor], &Tensor) -> Result<Tensor>,
    /// From parameters and input, on a tape.
    pub taped: &'a OnTape<'a>,
}

impl Layer<'_> {
    /// Outputs, and the gradients of `sum(y * noise) + sum(x * noise)` to input and
    /// parameters, by the graph and by a tape.
    fn run(&self, x: &Tensor, parameters: &[Tensor], graph: bool) -> Result<Found> {
        let mut found = Vec::new();
        let variables: Result<Vec<Var>> =
            parameters.iter().map(|p| Ok(Var::from_tensor(p)?)).collect();
        let variables = variables?;
        let tensors: Vec<Tensor> = variables.iter().map(|v| v.as_tensor().clone()).collect();
        let like = |shape: &[usize], seed| -> Result<Tensor> {
            Ok(noise(shape, seed)?.to_dtype(x.dtype())?.to_device(x.device())?)
        };
        let plus = like(x.dims(), 78)?;
        if graph {
            let leaf = Var::from_tensor(x)?;
            let y = (self.plain)(&tensors, leaf.as_tensor())?;
            let dy = like(y.dims(), 77)?;
            let total = ((&y * &dy)?.sum_all()? + (leaf.as_tensor() * &plus)?.sum_all()?)?;
            let store = total.backward()?;
            found.push(("graph y".into(), y.detach()));
            found.push(("graph dx".into(), store.get(&leaf).context("no dx")?.detach()));
            for (i, variable) in variables.iter().enumerate() {
                let gradient = store.get(variable).context("no gradient")?.detach();
                found.push((format!("graph gradient {i}"), gradient));
            }
        }
        let detached: Vec<Tensor> = tensors.iter().map(Tensor::detach).collect();
        found.push(("inference".into(), (self.plain)(&detached, &x.detach())?));
        let mut tape = Tape::default();
        let y = (self.taped)(&tensors, x, &mut tape)?;
        let dy = like(y.dims(), 77)?;
        let mut gradients = Gradients::default();
        let dx = tape.backward_add(&dy, Some(&plus), &mut gradients)?.context("no gradient")?;
        found.push(("tape y".into(), y));
        found.push(("tape dx".into(), dx));
        for (i, variable) in variables.iter().enumerate() {
            let gradient = gradients.get(variable).context("no gradient on the tape")?;
            found.push((format!("tape gradient {i}"), gradient.clone()));
        }
        Ok(found)
    }

    /// [`check`](Self::check) of a layer that is on tapes only: the graph is left out.
    pub fn check_tape(
        &self,
        case: &str,
        gpu: &Device,
        dtype: DType,
        input: (&[usize], View),
        parameters: &[&[usize]],
    ) -> Result<()> {
        self.compare(case, gpu, (dtype, false), input, parameters)
    }

    /// Compares the layer on the GPU, in `dtype`, with that on the CPU, in f32. The input
    /// is `view` of noise of `shape`, and parameters are noise, plus 0.5.
    pub fn check(
        &self,
        case: &str,
        gpu: &Device,
        dtype: DType,
        input: (&[usize], View),
        parameters: &[&[usize]],
    ) -> Result<()> {
        // Half precision is for inference and tapes.
        self.compare(case, gpu, (dtype, dtype == DType::F32), input, parameters)
    }

    fn compare(
        &self,
        case: &str,
        gpu: &Device,
        (dtype, graph): (DType, bool),
        (shape, view): (&[usize], View),
        parameters: &[&[usize]],
    ) -> Result<()> {
        let mut sides = Vec::new();
        for (device, as_dtype) in [(gpu, dtype), (&Device::Cpu, DType::F32)] {
            let to = |t: Tensor| -> Result<Tensor> {
                Ok(t.to_dtype(dtype)?.to_dtype(as_dtype)?.to_device(device)?)
            };
            let x = view.of(&to(noise(&view.whole(shape), 1)?)?)?;
            let given: Result<Vec<Tensor>> = (10..)
                .zip(parameters)
                .map(|(seed, shape)| {
                    // Outputs of about the size of inputs.
                    let inputs = shape[1..].iter().product::<usize>() as f64;
                    to(((noise(shape, seed)? + 0.5)? / inputs.sqrt())?)
                })
                .collect();
            let found = self.run(&x, &given?, graph);
            sides.push(found.with_context(|| format!("{case} {shape:?} {view:?} {as_dtype:?}"))?);
        }
        let [actual, expected] = &sides[..] else { anyhow::bail!("two sides") };
        let case = format!("{case} {shape:?} {view:?} {dtype:?}");
        compare(&case, actual, expected, tolerance(dtype))
    }
}

/// How an input lies in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum View {
    /// From the start, without gaps.
    Whole,
    /// Without gaps, but some way into a larger tensor.
    Late,
    /// With gaps between rows.
    Gaps,
    /// The last two axes exchanged.
    Turned,
}

impl View {
    /// The shape of what it is a view of.
    pub fn whole(self, shape: &[usize]) -> Vec<usize> {
        let mut whole = shape.to_vec();
        let last = whole.len() - 1;
        match self {
            Self::Whole => {}
            Self::Late => whole[0] += 1,
            Self::Gaps => whole[last] += 3,
            Self::Turned => whole.swap(last - 1, last),
        }
        whole
    }

    /// This view of `whole`, which has the shape of [`whole`](Self::whole).
    pub fn of(self, whole: &Tensor) -> Result<Tensor> {
        let last = whole.rank() - 1;
        Ok(match self {
            Self::Whole => whole.clone(),
            Self::Late => whole.narrow(0, 1, whole.dim(0)? - 1)?,
            Self::Gaps => whole.narrow(last, 2, whole.dim(last)? - 3)?,
            Self::Turned => whole.transpose(last - 1, last)?,
        })
    }
}

/// Every view.
pub const VIEWS: [View; 4] = [View::Whole, View::Late, View::Gaps, View::Turned];
