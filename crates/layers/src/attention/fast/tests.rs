use anyhow::{Context, Result};
use candle_core::{D, DType, Device, Tensor, Var};
use proptest::prelude::*;

use super::{attend, gradients};

fn noise(shape: (usize, usize, usize), seed: u64) -> Result<Tensor> {
    let values: Vec<f32> = (0..shape.0 * shape.1 * shape.2)
        .map(|i| ((i as f64 + 1.0) * 12.9898 + seed as f64 * 78.233).sin() * 43758.5453)
        .map(|x| (2.0 * (x - x.floor()) - 1.0) as f32)
        .collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// The formula, in f64, with candle's graph.
fn plain(queries: &Tensor, keys: &Tensor, values: &Tensor) -> Result<Tensor> {
    let scale = (queries.dim(1)? as f64).powf(-0.5);
    let scores = (queries.transpose(1, 2)?.contiguous()?.matmul(keys)? * scale)?;
    let weights = candle_nn::ops::softmax(&scores, D::Minus1)?;
    Ok(values.matmul(&weights.transpose(1, 2)?.contiguous()?)?)
}

/// `[B, C, N]` queries, `[B, C, M]` keys and values: larger than softmax is flat for.
fn tokens(b: usize, c: usize, n: usize, m: usize) -> Result<[Tensor; 3]> {
    Ok([(noise((b, c, n), 1)? * 4.0)?, noise((b, c, m), 2)?, noise((b, c, m), 3)?])
}

fn compare(b: usize, c: usize, n: usize, m: usize) -> Result<()> {
    let [queries, keys, values] = tokens(b, c, n, m)?;
    let variables = [&queries, &keys, &values]
        .map(|t| t.to_dtype(DType::F64).and_then(|t| Var::from_tensor(&t)));
    let [q, k, v] = variables;
    let (q, k, v) = (q?, k?, v?);
    let expected = plain(&q, &k, &v)?;
    golden::close("mixed", &attend(&queries, &keys, &values)?, &expected, 1e-5)?;

    let upstream = noise((b, c, n), 4)?;
    let store = (&expected * upstream.to_dtype(DType::F64)?)?.sum_all()?.backward()?;
    let found = gradients(&queries, &keys, &values, &upstream)?;
    for ((name, found), leaf) in ["dq", "dk", "dv"].iter().zip(found).zip([&q, &k, &v]) {
        let expected = store.get(leaf).context("no gradient")?;
        let scale = expected.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>()?;
        golden::close(name, &found, expected, 2e-5 * scale.max(0.1))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn agrees_with_the_formula(b in 1..3usize, c in 1..40usize, n in 1..150usize, m in 1..90usize) {
        compare(b, c, n, m).map_err(|e| TestCaseError::fail(format!("{e:#}")))?;
    }
}

#[test]
fn neither_threads_nor_the_batch_change_a_bit() -> Result<()> {
    let [queries, keys, values] = tokens(3, 24, 130, 70)?;
    let upstream = noise((3, 24, 130), 5)?;
    let run = |threads: usize| -> Result<Vec<Vec<f32>>> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        pool.install(|| {
            let mut all = vec![attend(&queries, &keys, &values)?];
            all.extend(gradients(&queries, &keys, &values, &upstream)?);
            all.iter().map(|t| Ok(t.flatten_all()?.to_vec1()?)).collect()
        })
    };
    let one = run(1)?;
    assert_eq!(one, run(3)?);
    let last = [&queries, &keys, &values].map(|t| t.narrow(0, 2, 1));
    let [q, k, v] = last;
    let alone = attend(&q?, &k?, &v?)?.flatten_all()?.to_vec1::<f32>()?;
    assert_eq!(alone, one[0][2 * alone.len()..]);
    Ok(())
}

#[test]
fn views_are_read_as_what_they_show() -> Result<()> {
    let [queries, keys, values] = tokens(2, 9, 20, 20)?;
    let turned = |t: &Tensor| -> Result<Tensor> { Ok(t.transpose(1, 2)?.contiguous()?) };
    let back = turned(&queries)?.transpose(1, 2)?;
    assert!(!back.is_contiguous());
    let expected = attend(&queries, &keys, &values)?;
    golden::close("a view", &attend(&back, &keys, &values)?, &expected, 0.0)
}

#[test]
fn a_nan_stays_with_the_query_that_has_it() -> Result<()> {
    let [queries, keys, values] = tokens(1, 4, 70, 30)?;
    let mut data = queries.flatten_all()?.to_vec1::<f32>()?;
    data[65] = f32::NAN;
    let broken = Tensor::from_vec(data, queries.shape(), &Device::Cpu)?;
    let mixed = attend(&broken, &keys, &values)?.squeeze(0)?.to_vec2::<f32>()?;
    for channel in mixed {
        for (query, value) in channel.iter().enumerate() {
            assert_eq!(value.is_nan(), query == 65, "query {query}");
        }
    }
    Ok(())
}

#[test]
fn shapes_that_do_not_fit_are_refused() -> Result<()> {
    let [queries, keys, values] = tokens(1, 4, 6, 5)?;
    assert!(attend(&queries, &keys, &values.narrow(2, 0, 4)?).is_err());
    assert!(attend(&queries.narrow(1, 0, 3)?, &keys, &values).is_err());
    assert!(gradients(&queries, &keys, &values, &keys).is_err());
    Ok(())
}
