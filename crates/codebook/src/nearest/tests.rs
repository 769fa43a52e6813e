//! The fast search against its plain twin.

mod kernels;

use candle_core::{DType, Device, Tensor, Var};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{nearest_codes, nearest_codes_plain};
use crate::Error;

/// `[len, dim]` values; with few `levels` many distances are equal.
fn table(rng: &mut ChaCha8Rng, len: usize, dim: usize, levels: u32) -> anyhow::Result<Tensor> {
    let mut value = || match levels {
        0 => rng.random_range(-1.0..1.0f32),
        _ => rng.random_range(0..levels) as f32,
    };
    let values: Vec<f32> = (0..len * dim).map(|_| value()).collect();
    Ok(Tensor::from_vec(values, (len, dim), &Device::Cpu)?)
}

fn assert_same(vectors: &Tensor, codebook: &Tensor) -> anyhow::Result<Vec<u32>> {
    let fast = nearest_codes(vectors, codebook)?.to_vec1::<u32>()?;
    let plain = nearest_codes_plain(vectors, codebook)?.to_vec1::<u32>()?;
    if let Some(i) = (0..fast.len()).find(|&i| fast[i] != plain[i]) {
        anyhow::bail!("vector {i}: fast {} is not plain {}", fast[i], plain[i]);
    }
    Ok(fast)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn fast_is_plain(
        (n, k, dim) in (0usize..70, 1usize..90, 1usize..40),
        levels in 0u32..4,
        scale in prop::sample::select(vec![1.0, 1e-30, 1e-22, 1e-3, 1e4, 1e17, 1e30]),
        offset in prop::sample::select(vec![0.0, 1.0, 1000.0]),
        seed: u64,
    ) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let shifted = |t: Tensor| (t + offset)? * scale;
        let vectors = shifted(table(&mut rng, n, dim, levels).unwrap()).unwrap();
        let codebook = shifted(table(&mut rng, k, dim, levels).unwrap()).unwrap();
        assert_same(&vectors, &codebook).map_err(|e| TestCaseError::fail(e.to_string()))?;
    }
}

#[test]
fn fast_is_plain_over_several_tiles() -> anyhow::Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for (n, k, dim, levels) in
        [(600, 5000, 4, 0), (300, 2049, 8, 3), (257, 513, 256, 0), (1, 4100, 3, 2), (513, 1, 5, 0)]
    {
        let vectors = table(&mut rng, n, dim, levels)?;
        let codebook = table(&mut rng, k, dim, levels)?;
        assert_same(&vectors, &codebook)?;
    }
    Ok(())
}

#[test]
fn ties_go_to_the_lowest_index() -> anyhow::Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    // Every row again, 3000 rows later, and all vectors are rows.
    let rows = table(&mut rng, 3000, 6, 0)?;
    let codebook = Tensor::cat(&[&rows, &rows], 0)?;
    let codes = assert_same(&rows.narrow(0, 1000, 400)?, &codebook)?;
    assert_eq!(codes, (1000..1400).collect::<Vec<_>>());
    let equal = Tensor::full(0.1f32, (4000, 7), &Device::Cpu)?;
    assert_eq!(assert_same(&equal.narrow(0, 0, 3)?, &equal)?, [0, 0, 0]);
    Ok(())
}

#[test]
fn a_near_tie_is_decided_by_the_distance_not_by_rounding() -> anyhow::Result<()> {
    // |e|^2 is about 2.56e6, so scores in f32 are multiples of 0.25; distances
    // differ by less than 1e-3.
    let dim = 256;
    let vector = Tensor::full(100f32, (1, dim), &Device::Cpu)?;
    let mut rows = vec![100.02f32; 40 * dim];
    rows[23 * dim] = 100.0;
    let codebook = Tensor::from_vec(rows, (40, dim), &Device::Cpu)?;
    assert_eq!(assert_same(&vector, &codebook)?, [23]);
    Ok(())
}

#[test]
fn nan_and_infinity_are_errors_wherever_they_are() -> anyhow::Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let good = |rng: &mut ChaCha8Rng, len| {
        table(rng, len, 5, 0)?.to_vec2::<f32>().map_err(anyhow::Error::from)
    };
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for (n, k, row, column, in_codebook) in [
            (3, 4, 2, 0, false),
            (3, 4, 3, 4, true),
            (700, 3000, 699, 1, false),
            (700, 3000, 2999, 3, true),
        ] {
            let (mut vectors, mut codebook) = (good(&mut rng, n)?, good(&mut rng, k)?);
            let table = if in_codebook { &mut codebook } else { &mut vectors };
            table[row][column] = bad;
            let (vectors, codebook) =
                (Tensor::new(vectors, &Device::Cpu)?, Tensor::new(codebook, &Device::Cpu)?);
            for dtype in [DType::F32, DType::F64] {
                let (v, c) = (vectors.to_dtype(dtype)?, codebook.to_dtype(dtype)?);
                for search in [nearest_codes, nearest_codes_plain] {
                    let error = search(&v, &c).unwrap_err();
                    assert!(
                        matches!(error, Error::NotFinite { row: r, column: c, what, .. }
                            if (r, c) == (row, column) && (what == "vectors") != in_codebook),
                        "{error}"
                    );
                }
            }
        }
    }
    Ok(())
}

#[test]
fn distances_beyond_f32_are_still_compared() -> anyhow::Result<()> {
    let codebook = Tensor::new(&[[3e38f32, 0.], [-3e38, 0.], [2e38, 1e38]], &Device::Cpu)?;
    let vectors = Tensor::new(&[[-1e38f32, 0.], [2e38, 2e38], [0., 0.]], &Device::Cpu)?;
    assert_eq!(assert_same(&vectors, &codebook)?, [1, 2, 2]);
    let beyond = Tensor::new(&[[1e200f64]], &Device::Cpu)?;
    assert!(nearest_codes(&beyond, &beyond.neg()?).is_err());
    Ok(())
}

#[test]
fn views_are_searched_like_copies() -> anyhow::Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let (v, c) = (table(&mut rng, 6, 300, 0)?, table(&mut rng, 12, 100, 0)?);
    let vectors = v.t()?.narrow(0, 7, 200)?.narrow(1, 1, 4)?;
    let codebook = c.t()?.narrow(1, 5, 4)?;
    let copies = nearest_codes_plain(&vectors.copy()?.contiguous()?, &codebook.contiguous()?)?;
    assert_eq!(assert_same(&vectors, &codebook)?, copies.to_vec1::<u32>()?);
    let broadcast = c.narrow(1, 0, 1)?.broadcast_as((12, 9))?;
    assert_eq!(assert_same(&broadcast, &broadcast)?, (0..12).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn one_and_two_threads_agree() -> anyhow::Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let (vectors, codebook) = (table(&mut rng, 700, 16, 2)?, table(&mut rng, 5000, 16, 2)?);
    let with = |threads| -> anyhow::Result<Vec<u32>> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        pool.install(|| assert_same(&vectors, &codebook))
    };
    assert_eq!(with(1)?, with(2)?);
    assert_eq!(with(1)?, with(5)?);
    Ok(())
}

#[test]
fn takes_every_float_dtype_and_tracked_tensors() -> anyhow::Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    // Small integers: exact in every dtype.
    let (vectors, codebook) = (table(&mut rng, 50, 4, 5)?, table(&mut rng, 60, 4, 5)?);
    let codes = assert_same(&vectors, &codebook)?;
    for dtype in [DType::F16, DType::BF16, DType::F64] {
        let (v, c) = (vectors.to_dtype(dtype)?, codebook.to_dtype(dtype)?);
        assert_eq!(assert_same(&v, &c)?, codes);
        assert_eq!(assert_same(&v, &codebook)?, codes);
    }
    let (v, c) = (Var::from_tensor(&vectors)?, Var::from_tensor(&codebook)?);
    assert_eq!(assert_same(&(v.as_tensor() * 1.0)?, c.as_tensor())?, codes);
    Ok(())
}

#[test]
fn refuses_what_has_no_nearest_code() -> anyhow::Result<()> {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu);
    assert_eq!(nearest_codes(&zeros(&[0, 3])?, &zeros(&[2, 3])?)?.dims(), [0]);
    assert_eq!(nearest_codes_plain(&zeros(&[0, 3])?, &zeros(&[2, 3])?)?.dims(), [0]);
    for (vectors, codebook) in
        [(&[2, 3][..], &[0, 3][..]), (&[2, 0], &[4, 0]), (&[2, 3], &[4, 2]), (&[6], &[2, 3])]
    {
        for search in [nearest_codes, nearest_codes_plain] {
            let error = search(&zeros(vectors)?, &zeros(codebook)?).unwrap_err();
            assert!(matches!(error, Error::Shape { .. }), "{error}");
        }
    }
    let integers = Tensor::zeros((2, 3), DType::U32, &Device::Cpu)?;
    assert!(matches!(nearest_codes(&integers, &zeros(&[2, 3])?), Err(Error::DType { .. })));
    Ok(())
}
