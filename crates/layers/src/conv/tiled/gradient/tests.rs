//! Against the kernels of f32, which are given rounded numbers.

use candle_core::{Result, Shape};
use half::bf16;
use simd::tiles::{Emulated, Native, are_available};

use super::super::super::geometry::Geometry;
use super::super::super::tests::{assert_close, noise};
use super::super::super::{Conv2dConfig, Padding, panels};
use super::with;
use crate::isa::Isa;

fn rounded(numbers: &[f32]) -> Vec<f32> {
    numbers.iter().map(|&number| bf16::from_f32(number).to_f32()).collect()
}

/// Picture `[B, in, H, W]`, outputs, kernel, stride, padding.
type Sizes = ([usize; 4], usize, (usize, usize), usize, Padding);

fn geometry((input, outputs, (kh, kw), stride, padding): Sizes) -> Result<Geometry> {
    let weight = Shape::from((outputs, input[1], kh, kw));
    Geometry::new(&Shape::from(input.to_vec()), &weight, Conv2dConfig { stride, padding })
}

#[test]
fn gradients_to_weights_are_those_of_rounded_numbers() -> Result<()> {
    let below = Padding { top: 0, bottom: 1, left: 0, right: 1 };
    let uneven = Padding { top: 2, bottom: 0, left: 3, right: 1 };
    let cases: [Sizes; 10] = [
        ([1, 1, 1, 1], 1, (1, 1), 1, Padding::ZERO),
        ([2, 40, 9, 7], 33, (3, 3), 1, Padding::same(1)),
        ([1, 16, 5, 33], 70, (3, 3), 1, Padding::ZERO),
        ([3, 35, 8, 8], 16, (1, 1), 1, Padding::ZERO),
        ([2, 33, 12, 10], 40, (4, 4), 2, Padding::same(1)),
        ([1, 32, 11, 13], 32, (3, 3), 2, below),
        ([1, 20, 9, 9], 18, (2, 5), 3, uneven),
        ([1, 7, 6, 6], 5, (3, 2), 1, uneven),
        ([1, 3, 10, 10], 20, (1, 1), 2, Padding::ZERO),
        // More than a band, and more than one chunk of bands.
        ([3, 96, 64, 62], 64, (3, 3), 1, Padding::same(1)),
    ];
    for case in cases {
        let g = geometry(case)?;
        let x = noise(g.batch * g.in_channels * g.in_pixels(), 1.0);
        let grad = noise(g.batch * g.out_channels * g.out_pixels(), 2.0);
        let expected = panels::weight_gradient(Isa::detect(), &g, &rounded(&x), &rounded(&grad));
        // What is emulated takes its time.
        let large = x.len() > 1 << 18;
        for isa in Isa::with_portable().filter(|isa| !large || *isa == Isa::detect()) {
            // SAFETY: emulated registers are always there.
            let dw = unsafe { with::<Emulated>(isa, &g, &x, &grad) };
            assert_close(&format!("{case:?} {isa:?}"), &dw, &expected);
            if are_available() {
                // SAFETY: the machine has them.
                let dw = unsafe { with::<Native>(isa, &g, &x, &grad) };
                assert_close(&format!("{case:?} {isa:?}, tiles"), &dw, &expected);
            }
        }
    }
    Ok(())
}

#[test]
fn gradients_to_weights_do_not_depend_on_threads() -> anyhow::Result<()> {
    let g = geometry(([2, 40, 19, 17], 33, (3, 3), 1, Padding::same(1)))?;
    let x = noise(g.batch * g.in_channels * g.in_pixels(), 1.0);
    let grad = noise(g.batch * g.out_channels * g.out_pixels(), 2.0);
    let mut all = Vec::new();
    for threads in [1, 2, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        // SAFETY: emulated registers are always there.
        let found = pool.install(|| unsafe { with::<Emulated>(Isa::detect(), &g, &x, &grad) });
        all.push(found);
    }
    assert!(all[0] == all[1] && all[0] == all[2]);
    Ok(())
}

#[test]
fn what_is_not_a_number_stays_in_its_channel() -> Result<()> {
    let g = geometry(([1, 34, 9, 9], 33, (3, 3), 1, Padding::same(1)))?;
    let mut x = noise(g.in_channels * g.in_pixels(), 1.0);
    let mut grad = noise(g.out_channels * g.out_pixels(), 2.0);
    x[5 * g.in_pixels() + 40] = f32::NAN;
    grad[8 * g.out_pixels() + 40] = f32::INFINITY;
    // SAFETY: emulated registers are always there.
    let dw = unsafe { with::<Emulated>(Isa::detect(), &g, &x, &grad) };
    for (i, dw) in dw.iter().enumerate() {
        let (output, input) = (i / g.depth(), i / g.taps() % g.in_channels);
        assert_eq!(dw.is_finite(), output != 8 && input != 5, "{output}, {input}");
    }
    Ok(())
}
