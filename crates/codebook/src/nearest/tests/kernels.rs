//! Every kernel of this machine against the plain search, at the edges of its
//! tiles and of what f32 can tell apart.

use proptest::prelude::*;
use proptest::sample::select;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::nearest::bound::{ErrorBound, norm_limit, of_rounding};
use crate::nearest::kernel::{Group, Kernel, Summary};
use crate::nearest::rows::Rows;
use crate::nearest::{plain, search};

/// What the values of a table are like.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Values {
    Uniform,
    /// So few values that many distances are equal.
    Levels(u32),
    /// One row, again and again, some values of it moved by the smallest step.
    NearDuplicates,
    /// Magnitudes from denormal to beyond what scores in f32 can hold.
    AnyMagnitude,
    Denormal,
    /// Small, but for one huge row.
    Outlier,
}

fn table(rng: &mut ChaCha8Rng, len: usize, dim: usize, values: Values) -> Vec<f32> {
    let unit = |rng: &mut ChaCha8Rng| rng.random_range(-1.0..1.0f32);
    let row: Vec<f32> = (0..dim).map(|_| unit(rng)).collect();
    let mut table: Vec<f32> = (0..len * dim)
        .map(|i| match values {
            Values::Uniform | Values::Outlier => unit(rng),
            Values::Levels(levels) => rng.random_range(0..levels) as f32,
            Values::NearDuplicates => match rng.random_range(0..4 * dim) {
                0 => row[i % dim].next_up(),
                1 => row[i % dim].next_down(),
                _ => row[i % dim],
            },
            Values::AnyMagnitude => unit(rng) * 10f32.powi(rng.random_range(-45..39)),
            Values::Denormal => unit(rng) * 1e-39,
        })
        .collect();
    if values == Values::Outlier && len > 0 {
        let row = rng.random_range(0..len);
        table[row * dim..][..dim].fill(1e9);
    }
    table
}

/// The codes that all kernels and the plain search agree on.
fn codes_of_all(vectors: &[f32], codebook: &[f32], dim: usize) -> Result<Vec<u32>, String> {
    let (vectors, codebook) = (Rows::from_slice(vectors, dim), Rows::from_slice(codebook, dim));
    let expected = plain::search(vectors, codebook).ok_or("plain: not finite")?;
    for kernel in Kernel::available() {
        let codes = search::search(kernel, vectors, codebook)
            .ok_or_else(|| format!("{kernel:?}: not finite"))?;
        if let Some(i) = (0..expected.len()).find(|&i| codes[i] != expected[i]) {
            let (fast, plain) = (codes[i], expected[i]);
            return Err(format!("{kernel:?}: vector {i}: {fast}, by the plain search {plain}"));
        }
    }
    Ok(expected)
}

fn any_values() -> impl Strategy<Value = Values> {
    select(vec![
        Values::Uniform,
        Values::Levels(2),
        Values::Levels(3),
        Values::NearDuplicates,
        Values::AnyMagnitude,
        Values::Denormal,
        Values::Outlier,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn kernels_are_plain_at_the_edges_of_tiles(
        n in select(vec![0usize, 1, 2, 8, 9, 10, 15, 16, 17, 31, 32, 33, 48, 64, 65, 100]),
        k in select(vec![1usize, 2, 5, 6, 7, 11, 12, 13, 16, 17, 24, 47, 48, 49, 95, 96, 97, 145]),
        dim in select(vec![1usize, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65, 100]),
        (vectors, codebook) in (any_values(), any_values()),
        seed: u64,
    ) {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let (vectors, codebook) = (table(rng, n, dim, vectors), table(rng, k, dim, codebook));
        codes_of_all(&vectors, &codebook, dim).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn vectors_near_codes_find_them(
        (n, k, dim) in (1usize..40, 1usize..200, 1usize..40),
        values in any_values(),
        step in select(vec![0.0, 1e-7, 1e-3]),
        seed: u64,
    ) {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let codebook = table(rng, k, dim, values);
        let mut vectors: Vec<f32> = Vec::new();
        for _ in 0..n {
            let row = rng.random_range(0..k);
            vectors.extend(codebook[row * dim..][..dim].iter().map(|a| a * (1.0 + step)));
        }
        // At steps of 0 this is also a test of exact duplicates: codes appear twice.
        let twice = [&codebook[..], &codebook[..]].concat();
        let codes = codes_of_all(&vectors, &twice, dim).map_err(TestCaseError::fail)?;
        prop_assert!(codes.iter().all(|&code| (code as usize) < k));
    }
}

#[test]
fn kernels_are_plain_over_several_groups_chunks_and_units_of_work() -> Result<(), String> {
    let rng = &mut ChaCha8Rng::seed_from_u64(1);
    for (n, k, dim) in [
        (511, 479, 4),
        (512, 480, 8),
        (513, 481, 3),
        (1025, 2399, 8),
        (17, 2400, 16),
        (300, 2401, 5),
        (40, 5000, 40),
        (33, 700, 256),
        (70, 700, 256),
        (64, 1000, 24),
        (300, 2500, 33),
        (9, 241, 257),
        (3, 300, 512),
        (20, 130, 2000),
        (1, 20000, 4),
    ] {
        for values in [Values::Uniform, Values::Levels(2), Values::NearDuplicates] {
            let (vectors, codebook) = (table(rng, n, dim, values), table(rng, k, dim, values));
            codes_of_all(&vectors, &codebook, dim)
                .map_err(|e| format!("{n} x {k} x {dim}, {values:?}: {e}"))?;
        }
    }
    Ok(())
}

#[test]
fn a_coarse_sweep_is_off_by_no_more_than_it_says() -> anyhow::Result<()> {
    let rng = &mut ChaCha8Rng::seed_from_u64(8);
    let norm = |row: &[f32]| row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
    for dim in [24, 31, 32, 33, 47, 256, 513] {
        for values in [Values::Uniform, Values::Levels(3), Values::NearDuplicates, Values::Denormal]
        {
            // An odd one out: one value much larger than the rest of its row.
            let mut vectors = table(rng, 70, dim, values);
            vectors[3 * dim + 5] = 50.0;
            let codebook = table(rng, 97, dim, values);
            let (rows, codes) = (Rows::from_slice(&vectors, dim), Rows::from_slice(&codebook, dim));
            let starts: Vec<f32> = codes.iter().map(|code| -0.5 * norm(code) as f32).collect();
            let longest = codes.iter().map(norm).fold(0.0, f64::max) as f32;
            let longest = norm_limit(longest, dim);
            for kernel in Kernel::available() {
                let mut buffer = Vec::new();
                let group = Group::coarse(kernel, rows, &mut buffer);
                let Some(vectors_lost) = group.lost() else { continue };
                let mut summary = Summary::new(&group);
                group.sweep(codes, &starts, &mut summary);
                let codes_lost = norm_limit(summary.codes_lost, dim);
                for (i, vector) in rows.iter().enumerate() {
                    let scores = codes.iter().map(|code| {
                        let product = vector.iter().zip(code);
                        let product = product.map(|(a, b)| f64::from(*a) * f64::from(*b));
                        product.sum::<f64>() - 0.5 * norm(code)
                    });
                    let best = scores.fold(f64::NEG_INFINITY, f64::max);
                    let length = norm_limit(norm(vector) as f32, dim);
                    let error = ErrorBound::new(dim).of(length, longest)
                        + of_rounding((length, vectors_lost[i]), (longest, codes_lost));
                    let off = (f64::from(summary.best[i]) - best).abs();
                    anyhow::ensure!(
                        off <= f64::from(error),
                        "{kernel:?}, {dim}, {values:?}: {i} is off by {off}, not {error}"
                    );
                    // And what it says is worth something.
                    anyhow::ensure!(
                        values == Values::Denormal || error < 0.02 * length * longest + 1e-3,
                        "{kernel:?}, {dim}, {values:?}: {i} may be off by {error}"
                    );
                }
            }
        }
    }
    Ok(())
}

#[test]
fn rounding_in_f64_decides_like_in_the_plain_search() -> Result<(), String> {
    // Products differ by much less than f64 can tell apart at |z|^2, so that codes
    // tie in the plain search whose scores in f32 do not.
    let rng = &mut ChaCha8Rng::seed_from_u64(2);
    for (long, short) in [(1e9, 1e-4), (1e12, 1e-3), (1e16, 1e-6), (1e17, 1.0)] {
        for dim in [2, 8, 20] {
            let scaled = |t: Vec<f32>, scale: f32| t.iter().map(|a| a * scale).collect::<Vec<_>>();
            let vectors = scaled(table(rng, 40, dim, Values::Uniform), long);
            let codebook = scaled(table(rng, 1000, dim, Values::Uniform), short);
            codes_of_all(&vectors, &codebook, dim)?;
        }
    }
    Ok(())
}

#[test]
fn vectors_too_long_for_f32_do_not_disturb_the_others() -> Result<(), String> {
    let rng = &mut ChaCha8Rng::seed_from_u64(3);
    for dim in [4, 24] {
        let mut vectors = table(rng, 100, dim, Values::Uniform);
        let codebook = table(rng, 600, dim, Values::Uniform);
        for (i, value) in [1e18, -3e18, 1e19, 3e38, -3e38, f32::MAX].into_iter().enumerate() {
            vectors[(7 + 13 * i) * dim + i % dim] = value;
        }
        codes_of_all(&vectors, &codebook, dim)?;
        let huge: Vec<f32> = codebook.iter().map(|a| a * 2e38).collect();
        codes_of_all(&vectors, &huge, dim)?;
    }
    Ok(())
}

#[test]
fn equal_codes_and_zeros_are_ties() -> Result<(), String> {
    let zeros = [0.0f32; 40 * 20];
    assert!(codes_of_all(&zeros, &zeros, 20)?.iter().all(|&code| code == 0));
    let rng = &mut ChaCha8Rng::seed_from_u64(4);
    let vectors = table(rng, 40, 20, Values::Uniform);
    let row = table(rng, 1, 20, Values::Uniform);
    assert!(codes_of_all(&vectors, &row.repeat(1500), 20)?.iter().all(|&code| code == 0));
    let signs: Vec<f32> = (0..600 * 20).map(|i| if i / 20 % 2 == 0 { -0.0 } else { 0.0 }).collect();
    assert!(codes_of_all(&vectors, &signs, 20)?.iter().all(|&code| code == 0));
    Ok(())
}

#[test]
fn kernels_refuse_values_that_are_not_finite() {
    let rng = &mut ChaCha8Rng::seed_from_u64(5);
    for (n, k, dim) in [(1, 1, 1), (3, 500, 40), (40, 500, 8), (300, 13, 20)] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for in_codebook in [false, true] {
                let mut vectors = table(rng, n, dim, Values::Uniform);
                let mut codebook = table(rng, k, dim, Values::Uniform);
                let spoilt = if in_codebook { &mut codebook } else { &mut vectors };
                let at = rng.random_range(0..spoilt.len());
                spoilt[at] = bad;
                for kernel in Kernel::available() {
                    let (v, c) =
                        (Rows::from_slice(&vectors, dim), Rows::from_slice(&codebook, dim));
                    assert_eq!(search::search(kernel, v, c), None, "{kernel:?}, {bad}");
                }
            }
        }
    }
}

#[test]
fn codes_do_not_depend_on_threads() -> anyhow::Result<()> {
    let rng = &mut ChaCha8Rng::seed_from_u64(6);
    let dim = 12;
    for (n, k) in [(700, 500), (20, 7000)] {
        let vectors = table(rng, n, dim, Values::Levels(2));
        let codebook = table(rng, k, dim, Values::Levels(2));
        let expected = codes_of_all(&vectors, &codebook, dim).map_err(anyhow::Error::msg)?;
        for threads in [1, 2, 3, 8] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
            let codes = pool.install(|| codes_of_all(&vectors, &codebook, dim));
            assert_eq!(codes.map_err(anyhow::Error::msg)?, expected);
        }
    }
    Ok(())
}

#[test]
fn dimensions_beyond_the_bound_are_searched_too() -> Result<(), String> {
    let rng = &mut ChaCha8Rng::seed_from_u64(7);
    for dim in [(1 << 16) - 1, 1 << 16, (1 << 16) + 1] {
        let (vectors, codebook) =
            (table(rng, 2, dim, Values::Uniform), table(rng, 13, dim, Values::Uniform));
        codes_of_all(&vectors, &codebook, dim)?;
    }
    Ok(())
}
