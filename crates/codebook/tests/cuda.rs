//! On an NVIDIA GPU: the same codes as on the CPU. Says so and passes where there is none.
#![cfg(feature = "cuda")]

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use codebook::{
    EmaQuantizer, EmaState, EuclideanQuantizer, NormalizedQuantizer, Quantizer, argmax_rows,
    nearest_codes,
};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn gpu() -> Option<Device> {
    let device = Device::new_cuda_with_stream(0).ok();
    if device.is_none() {
        println!("skipped: no CUDA device");
    }
    device
}

/// `[len, dim]` values; with few `levels` many distances are equal.
fn table(rng: &mut ChaCha8Rng, len: usize, dim: usize, levels: u32) -> Result<Tensor> {
    let mut value = || match levels {
        0 => rng.random_range(-1.0..1.0f32),
        _ => rng.random_range(0..levels) as f32,
    };
    let values: Vec<f32> = (0..len * dim).map(|_| value()).collect();
    Ok(Tensor::from_vec(values, (len, dim), &Device::Cpu)?)
}

fn assert_same(gpu: &Device, vectors: &Tensor, codebook: &Tensor) -> Result<Vec<u32>> {
    let cpu = nearest_codes(vectors, codebook)?.to_vec1::<u32>()?;
    let found = nearest_codes(&vectors.to_device(gpu)?, &codebook.to_device(gpu)?)?;
    let found = found.to_vec1::<u32>()?;
    ensure!(found.len() == cpu.len(), "{} codes for {} vectors", found.len(), cpu.len());
    let wrong: Vec<_> = (0..cpu.len()).filter(|&i| cpu[i] != found[i]).collect();
    if let Some(&i) = wrong.first() {
        anyhow::bail!(
            "{:?} x {:?}: {} codes differ; vector {i}: {} on the GPU, {} on the CPU",
            vectors.shape(),
            codebook.shape(),
            wrong.len(),
            found[i],
            cpu[i]
        );
    }
    Ok(cpu)
}

#[test]
fn sizes_around_every_edge_of_a_tile() -> Result<()> {
    let Some(gpu) = gpu() else { return Ok(()) };
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for dim in [1, 3, 4, 5, 8, 9, 16, 17, 32, 33, 63, 64, 65, 128, 255, 256, 257, 512, 513] {
        for (n, k) in [(1, 1), (127, 255), (128, 256), (129, 257), (513, 1025), (300, 2049)] {
            let (v, c) = (table(&mut rng, n, dim, 0)?, table(&mut rng, k, dim, 0)?);
            assert_same(&gpu, &v, &c).with_context(|| format!("dim {dim}"))?;
        }
    }
    println!("ok sizes_around_every_edge_of_a_tile");
    Ok(())
}

#[test]
fn published_sizes() -> Result<()> {
    let Some(gpu) = gpu() else { return Ok(()) };
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for (n, k, dim) in [(4096, 16384, 256), (4096, 16384, 8), (256, 1024, 256), (1000, 262144, 8)] {
        let (v, c) = (table(&mut rng, n, dim, 0)?, table(&mut rng, k, dim, 0)?);
        assert_same(&gpu, &v, &c)?;
        // Vectors that are all but codes, and a codebook that is all but one code.
        let near = (c.narrow(0, k / 2, n.min(k / 2))? + 1e-4)?;
        assert_same(&gpu, &near, &c)?;
        let alike = ((c.narrow(0, 0, 700)? * 1e-3)? + 1.0)?;
        assert_same(&gpu, &v.narrow(0, 0, 200)?, &alike)?;
    }
    // More than one pass.
    let (v, c) = (table(&mut rng, 70_000, 40, 0)?, table(&mut rng, 300, 40, 0)?);
    assert_same(&gpu, &v, &c)?;
    println!("ok published_sizes");
    Ok(())
}

#[test]
fn ties_go_to_the_lowest_index() -> Result<()> {
    let Some(gpu) = gpu() else { return Ok(()) };
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for dim in [6, 40, 300] {
        let rows = table(&mut rng, 3000, dim, 0)?;
        let codebook = Tensor::cat(&[&rows, &rows], 0)?;
        let codes = assert_same(&gpu, &rows.narrow(0, 1000, 400)?, &codebook)?;
        ensure!(codes == (1000..1400).collect::<Vec<_>>());
        let equal = Tensor::full(0.1f32, (4000, dim), &Device::Cpu)?;
        ensure!(assert_same(&gpu, &equal.narrow(0, 0, 3)?, &equal)? == [0, 0, 0]);
        for levels in [2, 3] {
            let (v, c) = (table(&mut rng, 150, dim, levels)?, table(&mut rng, 900, dim, levels)?);
            assert_same(&gpu, &v, &c)?;
        }
    }
    println!("ok ties_go_to_the_lowest_index");
    Ok(())
}

#[test]
fn views_and_other_dtypes() -> Result<()> {
    let Some(gpu) = gpu() else { return Ok(()) };
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for dim in [7, 48] {
        // Transposed on the GPU, and a narrow view that does not start at 0.
        let (v, c) = (table(&mut rng, dim, 200, 0)?, table(&mut rng, 901, dim, 0)?);
        let on_gpu =
            nearest_codes(&v.to_device(&gpu)?.t()?, &c.to_device(&gpu)?.narrow(0, 1, 900)?)?;
        let on_cpu = nearest_codes(&v.t()?, &c.narrow(0, 1, 900)?)?;
        ensure!(on_gpu.to_vec1::<u32>()? == on_cpu.to_vec1::<u32>()?);
        for dtype in [DType::F64, DType::F16, DType::BF16] {
            assert_same(&gpu, &v.t()?.to_dtype(dtype)?, &c.to_dtype(dtype)?)?;
        }
        let none = v.t()?.narrow(0, 0, 0)?;
        ensure!(assert_same(&gpu, &none, &c)?.is_empty());
    }
    println!("ok views_and_other_dtypes");
    Ok(())
}

#[test]
fn nan_and_infinity_are_errors() -> Result<()> {
    let Some(gpu) = gpu() else { return Ok(()) };
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for (dim, bad) in [(5, f32::NAN), (5, f32::INFINITY), (70, f32::NAN), (70, f32::NEG_INFINITY)] {
        for in_codebook in [false, true] {
            let mut v = table(&mut rng, 300, dim, 0)?.to_vec2::<f32>()?;
            let mut c = table(&mut rng, 700, dim, 0)?.to_vec2::<f32>()?;
            if in_codebook {
                c[699][3] = bad
            } else {
                v[299][3] = bad
            }
            let result = nearest_codes(&Tensor::new(v, &gpu)?, &Tensor::new(c, &gpu)?);
            let error = result.err().context("a search with NaN gave codes")?.to_string();
            let row = if in_codebook { "row 699" } else { "row 299" };
            ensure!(error.contains(row) && error.contains("column 3"), "{error}");
        }
    }
    println!("ok nan_and_infinity_are_errors");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn random_shapes_scales_and_offsets(
        (n, k, dim) in (0usize..300, 1usize..700, 1usize..100),
        levels in 0u32..4,
        scale in prop::sample::select(vec![1.0, 1e-30, 1e-22, 1e-3, 1e4, 1e17, 1e30]),
        offset in prop::sample::select(vec![0.0, 1.0, 1000.0]),
        seed: u64,
    ) {
        if let Ok(gpu) = Device::new_cuda_with_stream(0) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut made = |len| -> Result<Tensor> {
                Ok(((table(&mut rng, len, dim, levels)? + offset)? * scale)?)
            };
            let (v, c) = (made(n).unwrap(), made(k).unwrap());
            assert_same(&gpu, &v, &c).map_err(|e| TestCaseError::fail(format!("{e:#}")))?;
        }
    }
}

/// Who does not wait gets the same, and what has no distance gets no code.
#[test]
fn quantizing_without_waiting_is_quantizing() -> Result<()> {
    let Some(gpu) = gpu() else { return Ok(()) };
    let mut rng = ChaCha8Rng::seed_from_u64(12);
    for dim in [8, 64] {
        let z = table(&mut rng, 2 * dim, 5 * 7, 0)?.reshape((2, dim, 5, 7))?;
        let codebook = table(&mut rng, 300, dim, 0)?;
        let state = EmaState::from_codebook(&codebook.to_device(&gpu)?, 1e-5)?;
        let quantizers: [Box<dyn Quantizer>; 3] = [
            Box::new(EuclideanQuantizer::new(codebook.to_device(&gpu)?, 0.25, false)?),
            Box::new(NormalizedQuantizer::new(codebook.to_device(&gpu)?, 0.25, 0.0)?),
            Box::new(EmaQuantizer::new(state, 0.25, 0.99, 1e-5)?),
        ];
        let bad = z.narrow(3, 0, 1)?.affine(f64::NAN, 0.0)?;
        let bad = Tensor::cat(&[&bad, &z.narrow(3, 1, 6)?], 3)?.to_device(&gpu)?;
        let z = z.to_device(&gpu)?;
        for quantizer in quantizers {
            let (one, two) = (quantizer.quantize(&z)?, quantizer.quantize_without_waiting(&z)?);
            ensure!(one.codes.to_vec()? == two.codes.to_vec()?, "dim {dim}");
            let values = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
            ensure!(values(&one.embeddings)? == values(&two.embeddings)?, "dim {dim}");
            ensure!(quantizer.quantize(&bad).is_err(), "dim {dim}: NaN was quantized");
            let found = quantizer.quantize_without_waiting(&bad)?.codes.to_vec()?;
            for (i, (found, code)) in found.into_iter().zip(one.codes.to_vec()?).enumerate() {
                let expected = if i % 7 == 0 { u32::MAX } else { code };
                ensure!(found == expected, "dim {dim}, vector {i}: {found}, not {expected}");
            }
        }
    }
    println!("ok quantizing_without_waiting_is_quantizing");
    Ok(())
}

#[test]
fn argmax_is_the_cpus() -> Result<()> {
    let Some(gpu) = gpu() else { return Ok(()) };
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    for (n, k, levels) in [(1, 1, 0), (70, 33, 3), (300, 1000, 0), (5, 8192, 2)] {
        let scores = table(&mut rng, n, k, levels)?;
        for dtype in [DType::F32, DType::F64, DType::BF16] {
            let scores = scores.to_dtype(dtype)?;
            let found = argmax_rows(&scores.to_device(&gpu)?)?.to_vec1::<u32>()?;
            ensure!(found == argmax_rows(&scores)?.to_vec1::<u32>()?, "{n} x {k} {dtype:?}");
        }
    }
    let low = Tensor::full(f32::NEG_INFINITY, (2, 300), &gpu)?;
    ensure!(argmax_rows(&low)?.to_vec1::<u32>()? == [0, 0]);
    let mut rows = vec![vec![0f32; 300]; 2];
    rows[1][299] = f32::NAN;
    let error = argmax_rows(&Tensor::new(rows, &gpu)?).err().context("NaN has no arg-max")?;
    ensure!(error.to_string().contains("row 1, column 299"), "{error}");
    println!("ok argmax_is_the_cpus");
    Ok(())
}

#[test]
fn moving_averages_are_the_cpus_and_the_same_every_time() -> Result<()> {
    let Some(gpu) = gpu() else { return Ok(()) };
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let codebook = table(&mut rng, 50, 12, 0)?;
    // Many vectors of few codes: threads get in each other's way.
    let z = table(&mut rng, 3 * 40 * 40, 12, 0)?.reshape((3, 40, 40, 12))?;
    let z = z.permute((0, 3, 1, 2))?.contiguous()?;
    let updated = |device: &Device| -> Result<Vec<Vec<f32>>> {
        let state = EmaState::from_codebook(&codebook.to_device(device)?, 1e-5)?;
        let quantizer = EmaQuantizer::new(state, 0.25, 0.99, 1e-5)?;
        let z = z.to_device(device)?;
        let state = quantizer.update(&z, &quantizer.codes(&z)?)?;
        state.tensors().map(|t| Ok(t.flatten_all()?.to_vec1::<f32>()?)).into_iter().collect()
    };
    let (cpu, first) = (updated(&Device::Cpu)?, updated(&gpu)?);
    for (cpu, gpu) in cpu.iter().zip(&first) {
        for (a, b) in cpu.iter().zip(gpu) {
            ensure!((a - b).abs() <= 1e-4 * a.abs().max(1e-2), "{a} on the CPU, {b} on the GPU");
        }
    }
    for _ in 0..5 {
        ensure!(updated(&gpu)? == first, "another result from the same vectors");
    }
    println!("ok moving_averages_are_the_cpus_and_the_same_every_time");
    Ok(())
}
