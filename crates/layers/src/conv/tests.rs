//! Every kernel against the patch-matrix version, for every instruction set that
//! this machine has: the public API only reaches the best one.

use candle_core::{Result, Shape};

use super::geometry::Geometry;
use super::weight::Weight;
use super::winograd::Extras;
use super::{Conv2dConfig, Padding, kernels, narrow, panels, pointwise, strided, winograd};
use crate::factors::Factors;
use crate::isa::Isa;
use crate::shared_mut::SharedMut;

/// Some numbers around 0.
pub(super) fn noise(len: usize, seed: f32) -> Vec<f32> {
    (0..len).map(|i| ((i as f32 * 0.7 + seed).sin() * 437.58).fract()).collect()
}

pub(super) fn assert_close(name: &str, actual: &[f32], expected: &[f32]) {
    assert_eq!(actual.len(), expected.len(), "{name}");
    let largest = expected.iter().fold(1.0_f32, |largest, x| largest.max(x.abs()));
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        assert!((a - e).abs() <= 1e-5 * largest, "{name}[{i}]: {a} is not {e}");
    }
}

#[test]
fn panels_equal_patches_on_every_instruction_set() -> Result<()> {
    let paddings =
        [Padding::ZERO, Padding::same(1), Padding { top: 2, bottom: 0, left: 3, right: 1 }];
    // Sizes around the edges of blocks, vectors and bands; channels around blocks.
    let sizes = [(3, 3), (4, 15), (5, 16), (7, 33), (40, 31), (64, 64)];
    for isa in Isa::available() {
        for (case, (h, w)) in sizes.into_iter().enumerate() {
            for padding in paddings {
                for (kh, kw, stride) in
                    [(3, 3, 1), (2, 3, 2), (3, 2, 3), (3, 3, 2), (4, 4, 2), (1, 3, 1)]
                {
                    let (in_channels, out_channels) = (1 + 5 * case, 1 + 3 * case);
                    let config = Conv2dConfig { stride, padding };
                    let x = Shape::from((2, in_channels, h, w));
                    let weight = Shape::from((out_channels, in_channels, kh, kw));
                    let Ok(g) = Geometry::new(&x, &weight, config) else { continue };
                    let name = format!("{isa:?} {x:?} {weight:?} {config:?}");
                    let (x, weight) = (noise(x.elem_count(), 1.0), noise(weight.elem_count(), 2.0));
                    let bias = noise(out_channels, 3.0);
                    let y =
                        panels::forward(Some(isa), &g, &x, Weight::plain(&weight), biased(&bias));
                    assert_close(&name, &y, &kernels::forward(&g, &x, &weight, biased(&bias)));
                }
            }
        }
    }
    Ok(())
}

#[test]
fn large_outputs_are_written_past_the_caches() -> Result<()> {
    // 17 MB; every row of outputs starts a line.
    let (x, weight) = (Shape::from((1, 3, 736, 736)), Shape::from((8, 3, 3, 3)));
    let g = Geometry::new(&x, &weight, Conv2dConfig::same(3))?;
    let (x, weight, bias) =
        (noise(x.elem_count(), 1.0), noise(weight.elem_count(), 2.0), noise(8, 3.0));
    let len = g.out_channels * g.out_pixels();
    let residual = noise(len, 4.0);
    let extras = Extras { residual: Some(&residual), ..biased(&bias) };
    let expected = kernels::forward(&g, &x, &weight, extras);
    let mut buffer = vec![0.0; len + 16];
    for isa in Isa::available() {
        // At a line, where vectors are streamed, and beside it, where they cannot be.
        let line = buffer.as_ptr().align_offset(64);
        for start in [line, line + 1] {
            let y = &mut buffer[start..start + len];
            let target = SharedMut::new(y);
            let weight = Weight::plain(&weight);
            // SAFETY: `y` is used again when all is written.
            unsafe { panels::forward_into(Some(isa), &g, &x, weight, extras, target) }
            assert_close(&format!("{isa:?} {start}"), y, &expected);
        }
    }
    Ok(())
}

#[test]
fn single_pixels_equal_patches_on_every_instruction_set() -> Result<()> {
    // Around blocks and vectors; channels in more than one range of terms.
    for (in_channels, out_channels, side) in [(1, 1, 1), (5, 7, 3), (33, 13, 9), (300, 50, 17)] {
        let (x, weight) = (
            Shape::from((2, in_channels, side, side + 1)),
            Shape::from((out_channels, in_channels, 1, 1)),
        );
        let g = Geometry::new(&x, &weight, Conv2dConfig::default())?;
        let name = format!("{x:?} {weight:?}");
        let len = 2 * out_channels * g.out_pixels();
        let (x, weight) = (noise(x.elem_count(), 1.0), noise(weight.elem_count(), 2.0));
        let (bias, residual) = (noise(out_channels, 3.0), noise(len, 4.0));
        let both = Extras { bias: Some(&bias), residual: Some(&residual), ..Extras::default() };
        for extras in [Extras::default(), biased(&bias), both] {
            let expected = kernels::forward(&g, &x, &weight, extras);
            for isa in Isa::with_portable() {
                let y = pointwise::forward(isa, &g, &x, Weight::plain(&weight), extras);
                assert_close(&format!("{isa:?} {name}"), &y, &expected);
            }
        }
        let dy = noise(len, 5.0);
        let back = Geometry { in_channels: out_channels, out_channels: in_channels, ..g };
        let dx = pointwise::forward(
            Isa::detect(),
            &back,
            &dy,
            Weight::flipped(&weight),
            Extras::default(),
        );
        assert_close(&name, &dx, &kernels::input_gradient(&g, &weight, &dy));
        let dw = pointwise::weight_gradient(&g, &x, &dy);
        assert_close(&name, &dw, &kernels::weight_gradient(&g, &x, &dy));
    }
    Ok(())
}

#[test]
fn few_outputs_equal_patches_on_every_instruction_set() -> Result<()> {
    let paddings =
        [Padding::ZERO, Padding::same(1), Padding { top: 2, bottom: 0, left: 3, right: 1 }];
    // Sizes around the edges of vectors and bands; channels around what the cache holds.
    let sizes = [(3, 3), (4, 31), (5, 32), (35, 33), (70, 65), (33, 259)];
    for isa in Isa::with_portable() {
        for (case, (h, w)) in sizes.into_iter().enumerate() {
            for padding in paddings {
                for (kh, kw) in [(3, 3), (2, 3), (4, 4), (1, 3)] {
                    let (in_channels, out_channels) = (1 + 9 * case, 1 + (case + kh) % 4);
                    let (x, weight) = (
                        Shape::from((2, in_channels, h, w)),
                        Shape::from((out_channels, in_channels, kh, kw)),
                    );
                    let Ok(g) = Geometry::new(&x, &weight, Conv2dConfig { stride: 1, padding })
                    else {
                        continue;
                    };
                    assert!(narrow::suits(&g));
                    let name = format!("{isa:?} {x:?} {weight:?} {padding:?}");
                    let (x, weight) = (noise(x.elem_count(), 1.0), noise(weight.elem_count(), 2.0));
                    let bias = noise(out_channels, 3.0);
                    let residual = noise(2 * out_channels * g.out_pixels(), 4.0);
                    let extras = Extras {
                        bias: Some(&bias),
                        residual: Some(&residual),
                        ..Extras::default()
                    };
                    for extras in [biased(&bias), extras] {
                        let y = narrow::forward(isa, &g, &x, Weight::plain(&weight), extras);
                        assert_close(&name, &y, &kernels::forward(&g, &x, &weight, extras));
                        // A picture alone gives the same bits as in a batch.
                        let alone = Geometry { batch: 1, ..g };
                        let alone = narrow::forward(
                            isa,
                            &alone,
                            &x[..in_channels * h * w],
                            Weight::plain(&weight),
                            extras,
                        );
                        assert_eq!(y[..alone.len()], alone, "{name}");
                    }
                    if narrow::suits_gradient(&g) {
                        let dw = narrow::weight_gradient(isa, &g, &x, &residual);
                        assert_close(&name, &dw, &kernels::weight_gradient(&g, &x, &residual));
                    }
                }
            }
        }
    }
    Ok(())
}

/// A strided convolution's reach, and whether each phase of its input is a convolution.
const STRIDED: [(usize, usize, Padding, bool); 7] = [
    (3, 2, Padding { top: 0, bottom: 1, left: 0, right: 1 }, true),
    (3, 2, Padding::same(1), true),
    (4, 2, Padding::same(1), true),
    (2, 2, Padding::ZERO, true),
    (5, 3, Padding { top: 1, bottom: 2, left: 0, right: 1 }, true),
    (3, 2, Padding::same(2), false),
    (1, 2, Padding::ZERO, false),
];

#[test]
fn strided_gradients_equal_patches_on_every_instruction_set() -> Result<()> {
    for isa in Isa::with_portable() {
        for (case, (h, w)) in [(5, 6), (8, 8), (7, 33), (32, 31)].into_iter().enumerate() {
            for (kernel, stride, padding, phases) in STRIDED {
                let (in_channels, out_channels) = (16 + 5 * case, 1 + 17 * case);
                let x = Shape::from((2, in_channels, h, w));
                let weight = Shape::from((out_channels, in_channels, kernel, kernel));
                let g = Geometry::new(&x, &weight, Conv2dConfig { stride, padding })?;
                let name = format!("{isa:?} {x:?} {weight:?} {:?}", g.config);
                let weight = noise(weight.elem_count(), 2.0);
                let grad = noise(2 * out_channels * g.out_pixels(), 3.0);
                let dx = strided::input_gradient(isa, &g, &weight, &grad, Factors::F32);
                assert_eq!(dx.is_some(), phases, "{name}");
                if let Some(dx) = dx {
                    assert_close(&name, &dx, &kernels::input_gradient(&g, &weight, &grad));
                }
            }
        }
    }
    Ok(())
}

#[test]
fn gradients_to_weights_equal_patches_on_every_instruction_set() -> Result<()> {
    // Around blocks and panels, few taps and many, rows shorter and longer than a range of
    // pixels, pictures that are gone through one after the other.
    let sizes = [
        (2, 1, 1, 3, 3),
        (2, 5, 7, 4, 5),
        (3, 17, 33, 9, 8),
        (1, 3, 40, 20, 300),
        (2, 40, 5, 250, 240),
    ];
    let reaches = STRIDED.map(|(kernel, stride, padding, _)| (kernel, stride, padding));
    let reaches = reaches.into_iter().chain([(3, 1, Padding::same(1)), (2, 1, Padding::ZERO)]);
    for (batch, in_channels, out_channels, h, w) in sizes {
        for (kernel, stride, padding) in reaches.clone() {
            let x = Shape::from((batch, in_channels, h, w));
            let weight = Shape::from((out_channels, in_channels, kernel, kernel));
            let Ok(g) = Geometry::new(&x, &weight, Conv2dConfig { stride, padding }) else {
                continue;
            };
            let name = format!("{x:?} {weight:?} {:?}", g.config);
            let x = noise(x.elem_count(), 1.0);
            let grad = noise(batch * out_channels * g.out_pixels(), 3.0);
            let expected = kernels::weight_gradient(&g, &x, &grad);
            for isa in Isa::with_portable() {
                let dw = panels::weight_gradient(isa, &g, &x, &grad);
                assert_close(&format!("{isa:?} {name}"), &dw, &expected);
            }
        }
    }
    Ok(())
}

#[test]
fn gradients_by_panels_do_not_depend_on_the_threads() -> Result<()> {
    let halve = Conv2dConfig { stride: 2, padding: Padding::same(1) };
    for (in_channels, kernel) in [(3, 3), (70, 4)] {
        let (x, weight) =
            (Shape::from((2, in_channels, 30, 40)), Shape::from((48, in_channels, kernel, kernel)));
        let g = Geometry::new(&x, &weight, halve)?;
        let (x, weight) = (noise(x.elem_count(), 1.0), noise(weight.elem_count(), 2.0));
        let grad = noise(2 * 48 * g.out_pixels(), 3.0);
        let both = || {
            let isa = Isa::detect();
            let dx = strided::input_gradient(isa, &g, &weight, &grad, Factors::F32);
            (panels::weight_gradient(isa, &g, &x, &grad), dx)
        };
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.map(|pool| pool.install(both)).map_err(candle_core::Error::wrap)
        };
        let one = with(1)?;
        assert_eq!(one.1.is_some(), in_channels > 3);
        assert_eq!(one, with(2)?);
        assert_eq!(one, with(3)?);
    }
    Ok(())
}

/// The sum in f64, of one output pixel.
fn exact(g: &Geometry, x: &[f32], weight: &[f32], bias: &[f32], at: usize) -> f64 {
    let (picture, channel) =
        (at / g.out_pixels() / g.out_channels, at / g.out_pixels() % g.out_channels);
    let (oy, ox) = (at % g.out_pixels() / g.ow, at % g.ow);
    let mut sum = f64::from(bias[channel]);
    for c in 0..g.in_channels {
        for (ky, kx) in (0..g.kh).flat_map(|ky| (0..g.kw).map(move |kx| (ky, kx))) {
            let (iy, ix) = (g.config.stride * oy + ky, g.config.stride * ox + kx);
            let inside =
                iy.checked_sub(g.config.padding.top).zip(ix.checked_sub(g.config.padding.left));
            if let Some((iy, ix)) = inside.filter(|&(iy, ix)| iy < g.h && ix < g.w) {
                let w = weight[((channel * g.in_channels + c) * g.kh + ky) * g.kw + kx];
                let x = x[((picture * g.in_channels + c) * g.h + iy) * g.w + ix];
                sum += f64::from(w) * f64::from(x);
            }
        }
    }
    sum
}

#[test]
fn winograd_equals_the_sum_in_f64_on_every_instruction_set() -> Result<()> {
    let isas = Isa::with_portable();
    for isa in isas {
        // Few and many tiles; sizes and channels around the edges of tiles, rows of
        // tiles, vectors and blocks.
        let cases = [
            (1, 32, 32, 4, 4),
            (2, 33, 35, 5, 17),
            (3, 48, 40, 16, 16),
            (1, 40, 70, 7, 47),
            (2, 64, 32, 13, 101),
            (1, 37, 33, 61, 95),
            // A picture has few tiles, all of them are many; several chunks of channels.
            (3, 140, 67, 28, 57),
        ];
        let paddings =
            [Padding::ZERO, Padding::same(1), Padding { top: 2, bottom: 0, left: 3, right: 1 }];
        for (batch, in_channels, out_channels, h, w) in cases {
            for (padding, stride) in paddings.into_iter().flat_map(|p| [(p, 1), (p, 2)]) {
                let config = Conv2dConfig { stride, padding };
                let x = Shape::from((batch, in_channels, h, w));
                let weight = Shape::from((out_channels, in_channels, 3, 3));
                let g = Geometry::new(&x, &weight, config)?;
                let name = format!("{isa:?} {x:?} {weight:?} {config:?}");
                let (x, weight) = (noise(x.elem_count(), 1.0), noise(weight.elem_count(), 2.0));
                let bias = noise(out_channels, 3.0);
                let extras = Extras { bias: Some(&bias), ..Extras::default() };
                let y = winograd::forward(isa, &g, &x, Weight::plain(&weight), extras);
                assert_close(&name, &y, &kernels::forward(&g, &x, &weight, biased(&bias)));
                for at in (0..y.len()).step_by(997) {
                    let expected = exact(&g, &x, &weight, &bias, at);
                    let error = (f64::from(y[at]) - expected).abs();
                    // Products of numbers up to 1 add up to about √(9 C).
                    let limit = 5e-6 * ((9 * in_channels) as f64).sqrt();
                    assert!(error < limit, "{name}[{at}]: {} is not {expected}", y[at]);
                }
                let dw = winograd::weight_gradient(isa, &g, &x, &y);
                assert_close(&name, &dw, &kernels::weight_gradient(&g, &x, &y));
                // A picture alone gives the same bits as in a batch.
                let len = in_channels * h * w;
                let alone = Geometry { batch: 1, ..g };
                let last = winograd::forward(
                    isa,
                    &alone,
                    &x[(batch - 1) * len..],
                    Weight::plain(&weight),
                    extras,
                );
                assert_eq!(y[(batch - 1) * last.len()..], last, "{name}");
            }
        }
    }
    Ok(())
}

#[test]
fn winograd_does_not_depend_on_the_threads() -> Result<()> {
    let (x, weight) = (Shape::from((1, 32, 60, 60)), Shape::from((48, 32, 3, 3)));
    let g = Geometry::new(&x, &weight, Conv2dConfig::same(3))?;
    let (x, weight) = (noise(x.elem_count(), 1.0), noise(weight.elem_count(), 2.0));
    let both = || {
        let y = winograd::forward(Isa::detect(), &g, &x, Weight::plain(&weight), Extras::default());
        let dw = winograd::weight_gradient(Isa::detect(), &g, &x, &y);
        (y, dw)
    };
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.map(|pool| pool.install(both)).map_err(candle_core::Error::wrap)
    };
    let one = with(1)?;
    assert_eq!(one, with(2)?);
    assert_eq!(one, with(3)?);
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
        let y =
            panels::forward(Some(isa), &g, &x, Weight::plain(&noise(9, 2.0)), Extras::default());
        for (i, y) in y.iter().enumerate() {
            let covered = (3..=5).contains(&(i / 9)) && i % 9 >= 7;
            assert_eq!(y.is_nan(), covered, "{isa:?} pixel {i}");
        }
    }
    Ok(())
}

fn biased(bias: &[f32]) -> Extras<'_> {
    Extras { bias: Some(bias), ..Extras::default() }
}
