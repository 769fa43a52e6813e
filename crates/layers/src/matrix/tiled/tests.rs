use simd::tiles::{Emulated, Native, bf16_bits};

use super::*;
use crate::matrix::View;

/// Some numbers around 0, of more digits than bf16 has.
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + seed * 131) % 1009) as f32 / 504.0 - 1.0).collect()
}

/// What a number becomes: rounded, or all of it.
fn taken<const PARTS: usize>(number: f32) -> f64 {
    f64::from(if PARTS == 1 { f32::from_bits(bf16_bits(number) << 16) } else { number })
}

/// How much a sum of `k` terms may be off, as a share of their sizes: a rounding of the sum so
/// far for each. Where there are parts each term is six products, but what they round is mostly less:
/// half as much again.
fn share<const PARTS: usize>(k: usize) -> f64 {
    let often = if PARTS == 1 { k } else { k + k / 2 + 4 };
    (often + 3) as f64 * 2f64.powi(-24)
}

/// The formula in f64, and the sum of the terms' sizes.
fn formula<const PARTS: usize>(
    (m, n, k): (usize, usize, usize),
    left: View,
    right: View,
) -> Vec<(f64, f64)> {
    let element = |i: usize| {
        (0..k).fold((0.0, 0.0), |(sum, size), t| {
            let a = taken::<PARTS>(left.0[i / n * left.1 + t * left.2]);
            let b = taken::<PARTS>(right.0[t * right.1 + i % n * right.2]);
            (sum + a * b, size + (a * b).abs())
        })
    };
    (0..m * n).map(element).collect()
}

fn multiply_with<T: Tiles, const PARTS: usize>(
    isa: Option<Isa>,
    (m, n, k): (usize, usize, usize),
    target: &mut [f32],
    start: Start,
    left: View,
    right: View,
) {
    assert_eq!(target.len(), m * n);
    let to = SharedMut::new(target);
    let (left, right) = (Factor::left(left, m), Factor::right(right, n));
    // SAFETY: `target` has `m * n` floats, which nobody else uses; callers have the registers.
    unsafe { multiply::<T, PARTS>(isa, k, to, start, left, right) }
}

/// As [`multiply_with`], with every kind of register that there is.
fn with_all<const PARTS: usize>(
    mut check: impl FnMut(&dyn Fn((usize, usize, usize), &mut [f32], Start, View, View)),
) {
    for isa in Isa::with_portable() {
        check(&|sizes, target, start, left, right| {
            multiply_with::<Emulated, PARTS>(isa, sizes, target, start, left, right);
        });
    }
    if simd::tiles::are_available() {
        check(&|sizes, target, start, left, right| {
            multiply_with::<Native, PARTS>(Isa::detect(), sizes, target, start, left, right);
        });
    }
}

const SIZES: [(usize, usize, usize); 6] =
    [(1, 1, 1), (32, 32, 32), (33, 17, 70), (65, 130, 33), (31, 48, 1100), (150, 40, 2080)];

#[test]
fn products_are_the_formula() {
    are_the_formula::<1>();
    are_the_formula::<3>();
}

fn are_the_formula<const PARTS: usize>() {
    for (case, sizes) in SIZES.into_iter().enumerate() {
        let (m, n, k) = sizes;
        for layout in 0..5 {
            // The last one has neither lines nor terms side by side.
            let (gap, step) = if layout < 4 { (layout / 2 * 3, 1) } else { (0, 2) };
            let view = |transposed: bool, rows: usize, columns: usize| match transposed {
                true => (step, step * (rows + gap)),
                false => (step * (columns + gap), step),
            };
            let (a, b) = (view(layout & 1 == 1, m, k), view(layout & 2 == 2, k, n));
            let data = [
                numbers(step * (m + gap) * (k + gap), case),
                numbers(step * (k + gap) * (n + gap), case + 50),
            ];
            let (left, right) = ((&data[0][..], a.0, a.1), (&data[1][..], b.0, b.1));
            let expected = formula::<PARTS>(sizes, left, right);
            let (row, matrix) = (numbers(n, case + 90), numbers(m * n, case + 91));
            let column = numbers(m, case + 92);
            for start in [
                Start::ZERO,
                Start::Target,
                Start::Sum { row: Some(&row), column: Some(&column), matrix: Some(&matrix) },
            ] {
                let before = |i: usize| match start {
                    Start::Target => matrix[i],
                    Start::Sum { row, column, matrix } => {
                        row.map_or(0.0, |row| row[i % n])
                            + column.map_or(0.0, |column| column[i / n])
                            + matrix.map_or(0.0, |matrix| matrix[i])
                    }
                };
                with_all::<PARTS>(|multiply| {
                    let mut found = match start {
                        Start::Target => matrix.clone(),
                        Start::Sum { .. } => vec![f32::NAN; m * n],
                    };
                    multiply(sizes, &mut found, start, left, right);
                    for (i, (found, (sum, size))) in found.iter().zip(&expected).enumerate() {
                        let (sum, size) = (sum + f64::from(before(i)), size + 3.0);
                        let apart = (f64::from(*found) - sum).abs();
                        assert!(
                            apart <= share::<PARTS>(k) * size,
                            "{PARTS} parts, {sizes:?} layout {layout}: {found} for {sum} at {i}"
                        );
                    }
                });
            }
        }
    }
}

#[test]
fn a_row_depends_neither_on_threads_nor_on_other_rows() -> anyhow::Result<()> {
    is_independent::<1>()?;
    is_independent::<3>()
}

fn is_independent<const PARTS: usize>() -> anyhow::Result<()> {
    let (m, n, k) = (301, 150, 600);
    let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
    let mut all = Vec::new();
    for (threads, rows) in [(1, m), (2, m), (3, m), (1, 1), (2, 100), (1, 37)] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        pool.install(|| {
            let mut number = 0;
            with_all::<PARTS>(|multiply| {
                let mut found = vec![0.0; rows * n];
                multiply((rows, n, k), &mut found, Start::ZERO, (&a, k, 1), (&b, 1, k));
                if rows == m && threads == 1 {
                    all.push(found);
                } else {
                    assert!(found == all[number][..rows * n], "{threads} threads, {rows} rows");
                }
                number += 1;
            });
        });
    }
    Ok(())
}

#[test]
fn what_is_not_a_number_stays_in_its_row_and_column() {
    stays::<1>();
    stays::<3>();
}

fn stays<const PARTS: usize>() {
    let (m, n, k) = (40, 50, 70);
    let (mut a, mut b) = (numbers(m * k, 1), numbers(k * n, 2));
    (a[7 * k + 69], b[3 * n + 11]) = (f32::NAN, f32::INFINITY);
    with_all::<PARTS>(|multiply| {
        let mut found = vec![0.0; m * n];
        multiply((m, n, k), &mut found, Start::ZERO, (&a, k, 1), (&b, n, 1));
        for (i, found) in found.iter().enumerate() {
            let (row, column) = (i / n, i % n);
            assert_eq!(found.is_finite(), row != 7 && column != 11, "{row}, {column}");
        }
    });
}

#[test]
fn a_part_of_a_matrix_is_added_to() {
    is_added_to::<1>();
    is_added_to::<3>();
}

fn is_added_to<const PARTS: usize>() {
    for (m, n, k) in [(32, 32, 32), (64, 200, 56), (70, 33, 129)] {
        let (at, stride) = (5, n + 3);
        let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
        let start = numbers(at + m * stride, 3);
        let (left, right) = ((&a[..], 1, m), (&b[..], 1, k));
        let expected = formula::<PARTS>((m, n, k), left, right);
        for isa in Isa::with_portable() {
            let mut found = start.clone();
            let place = (SharedMut::new(&mut found), at, stride);
            let (left, right) = (Factor::left(left, m), Factor::right(right, n));
            // SAFETY: `m` rows, of which `n` floats are within `found`, which nobody else uses.
            unsafe { add_alone::<Emulated, PARTS>(isa, k, place, left, right) };
            for (i, (found, start)) in found.iter().zip(&start).enumerate() {
                let (row, column) = (i.wrapping_sub(at) / stride, i.wrapping_sub(at) % stride);
                let inside = i >= at && row < m && column < n;
                let (sum, size) = if inside { expected[row * n + column] } else { (0.0, 0.0) };
                let apart = f64::from(*found) - f64::from(*start) - sum;
                let allowed = share::<PARTS>(k) * (size + 1.0);
                assert!(apart.abs() <= allowed, "{found} at {row}, {column}");
            }
        }
    }
}

/// So large that it is written past the caches, where its rows are whole lines.
#[test]
fn large_products_are_the_sum_of_small_ones() {
    let (m, n, k) = (2100, 2064, 40);
    assert!(size_of::<f32>() * m * n >= block::STREAMED_BYTES);
    let (a, b, row) = (numbers(m * k, 1), numbers(k * n, 2), numbers(n, 3));
    let start = Start::Sum { row: Some(&row), column: None, matrix: None };
    let isa = Isa::detect();
    let mut found = vec![f32::NAN; m * n];
    multiply_with::<Emulated, 1>(isa, (m, n, k), &mut found, start, (&a, k, 1), (&b, n, 1));
    for first in (0..m).step_by(300) {
        let mut some = vec![f32::NAN; 300 * n];
        let left = (&a[first * k..], k, 1);
        multiply_with::<Emulated, 1>(isa, (300, n, k), &mut some, start, left, (&b, n, 1));
        assert!(found[first * n..][..300 * n] == some, "rows from {first} on");
    }
}
