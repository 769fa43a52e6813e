//! Every kernel against the patch-matrix version, for every instruction set that
//! this machine has: the public API only reaches the best one.

use candle_core::{Result, Shape};

use super::geometry::Geometry;
use super::simd::Isa;
use super::{Conv2dConfig, Padding, direct, kernels};

fn noise(len: usize, seed: f32) -> Vec<f32> {
    (0..len).map(|i| ((i as f32 * 0.7 + seed).sin() * 437.58).fract()).collect()
}

fn assert_close(name: &str, actual: &[f32], expected: &[f32]) {
    assert_eq!(actual.len(), expected.len(), "{name}");
    let largest = expected.iter().fold(1.0_f32, |largest, x| largest.max(x.abs()));
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        assert!((a - e).abs() <= 1e-5 * largest, "{name}[{i}]: {a} is not {e}");
    }
}

#[test]
fn direct_kernels_equal_patches_on_every_instruction_set() -> Result<()> {
    let paddings =
        [Padding::ZERO, Padding::same(1), Padding { top: 2, bottom: 0, left: 3, right: 1 }];
    // Sizes around the edges of blocks, vectors and bands; channels around blocks.
    let sizes = [(3, 3), (4, 15), (5, 16), (7, 33), (40, 31), (64, 64)];
    for isa in Isa::available() {
        for (case, (h, w)) in sizes.into_iter().enumerate() {
            for padding in paddings {
                for (kh, kw) in [(3, 3), (2, 3), (3, 2), (1, 3)] {
                    let (in_channels, out_channels) = (1 + 5 * case, 1 + 3 * case);
                    let config = Conv2dConfig { stride: 1, padding };
                    let x = Shape::from((2, in_channels, h, w));
                    let weight = Shape::from((out_channels, in_channels, kh, kw));
                    let g = Geometry::new(&x, &weight, config)?;
                    let name = format!("{isa:?} {x:?} {weight:?} {padding:?}");
                    let (x, weight) = (noise(x.elem_count(), 1.0), noise(weight.elem_count(), 2.0));
                    let bias = noise(out_channels, 3.0);
                    let y = direct::forward(isa, &g, &x, &weight, Some(&bias));
                    assert_close(&name, &y, &kernels::forward(&g, &x, &weight, Some(&bias)));
                    if kw == 3 {
                        let dw = direct::weight_gradient(isa, &g, &x, &y);
                        assert_close(&name, &dw, &kernels::weight_gradient(&g, &x, &y));
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn nan_stays_where_it_belongs() -> Result<()> {
    // One NaN pixel reaches exactly the outputs whose kernel covers it.
    let (x, weight) = (Shape::from((1, 1, 9, 9)), Shape::from((1, 1, 3, 3)));
    let g = Geometry::new(&x, &weight, Conv2dConfig::same(3))?;
    let mut x = noise(81, 1.0);
    x[4 * 9 + 8] = f32::NAN;
    for isa in Isa::available() {
        let y = direct::forward(isa, &g, &x, &noise(9, 2.0), None);
        for (i, y) in y.iter().enumerate() {
            let covered = (3..=5).contains(&(i / 9)) && i % 9 >= 7;
            assert_eq!(y.is_nan(), covered, "{isa:?} pixel {i}");
        }
    }
    Ok(())
}
