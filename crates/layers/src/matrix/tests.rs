use rayon::ThreadPoolBuilder;

use super::*;

/// Some numbers around 0.
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + seed * 131) % 1009) as f32 / 504.0 - 1.0).collect()
}

/// The formula, in f64, and the sum of the terms' sizes.
fn formula(
    (m, n, k): (usize, usize, usize),
    start: &[f32],
    left: View,
    right: View,
) -> Vec<(f64, f64)> {
    let mut sums = vec![(0.0, 0.0); m * n];
    for (i, sum) in sums.iter_mut().enumerate() {
        let first = f64::from(start[i]);
        *sum = (first, first.abs());
        for t in 0..k {
            let a = left.0[i / n * left.1 + t * left.2];
            let b = right.0[t * right.1 + i % n * right.2];
            sum.0 += f64::from(a) * f64::from(b);
            sum.1 += f64::from(a * b).abs();
        }
    }
    sums
}

/// A matrix of these sizes: by rows or by columns, with room between.
fn view(data: &[f32], rows: usize, columns: usize, transposed: bool, gap: usize) -> View<'_> {
    if transposed { (data, 1, rows + gap) } else { (data, columns + gap, 1) }
}

const SIZES: [(usize, usize, usize); 9] = [
    (1, 1, 1),
    (5, 3, 2),
    (6, 16, 4),
    (7, 17, 65),
    (97, 65, 257),
    (192, 128, 64),
    (13, 200, 2050),
    (2050, 9, 33),
    (31, 2049, 70),
];

#[test]
fn products_are_the_formula() {
    for (case, sizes) in SIZES.into_iter().enumerate() {
        let (m, n, k) = sizes;
        for layout in 0..8 {
            let gap = layout / 4 * 3;
            let a = numbers((m + gap) * (k + gap), case);
            let b = numbers((k + gap) * (n + gap), case + 50);
            let left = view(&a, m, k, layout & 1 == 1, gap);
            let right = view(&b, k, n, layout & 2 == 2, gap);
            let (row, matrix) = (numbers(n, case + 90), numbers(m * n, case + 91));
            let column = numbers(m, case + 92);
            for start in [
                Start::ZERO,
                Start::Target,
                Start::Sum { row: Some(&row), column: None, matrix: None },
                Start::Sum { row: None, column: Some(&column), matrix: Some(&matrix) },
                Start::Sum { row: Some(&row), column: Some(&column), matrix: Some(&matrix) },
            ] {
                let (of_row, of_column, of_matrix) = match start {
                    Start::Target => (None, None, Some(&matrix[..])),
                    Start::Sum { row, column, matrix } => (row, column, matrix),
                };
                let sum = |i: usize| {
                    of_row.map_or(0.0, |row| row[i % n])
                        + of_column.map_or(0.0, |column| column[i / n])
                        + of_matrix.map_or(0.0, |all| all[i])
                };
                let before: Vec<f32> = (0..m * n).map(sum).collect();
                let expected = formula(sizes, &before, left, right);
                for isa in Isa::with_portable() {
                    let mut found = match start {
                        Start::Target => matrix.clone(),
                        Start::Sum { .. } => vec![f32::NAN; m * n],
                    };
                    let to = SharedMut::new(&mut found);
                    // SAFETY: `found` has `m * n` floats, which nobody else uses.
                    unsafe { product_into(isa, sizes, to, start, left, right) };
                    for (i, (found, (sum, size))) in found.iter().zip(&expected).enumerate() {
                        let apart = (f64::from(*found) - sum).abs();
                        assert!(
                            apart <= 1e-6 * size,
                            "{sizes:?} layout {layout} {isa:?}: {found} for {sum} at {i}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_depends_neither_on_threads_nor_on_other_rows() -> anyhow::Result<()> {
    let (m, n, k) = (301, 150, 600);
    let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
    let run = |threads: usize, rows: usize| -> anyhow::Result<Vec<f32>> {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build()?;
        let mut found = Vec::new();
        pool.install(|| {
            product(Factors::F32, (rows, n, k), &mut found, Start::ZERO, (&a, k, 1), (&b, 1, k));
        });
        Ok(found)
    };
    let all = run(1, m)?;
    for (threads, rows) in [(2, m), (3, m), (1, 1), (2, 100), (1, 7)] {
        assert_eq!(run(threads, rows)?, all[..rows * n], "{threads} threads, {rows} rows");
    }
    Ok(())
}

/// Several products with one left factor, those apart by either way and added up.
#[test]
fn batches_are_products_one_after_the_other() {
    let count = 3;
    for (case, sizes) in SIZES.into_iter().enumerate() {
        let (m, n, k) = sizes;
        let a = numbers(count * m * k, case);
        let b = numbers(count * k * n, case + 50);
        let (column, matrix) = (numbers(m, case + 92), numbers(count * m * n, case + 91));
        for isa in Isa::with_portable() {
            let one = |left: View, right: View, start: Start, mut found: Vec<f32>| {
                let to = SharedMut::new(&mut found);
                // SAFETY: `found` has `m * n` floats, which nobody else uses.
                unsafe { product_into(isa, sizes, to, start, left, right) };
                found
            };
            let nothing = || vec![f32::NAN; m * n];
            let right = Factor::right((&b, n, 1), n);
            let start = Start::Sum { row: None, column: Some(&column), matrix: Some(&matrix) };
            let alone = (0..count).flat_map(|i| {
                let matrix = Some(&matrix[i * m * n..(i + 1) * m * n]);
                let start = Start::Sum { row: None, column: Some(&column), matrix };
                one((&a, k, 1), (&b[i * k * n..], n, 1), start, nothing())
            });
            let alone: Vec<f32> = alone.collect();
            let batch = Batch { count, left: 0, right: k * n, target: m * n };
            let left = Factor::left((&a, k, 1), m);
            let mut ways = [vec![f32::NAN; count * m * n], vec![f32::NAN; count * m * n]];
            let [parts, columns] = ways.each_mut().map(|found| SharedMut::new(found));
            // SAFETY: both have the floats of all products, which nobody else uses.
            unsafe {
                blocked::multiply(isa, k, batch, parts, start, left, right);
                // Fewer terms than are packed at a time.
                let way = if k <= 2048 { strips::multiply } else { blocked::multiply };
                way(isa, k, batch, columns, start, left, right);
            }
            assert_eq!(ways[0], alone, "{sizes:?} {isa:?}");
            assert_eq!(ways[1], alone, "{sizes:?} {isa:?} by columns");

            let batch = Batch { count, left: m * k, right: k * n, target: 0 };
            let mut sum = nothing();
            let to = SharedMut::new(&mut sum);
            // SAFETY: `sum` has `m * n` floats, which nobody else uses.
            unsafe { products_into(isa, k, batch, to, Start::ZERO, left, right) };
            let mut expected = one((&a, k, 1), (&b, n, 1), Start::ZERO, nothing());
            for i in 1..count {
                let (left, right) = ((&a[i * m * k..], k, 1), (&b[i * k * n..], n, 1));
                expected = one(left, right, Start::Target, expected);
            }
            let largest = expected.iter().fold(1.0_f32, |largest, x| largest.max(x.abs()));
            for (sum, expected) in sum.iter().zip(&expected) {
                assert!((sum - expected).abs() <= 1e-5 * largest, "{sizes:?} {isa:?}");
            }
        }
    }
}

#[test]
fn a_part_of_a_matrix_is_added_to() {
    let (sizes, stride) = ((13, 18, 5), 21);
    let (a, b) = (numbers(13 * 5, 1), numbers(18 * 5, 2));
    let start = numbers(13 * stride, 3);
    let mut found = start.clone();
    // SAFETY: 13 rows, of which 18 floats are within `found`, which nobody else uses.
    unsafe {
        add_product(sizes, found.as_mut_ptr(), stride, (&a, 1, 13), (&b, 18, 1));
    }
    let expected = formula(sizes, &[0.0; 13 * 18], (&a, 1, 13), (&b, 18, 1));
    for (i, (found, start)) in found.iter().zip(&start).enumerate() {
        let (row, column) = (i / stride, i % stride);
        let (sum, size) = if column < 18 { expected[row * 18 + column] } else { (0.0, 0.0) };
        let apart = f64::from(*found) - f64::from(*start) - sum;
        assert!(apart.abs() <= 1e-6 * (size + 1.0), "{found} at {row}, {column}");
    }
}

#[test]
fn empty_products_are_what_they_start_with() {
    let mut target = vec![1.0; 3];
    let (left, right): (View, View) = ((&[], 0, 1), (&[], 3, 1));
    product(Factors::F32, (2, 3, 0), &mut target, Start::ZERO, left, right);
    assert_eq!(target, [0.0; 6]);
    let row = Some(&[1.0, 2.0, 3.0][..]);
    product(
        Factors::F32,
        (2, 3, 0),
        &mut target,
        Start::Sum { row, column: None, matrix: None },
        left,
        right,
    );
    assert_eq!(target, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
    product(Factors::F32, (2, 3, 0), &mut target, Start::Target, left, right);
    assert_eq!(target, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
    product(Factors::F32, (0, 3, 4), &mut target, Start::ZERO, (&[], 4, 1), (&[0.0; 12], 3, 1));
    assert!(target.is_empty());
}
