//! Kernels for many tensors at once, bit for bit what the CPU makes of each.

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use layers::cuda::foreach::{
    AdamParameter, AdamRates, adam, concatenated, convert, converted, follow, norm,
};

use super::harness::{noise, on_gpu};

/// Hundreds of tensors of sizes around those of a vector and of a block's part, and none.
fn lengths() -> Vec<usize> {
    let edges = [0, 1, 3, 4, 5, 255, 256, 1023, 1025, 8191, 8192, 8193, 16384, 40_003];
    (0..280).map(|i| if i % 7 == 0 { edges[i / 7 % 14] } else { 17 * i % 700 }).collect()
}

/// In layouts that a gradient may have: transposed, or beginning where four elements cannot
/// be loaded at once; and the same values on the CPU.
fn gradient(len: usize, seed: u64, device: &Device) -> Result<(Tensor, Vec<f32>)> {
    let given = noise(&[len + 1], seed)?.to_device(device)?;
    let tensor = match seed % 3 {
        0 if len.is_multiple_of(5) => given.narrow(0, 0, len)?.reshape((len / 5, 5))?.t()?,
        1 => given.narrow(0, 1, len)?,
        _ => given.narrow(0, 0, len)?,
    };
    let values = tensor.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?;
    Ok((tensor, values))
}

/// What a CPU tensor holds, on the GPU; without elements a view, as it has to be somewhere.
fn upload(tensor: &Tensor, device: &Device) -> Result<Tensor> {
    if tensor.elem_count() == 0 {
        let one = Tensor::zeros(1, DType::F32, device)?;
        return Ok(one.narrow(0, 0, 0)?.reshape(tensor.dims())?);
    }
    Ok(tensor.to_device(device)?)
}

fn bits(tensor: &Tensor) -> Result<Vec<u32>> {
    let values = tensor.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
    Ok(values.into_iter().map(f32::to_bits).collect())
}

fn same(what: &str, actual: &Tensor, expected: &[f32]) -> Result<()> {
    let actual = bits(actual)?;
    ensure!(actual.len() == expected.len(), "{what}: {} elements", actual.len());
    for (i, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        let found = f32::from_bits(*actual);
        ensure!(*actual == expected.to_bits(), "{what}: {found} instead of {expected} at {i}");
    }
    Ok(())
}

#[test]
fn adam_is_that_of_the_cpu() -> Result<()> {
    on_gpu("adam_is_that_of_the_cpu", |device| {
        let shape = |len: usize, seed: u64| match seed % 3 {
            0 if len.is_multiple_of(5) => vec![5, len / 5],
            _ => vec![len],
        };
        let mut tensors = Vec::new();
        let mut values = Vec::new();
        for (i, len) in lengths().into_iter().enumerate() {
            let start = noise(&shape(len, i as u64), 3 * i as u64)?;
            let zeros = start.zeros_like()?;
            values.push([start.flatten_all()?.to_vec1::<f32>()?, vec![0.0; len], vec![0.0; len]]);
            let upload = |tensor| upload(tensor, device);
            tensors.push([upload(&start)?, upload(&zeros)?, upload(&zeros)?]);
        }
        for step in 1..=3 {
            let power = |beta: f64| 1.0 - beta.powi(step);
            let rates = AdamRates {
                scale: 0.37,
                gain1: (1.0 - 0.9) as f32,
                beta2: 0.95,
                gain2: (1.0 - 0.95) as f32,
                size: (3e-3 / power(0.9)) as f32,
                root: power(0.95).sqrt() as f32,
                eps: 1e-8,
            };
            let gradients = lengths().into_iter().enumerate();
            let gradients = gradients.map(|(i, len)| gradient(len, i as u64, device));
            let gradients = gradients.collect::<Result<Vec<_>>>()?;
            let shrink = |i: usize| if i.is_multiple_of(3) { 1.0 } else { 0.9997 };
            // Some have no gradient in some steps.
            let is_there = |i: usize| !(i + step as usize).is_multiple_of(11);
            let mut parameters = Vec::new();
            for (i, ([parameter, first, second], (gradient, g))) in
                tensors.iter().zip(&gradients).enumerate()
            {
                if !is_there(i) {
                    continue;
                }
                let shrink = shrink(i);
                parameters.push(AdamParameter { parameter, first, second, gradient, shrink });
                let [p, m, v] = &mut values[i];
                for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
                    let g = g * rates.scale;
                    *m += rates.gain1 * (g - *m);
                    *v = rates.beta2 * *v + rates.gain2 * g * g;
                    *p = shrink * *p - rates.size * (*m / (v.sqrt() / rates.root + rates.eps));
                }
            }
            let gate = |scale: f32| Tensor::new(&[scale], device);
            match step {
                2 => {
                    let elsewhere = AdamRates { scale: -1.0, ..rates };
                    adam(&parameters, &elsewhere, Some(&gate(rates.scale)?))?;
                }
                _ => adam(&parameters, &rates, None)?,
            }
            // A closed gate: nothing happens.
            adam(&parameters, &rates, Some(&gate(f32::NAN)?))?;
            for (i, (tensors, values)) in tensors.iter().zip(&values).enumerate() {
                for (j, name) in ["parameter", "first", "second"].into_iter().enumerate() {
                    same(&format!("step {step}, {name} {i}"), &tensors[j], &values[j])?;
                }
            }
        }
        Ok(())
    })
}

#[test]
fn averages_are_those_of_the_cpu() -> Result<()> {
    on_gpu("averages_are_those_of_the_cpu", |device| {
        let mut means = Vec::new();
        let mut values = Vec::new();
        for (i, len) in lengths().into_iter().enumerate() {
            let (x, expected) = gradient(len, i as u64, device)?;
            let start = noise(x.dims(), 1000 + i as u64)?;
            means.push((upload(&start, device)?, start));
            values.push((x, expected));
        }
        let pairs: Vec<_> = means.iter().zip(&values).map(|((m, _), (x, _))| (m, x)).collect();
        follow(&pairs, 0.123)?;
        for (i, ((mean, start), (_, x))) in means.iter().zip(&values).enumerate() {
            let start = start.flatten_all()?.to_vec1::<f32>()?;
            let expected = start.iter().zip(x).map(|(m, x)| m + 0.123 * (x - m));
            same(&format!("mean {i}"), mean, &expected.collect::<Vec<_>>())?;
        }
        Ok(())
    })
}

#[test]
fn norms_are_those_of_the_cpu_and_always_the_same() -> Result<()> {
    on_gpu("norms_are_those_of_the_cpu_and_always_the_same", |device| {
        let lengths = lengths().into_iter().enumerate();
        let given = lengths.map(|(i, len)| gradient(len, i as u64, device));
        let given = given.collect::<Result<Vec<_>>>()?;
        for count in [1, 3, 50, given.len()] {
            let given = &given[given.len() - count..];
            let numbers = given.iter().flat_map(|(_, values)| values);
            let expected = numbers.map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            let found = || -> Result<f64> {
                let root = norm(given.iter().map(|(tensor, _)| tensor))?.context("no norm")?;
                Ok(root.to_scalar::<f64>()?)
            };
            let first = found()?;
            ensure!((first / expected - 1.0).abs() < 1e-13, "{count}: {first}, not {expected}");
            ensure!((0..5).all(|_| found().is_ok_and(|next| next == first)), "{count}");
        }
        assert!(norm([])?.is_none());
        let empty = Tensor::zeros((0, 3), DType::F32, &Device::Cpu)?;
        assert!(norm([&upload(&empty, device)?])?.is_none());
        for value in [f32::NAN, f32::INFINITY] {
            let with = Tensor::full(value, 1, device)?;
            let root = norm([&given[20].0, &with])?.context("no norm")?.to_scalar::<f64>()?;
            assert!(!root.is_finite());
        }
        Ok(())
    })
}

#[test]
fn conversions_are_those_of_the_cpu() -> Result<()> {
    on_gpu("conversions_are_those_of_the_cpu", |device| {
        let lengths = lengths().into_iter().enumerate();
        let given = lengths.map(|(i, len)| Ok(gradient(len, i as u64, device)?.0));
        let given = given.collect::<Result<Vec<_>>>()?;
        let refs: Vec<_> = given.iter().collect();
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
            let made = converted(&refs, dtype)?;
            let back = match dtype {
                DType::F64 => made.clone(),
                _ => converted(&made.iter().collect::<Vec<_>>(), DType::F32)?,
            };
            for (i, ((made, back), given)) in made.iter().zip(&back).zip(&given).enumerate() {
                ensure!(made.dtype() == dtype && made.dims() == given.dims(), "{dtype:?} {i}");
                let expected = given.to_device(&Device::Cpu)?.to_dtype(dtype)?;
                let expected = expected.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
                let back = back.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
                same(&format!("{dtype:?} {i}"), &back, &expected)?;
            }
        }
        Ok(())
    })
}

#[test]
fn one_tensor_after_the_other() -> Result<()> {
    on_gpu("one_tensor_after_the_other", |device| {
        let codes = Tensor::new(&[[7u32, u32::MAX], [0, 1]], device)?;
        let (float, double) = (Tensor::new(&[0.1f32], device)?, Tensor::new(0.1f64, device)?);
        let empty = upload(&Tensor::zeros(0, DType::F32, &Device::Cpu)?, device)?;
        let all = concatenated(&[&float, &codes.t()?, &empty, &double], DType::F64)?;
        let expected = [f64::from(0.1f32), 7.0, 0.0, f64::from(u32::MAX), 1.0, 0.1];
        assert_eq!(all.to_vec1::<f64>()?, expected);
        assert_eq!(concatenated(&[&empty], DType::F64)?.to_vec1::<f64>()?, [0f64; 0]);
        Ok(())
    })
}

/// Beyond what 32 bits can count.
#[test]
fn a_huge_tensor() -> Result<()> {
    on_gpu("a_huge_tensor", |device| {
        let len = (1 << 31) + 5;
        let Ok(tensor) = Tensor::zeros(len, DType::F32, device) else {
            println!("skipped: not enough memory (a_huge_tensor)");
            return Ok(());
        };
        let end = Tensor::full(2f32, 9, device)?;
        convert(&[(&tensor.narrow(0, len - 9, 9)?, &end)])?;
        assert_eq!(norm([&tensor])?.context("no norm")?.to_scalar::<f64>()?, 6.0);
        follow(&[(&tensor, &tensor.zeros_like()?)], 0.5)?;
        assert_eq!(norm([&tensor])?.context("no norm")?.to_scalar::<f64>()?, 3.0);
        Ok(())
    })
}

#[test]
fn what_does_not_fit_is_refused() -> Result<()> {
    on_gpu("what_does_not_fit_is_refused", |device| {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, device);
        let (a, b, c) = (zeros(&[2, 3])?, zeros(&[3, 2])?, zeros(&[2, 3])?);
        let elsewhere = Tensor::zeros((2, 3), DType::F32, &Device::Cpu)?;
        assert!(follow(&[(&a, &b)], 0.5).is_err());
        assert!(follow(&[(&a, &c), (&a, &elsewhere)], 0.5).is_err());
        assert!(follow(&[(&b.t()?, &a)], 0.5).is_err());
        assert!(follow(&[(&a, &c.to_dtype(DType::F64)?)], 0.5).is_err());
        assert!(norm([&a, &elsewhere]).is_err());
        let bytes = Tensor::zeros((2, 3), DType::U8, device)?;
        let error = convert(&[(&bytes, &a)]).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("F32 to U8"), "{error}");
        follow(&[(&a, &c)], 0.5)?;
        follow(&[], 0.5)?;
        Ok(())
    })
}
