//! What a step does to all tensors of a model alike: one by one, and on NVIDIA GPUs, where a
//! launch costs more than most tensors' work, by one kernel for all
//! ([`layers::cuda::foreach`]).

use anyhow::Result;
use candle_core::{DType, Device, Storage, Tensor, Var, bail};
#[cfg(feature = "cuda")]
use layers::cuda::foreach;
use rayon::prelude::*;

use crate::elementwise::{CHUNK, Zip2, source};

/// The square root of the sum of squares over all `tensors`, which are on `device`: a
/// scalar, f64, there, and nobody waits for it.
///
/// Partial sums are of fixed parts and added in order, so that the result does not depend on
/// the number of threads.
pub(crate) fn norm<'a>(
    tensors: impl Iterator<Item = &'a Tensor>,
    device: &Device,
) -> candle_core::Result<Tensor> {
    let tensors = tensors.map(|tensor| tensor.to_dtype(DType::F32));
    let tensors = tensors.collect::<candle_core::Result<Vec<_>>>()?;
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        return match foreach::norm(&tensors)? {
            Some(norm) => Ok(norm),
            None => Tensor::zeros((), DType::F64, device),
        };
    }
    if !device.is_cpu() {
        return norm_elsewhere(&tensors, device);
    }
    let mut total = 0.0;
    for tensor in tensors {
        let tensor = tensor.contiguous()?;
        let (storage, layout) = tensor.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { bail!("norm: the tensor is not on the CPU") };
        let parts: Vec<f64> =
            source("norm", storage, layout)?.par_chunks(CHUNK).map(sum_of_squares).collect();
        total += parts.iter().sum::<f64>();
    }
    Tensor::new(total.sqrt(), device)
}

/// In lanes, so that no addition waits for the one before.
fn sum_of_squares(values: &[f32]) -> f64 {
    let mut lanes = [0f64; 16];
    for values in values.chunks(lanes.len()) {
        for (lane, &x) in lanes.iter_mut().zip(values) {
            *lane += f64::from(x) * f64::from(x);
        }
    }
    lanes.iter().sum()
}

fn norm_elsewhere(tensors: &[Tensor], device: &Device) -> candle_core::Result<Tensor> {
    let square = |tensor: &Tensor| tensor.flatten_all()?.sqr()?.sum_all();
    let squares = tensors.iter().map(square).collect::<candle_core::Result<Vec<_>>>()?;
    if squares.is_empty() {
        return Tensor::zeros((), DType::F64, device);
    }
    Tensor::stack(&squares, 0)?.to_dtype(DType::F64)?.sum_all()?.sqrt()
}

/// `mean <- mean + gain (x - mean)` for all pairs of `mean` and `x`, f32.
pub(crate) fn follow(pairs: &[(Var, Var)], gain: f32) -> Result<()> {
    #[cfg(feature = "cuda")]
    if pairs.first().is_some_and(|(mean, _)| mean.device().is_cuda()) {
        let pairs: Vec<_> = pairs.iter().map(|(mean, x)| (&**mean, &**x)).collect();
        return Ok(foreach::follow(&pairs, gain)?);
    }
    for (average, current) in pairs {
        if average.device().is_cpu() {
            let op = Zip2("weight-average", |mean: f32, x: f32| mean + gain * (x - mean));
            average.inplace_op2(current, &op)?;
        } else {
            let mean = average.as_detached_tensor();
            let step = ((current.as_detached_tensor() - &mean)? * f64::from(gain))?;
            average.set(&(mean + step)?)?;
        }
    }
    Ok(())
}

/// Writes the second of each pair, which is f32, to the first, rounded to its dtype.
pub(crate) fn round(pairs: &[(&Var, &Var)]) -> candle_core::Result<()> {
    #[cfg(feature = "cuda")]
    if pairs.first().is_some_and(|(to, _)| to.device().is_cuda()) {
        let pairs: Vec<_> = pairs.iter().map(|(to, from)| (&***to, &***from)).collect();
        return foreach::convert(&pairs);
    }
    for (to, from) in pairs {
        to.set(&from.as_detached_tensor().to_dtype(to.dtype())?)?;
    }
    Ok(())
}

/// Each of `tensors` in the dtype beside it: itself where it is.
pub(crate) fn in_dtypes(tensors: Vec<(Tensor, DType)>) -> candle_core::Result<Vec<Tensor>> {
    #[cfg(feature = "cuda")]
    if tensors.first().is_some_and(|(tensor, _)| tensor.device().is_cuda()) {
        let widens = |tensor: &Tensor, dtype| dtype == DType::F32 && tensor.dtype() != dtype;
        let narrow = tensors.iter().filter(|(tensor, dtype)| widens(tensor, *dtype));
        let narrow: Vec<_> = narrow.map(|(tensor, _)| tensor).collect();
        let mut wide = foreach::converted(&narrow, DType::F32)?.into_iter();
        let convert = |(tensor, dtype): &(Tensor, DType)| match widens(tensor, *dtype) {
            true => wide.next().map(Ok),
            false => Some(tensor.to_dtype(*dtype)),
        };
        return tensors.iter().filter_map(convert).collect();
    }
    tensors.iter().map(|(tensor, dtype)| tensor.to_dtype(*dtype)).collect()
}

/// Copies of `tensors` as they are now.
pub(crate) fn copies(tensors: &[Tensor]) -> candle_core::Result<Vec<Tensor>> {
    #[cfg(feature = "cuda")]
    if tensors.first().is_some_and(|tensor| tensor.device().is_cuda()) {
        // Counters are few.
        let floats: Vec<_> = tensors.iter().filter(|t| t.dtype() == DType::F32).collect();
        let mut copied = foreach::converted(&floats, DType::F32)?.into_iter();
        let copy = |tensor: &Tensor| match tensor.dtype() {
            DType::F32 => copied.next().map(Ok),
            _ => Some(tensor.copy()),
        };
        return tensors.iter().filter_map(copy).collect();
    }
    tensors.iter().map(Tensor::copy).collect()
}

/// Numbers that were brought together.
pub(crate) enum Numbers {
    /// By a device that nobody has to wait for.
    Read(Vec<f64>),
    /// `[n]`, f64, on a GPU.
    #[cfg(feature = "cuda")]
    OnDevice(Tensor),
}

impl Numbers {
    /// On a GPU the one wait for the device.
    pub fn read(self) -> candle_core::Result<Vec<f64>> {
        match self {
            Self::Read(values) => Ok(values),
            #[cfg(feature = "cuda")]
            Self::OnDevice(values) => values.to_vec1(),
        }
    }
}

/// All numbers of `tensors`, which are f32, f64 or u32, one tensor after the other.
pub(crate) fn gather(tensors: &[Tensor]) -> candle_core::Result<Numbers> {
    let Some(first) = tensors.first() else { return Ok(Numbers::Read(Vec::new())) };
    #[cfg(feature = "cuda")]
    if first.device().is_cuda() {
        let tensors: Vec<_> = tensors.iter().collect();
        return Ok(Numbers::OnDevice(foreach::concatenated(&tensors, DType::F64)?));
    }
    debug_assert!(tensors.iter().all(|tensor| tensor.device().same_device(first.device())));
    let flat = |tensor: &Tensor| tensor.flatten_all()?.to_dtype(DType::F64);
    let flat = tensors.iter().map(flat).collect::<candle_core::Result<Vec<_>>>()?;
    Ok(Numbers::Read(Tensor::cat(&flat, 0)?.to_vec1()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_norm_spans_tensors_and_layouts() -> Result<()> {
        let a = Tensor::arange(0f32, 40_000.0, &Device::Cpu)?.reshape((200, 200))?.t()?;
        let b = Tensor::new(&[3f32, -4.0], &Device::Cpu)?;
        let expected = (0..40_000u64).map(|x| (x * x) as f64).sum::<f64>() + 25.0;
        let actual = norm([&a, &b].into_iter(), &Device::Cpu)?.to_scalar::<f64>()?;
        assert!((actual / expected.sqrt() - 1.0).abs() < 1e-12, "{actual}");
        Ok(())
    }

    /// Of any dtypes and layouts, and none.
    fn numbers(device: &Device) -> Result<Vec<Tensor>> {
        let matrix = (Tensor::arange(0f32, 40_000.0, device)? * 1e-3)?.reshape((200, 200))?;
        let codes = Tensor::new(&[[0u32, u32::MAX], [2, 3]], device)?;
        let counter = Tensor::new(0.1f64, device)?;
        let empty = matrix.narrow(0, 0, 0)?;
        Ok(vec![matrix.clone(), matrix.t()?, codes, empty, counter, matrix.narrow(1, 1, 3)?])
    }

    #[test]
    fn numbers_are_read_and_copied() -> Result<()> {
        let mut devices = vec![Device::Cpu];
        match Device::new_cuda_with_stream(0) {
            Ok(gpu) => devices.push(gpu),
            Err(_) => println!("numbers_are_read_and_copied on a GPU skipped: no CUDA device"),
        }
        let cpu = numbers(&Device::Cpu)?;
        let expected = gather(&cpu)?.read()?;
        assert_eq!(expected.len(), 2 * 40_000 + 4 + 1 + 600);
        assert_eq!(expected[80_001..80_003], [f64::from(u32::MAX), 2.0]);
        for device in devices {
            let given = numbers(&device)?;
            assert_eq!(gather(&given)?.read()?, expected);
            let copied = copies(&given)?;
            for (copy, tensor) in copied.iter().zip(&given) {
                assert!(copy.dims() == tensor.dims() && copy.dtype() == tensor.dtype());
            }
            assert_eq!(gather(&copied)?.read()?, expected);
            // Of those without elements candle makes none on a GPU.
            let floats = || cpu.iter().filter(|t| t.dtype() == DType::F32 && t.elem_count() > 0);
            let on_device = floats().map(|tensor| Ok(tensor.to_device(&device)?));
            let on_device = on_device.collect::<Result<Vec<_>>>()?;
            let actual = norm(on_device.iter(), &device)?.to_scalar::<f64>()?;
            let expected = norm(floats(), &Device::Cpu)?.to_scalar::<f64>()?;
            assert!((actual / expected - 1.0).abs() < 1e-13, "{actual} {expected}");
            let wide = in_dtypes(on_device.into_iter().map(|t| (t, DType::F64)).collect())?;
            assert!(wide.iter().all(|tensor| tensor.dtype() == DType::F64));
            assert_eq!(gather(&[])?.read()?, [0f64; 0]);
            assert_eq!(norm([].into_iter(), &device)?.to_scalar::<f64>()?, 0.0);
        }
        Ok(())
    }
}
