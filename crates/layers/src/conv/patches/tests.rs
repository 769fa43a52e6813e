//! Against the kernels that take patches of one tile of pixels at a time.

use candle_core::{Result, Shape};
use half::bf16;

use super::super::geometry::Geometry;
use super::super::tests::{assert_close, noise};
use super::super::winograd::Extras;
use super::super::{Conv2dConfig, Padding, kernels};
use super::{PATCHES, forward, input_gradient, suits, together, weight_gradient};
use crate::factors::Factors;

#[test]
fn products_equal_those_of_tiles_of_pixels() -> Result<()> {
    let uneven = Padding { top: 2, bottom: 0, left: 1, right: 3 };
    let cases = [
        (1, 64, 256, (5, 6), (4, 4), 1, Padding::same(1)),
        (3, 65, 257, (8, 7), (4, 4), 2, Padding::same(1)),
        (2, 210, 140, (3, 3), (3, 3), 1, Padding::ZERO),
        (2, 120, 230, (9, 10), (2, 5), 3, uneven),
        (0, 64, 256, (5, 6), (4, 4), 1, Padding::same(1)),
    ];
    for (batch, inputs, outputs, (h, w), (kh, kw), stride, padding) in cases {
        let x = Shape::from((batch, inputs, h, w));
        let weight = Shape::from((outputs, inputs, kh, kw));
        let g = Geometry::new(&x, &weight, Conv2dConfig { stride, padding })?;
        assert_eq!(suits(&g), batch > 0);
        if batch == 0 {
            continue;
        }
        let (x, weight) = (noise(x.elem_count(), 1.0), noise(weight.elem_count(), 2.0));
        let len = batch * outputs * g.out_pixels();
        let (bias, residual, grad) = (noise(outputs, 3.0), noise(len, 4.0), noise(len, 5.0));
        let extras = Extras { bias: Some(&bias), residual: Some(&residual), ..Extras::default() };
        let rounded = |numbers: &[f32]| -> Vec<f32> {
            numbers.iter().map(|&number| bf16::from_f32(number).to_f32()).collect()
        };
        for factors in [Factors::F32, Factors::Bf16] {
            let name = format!("{factors:?} {g:?}");
            // Small products are not rounded: what is of few terms or columns.
            let rounds = |n: usize, k: usize| factors.are_rounded() && n >= 32 && k >= 32;
            let columns = batch * g.out_pixels();
            let seen =
                |numbers: &[f32], rounds| if rounds { rounded(numbers) } else { numbers.to_vec() };
            let r = rounds(columns, g.depth());
            let expected = kernels::forward(&g, &seen(&x, r), &seen(&weight, r), extras);
            assert_close(&name, &forward(&g, &x, &weight, extras, factors), &expected);
            let r = rounds(columns, outputs);
            let expected = kernels::input_gradient(&g, &seen(&weight, r), &seen(&grad, r));
            assert_close(&name, &input_gradient(&g, &weight, &grad, factors), &expected);
            let r = rounds(g.depth(), columns);
            let expected = kernels::weight_gradient(&g, &seen(&x, r), &seen(&grad, r));
            assert_close(&name, &weight_gradient(&g, &x, &grad, factors), &expected);
        }
    }
    Ok(())
}

#[test]
fn pictures_are_done_some_at_a_time() -> Result<()> {
    let (batch, inputs, side) = (27, 300, 8);
    let x = Shape::from((batch, inputs, side, side));
    let weight = Shape::from((256, inputs, 4, 3));
    let g = Geometry::new(&x, &weight, Conv2dConfig { stride: 1, padding: Padding::same(1) })?;
    assert!(suits(&g) && together(&g) < batch && batch % together(&g) > 0, "{PATCHES}");
    let (x, weight) = (noise(x.elem_count(), 1.0), noise(weight.elem_count(), 2.0));
    let grad = noise(batch * 256 * g.out_pixels(), 5.0);
    let y = forward(&g, &x, &weight, Extras::default(), Factors::F32);
    assert_close("output", &y, &kernels::forward(&g, &x, &weight, Extras::default()));
    let dx = input_gradient(&g, &weight, &grad, Factors::F32);
    assert_close("gradient to the input", &dx, &kernels::input_gradient(&g, &weight, &grad));
    let dw = weight_gradient(&g, &x, &grad, Factors::F32);
    assert_close("gradient to the weight", &dw, &kernels::weight_gradient(&g, &x, &grad));
    Ok(())
}

#[test]
fn nan_stays_in_what_it_is_read_by() -> Result<()> {
    let (x, weight) = (Shape::from((2, 32, 5, 5)), Shape::from((40, 32, 4, 4)));
    let g = Geometry::new(&x, &weight, Conv2dConfig { stride: 1, padding: Padding::same(1) })?;
    let mut x = noise(x.elem_count(), 1.0);
    // The first pixel of the last channel of the first picture.
    x[31 * 25] = f32::NAN;
    let weight = noise(weight.elem_count(), 2.0);
    let y = forward(&g, &x, &weight, Extras::default(), Factors::F32);
    for (i, y) in y.iter().enumerate() {
        let (column, row, picture) = (i % g.ow, i / g.ow % g.oh, i / (40 * g.out_pixels()));
        assert_eq!(y.is_nan(), picture == 0 && row < 2 && column < 2, "{picture} {row} {column}");
    }
    Ok(())
}
