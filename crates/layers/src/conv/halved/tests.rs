//! Tiles against sums in f64 of the numbers that they are given, rounded to bf16.

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::Module;
use half::bf16;
use simd::tiles::{Emulated, Native, are_available};

use super::super::geometry::Geometry;
use super::super::tests::noise;
use super::super::winograd::Extras;
use super::super::{Conv2d, Conv2dConfig, Padding};
use super::weights::Tiled;
use super::{product, suits};
use crate::isa::Isa;

fn rounded(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().map(|&number| f64::from(bf16::from_f32(number))).collect()
}

/// The plain sum, in f64.
fn expected(g: &Geometry, x: &[f64], weight: &[f64], extras: Extras) -> Vec<f64> {
    let mut y = Vec::new();
    let padding = g.config.padding;
    for i in 0..g.batch * g.out_channels * g.out_pixels() {
        let (ox, oy) = (i % g.ow, i / g.ow % g.oh);
        let (channel, picture) =
            (i / g.out_pixels() % g.out_channels, i / g.out_pixels() / g.out_channels);
        let mut sum = extras.bias.map_or(0.0, |bias| f64::from(bias[channel]));
        sum += extras.residual.map_or(0.0, |residual| f64::from(residual[i]));
        for input in 0..g.in_channels {
            for tap in 0..g.taps() {
                let row = (oy * g.config.stride + tap / g.kw).checked_sub(padding.top);
                let column = (ox * g.config.stride + tap % g.kw).checked_sub(padding.left);
                let (Some(row), Some(column)) = (row, column) else { continue };
                if row < g.h && column < g.w {
                    let plane = (picture * g.in_channels + input) * g.in_pixels();
                    sum += x[plane + row * g.w + column]
                        * weight[(channel * g.in_channels + input) * g.taps() + tap];
                }
            }
        }
        y.push(sum);
    }
    y
}

fn assert_close(name: &str, actual: &[f32], expected: &[f64]) {
    assert_eq!(actual.len(), expected.len(), "{name}");
    let largest = expected.iter().fold(1.0_f64, |largest, x| largest.max(x.abs()));
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        assert!((f64::from(*a) - e).abs() <= 2e-6 * largest, "{name}[{i}]: {a} is not {e}");
    }
}

/// The output with the plain twin of the registers and, where there are any, the real ones.
fn both(isa: Option<Isa>, g: &Geometry, x: &[f32], tiled: &Tiled, extras: Extras) -> Vec<Vec<f32>> {
    // SAFETY: emulated registers are always there.
    let mut all = vec![unsafe { product::forward::<Emulated>(isa, g, x, tiled, extras) }];
    if are_available() {
        // SAFETY: the machine has them.
        all.push(unsafe { product::forward::<Native>(isa, g, x, tiled, extras) });
    }
    all
}

fn instruction_sets() -> Vec<Option<Isa>> {
    Isa::available().into_iter().map(Some).chain([None]).collect()
}

#[test]
fn tiles_equal_plain_sums() -> Result<()> {
    // Around tiles, groups and blocks; one picture and more; bands and output channels shared
    // out.
    let cases = [
        (1, 32, 16, (3, 3), (1, 1)),
        (1, 33, 17, (5, 18), (3, 3)),
        (2, 64, 33, (16, 16), (3, 3)),
        (1, 65, 64, (7, 31), (3, 3)),
        (3, 40, 48, (9, 33), (1, 1)),
        (1, 34, 20, (12, 17), (4, 4)),
        (1, 32, 32, (40, 67), (3, 3)),
        (8, 32, 16, (4, 5), (3, 3)),
    ];
    for isa in instruction_sets() {
        for (batch, inputs, outputs, (h, w), (kh, kw)) in cases {
            for stride in [1, 2, 3] {
                for padding in [
                    Padding::ZERO,
                    Padding::same(kh / 2),
                    Padding { top: 0, bottom: 1, left: 0, right: 1 },
                ] {
                    let config = Conv2dConfig { stride, padding };
                    let x = Shape::from((batch, inputs, h, w));
                    let weight = Shape::from((outputs, inputs, kh, kw));
                    let Ok(g) = Geometry::new(&x, &weight, config) else { continue };
                    assert!(suits(&g));
                    let name = format!("{isa:?} {x:?} {weight:?} {config:?}");
                    let (x, weight) = (noise(x.elem_count(), 1.0), noise(weight.elem_count(), 2.0));
                    let bits: Vec<bf16> = weight.iter().map(|&w| bf16::from_f32(w)).collect();
                    let bias = noise(outputs, 3.0);
                    let residual = noise(batch * outputs * g.out_pixels(), 4.0);
                    let extras = Extras {
                        bias: Some(&bias),
                        residual: (stride == 1).then_some(&residual),
                        ..Extras::default()
                    };
                    let tiled = Tiled::new(&g, &bits);
                    let expected = expected(&g, &rounded(&x), &rounded(&weight), extras);
                    for y in both(isa, &g, &x, &tiled, extras) {
                        assert_close(&name, &y, &expected);
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn many_bands_and_wide_maps() -> Result<()> {
    // So many bands that each is a task, and so few that tasks share out output channels.
    for (inputs, channels, h, w) in [(512, 16, 130, 40), (512, 64, 16, 16)] {
        let (x, weight) = (Shape::from((1, inputs, h, w)), Shape::from((channels, inputs, 3, 3)));
        let g = Geometry::new(&x, &weight, Conv2dConfig::same(3))?;
        let (x, weight) = (noise(x.elem_count(), 1.0), noise(weight.elem_count(), 2.0));
        let bits: Vec<bf16> = weight.iter().map(|&w| bf16::from_f32(w)).collect();
        let (extras, tiled) = (Extras::default(), Tiled::new(&g, &bits));
        let expected = expected(&g, &rounded(&x), &rounded(&weight), extras);
        for y in both(Isa::detect(), &g, &x, &tiled, extras) {
            assert_close(&format!("{inputs} {channels} {h} {w}"), &y, &expected);
        }
    }
    Ok(())
}

#[test]
fn pixels_are_doubled_on_the_way() -> Result<()> {
    let (inputs, channels, h, w) = (35, 32, 9, 21);
    let x = noise(2 * inputs * h * w, 1.0);
    let mut doubled = Vec::new();
    for i in 0..2 * inputs * 4 * h * w {
        let (column, row, plane) = (i % (2 * w), i / (2 * w) % (2 * h), i / (4 * h * w));
        doubled.push(x[plane * h * w + row / 2 * w + column / 2]);
    }
    let shape = Shape::from((2, inputs, 2 * h, 2 * w));
    let g = Geometry::new(&shape, &Shape::from((channels, inputs, 3, 3)), Conv2dConfig::same(3))?;
    let weight = noise(channels * inputs * 9, 2.0);
    let bits: Vec<bf16> = weight.iter().map(|&w| bf16::from_f32(w)).collect();
    let (tiled, plain) = (Tiled::new(&g, &bits), Extras::default());
    let extras = Extras { upsample: true, ..plain };
    let expected = expected(&g, &rounded(&doubled), &rounded(&weight), plain);
    for y in both(Isa::detect(), &g, &x, &tiled, extras) {
        assert_close("doubled", &y, &expected);
    }
    Ok(())
}

#[test]
fn nan_reaches_what_reads_it_and_nothing_else() -> Result<()> {
    let (x, weight) = (Shape::from((1, 33, 6, 40)), Shape::from((16, 33, 3, 3)));
    let g = Geometry::new(&x, &weight, Conv2dConfig::same(3))?;
    let mut x = noise(x.elem_count(), 1.0);
    // The last channel, which shares a tile with channels that are not there.
    x[32 * 240 + 3 * 40 + 20] = f32::NAN;
    let bits: Vec<bf16> = noise(16 * 33 * 9, 2.0).into_iter().map(bf16::from_f32).collect();
    let tiled = Tiled::new(&g, &bits);
    for isa in instruction_sets() {
        for y in both(isa, &g, &x, &tiled, Extras::default()) {
            for (i, y) in y.iter().enumerate() {
                let (row, column) = (i / 40 % 6, i % 40);
                let reads = (2..=4).contains(&row) && (19..=21).contains(&column);
                assert_eq!(y.is_nan(), reads, "{isa:?}: {row}, {column}");
            }
        }
    }
    Ok(())
}

#[test]
fn layers_with_weights_of_half_precision_take_maps_of_f32() -> Result<()> {
    let device = Device::Cpu;
    let tensor =
        |dims: &[usize], seed| Tensor::from_vec(noise(dims.iter().product(), seed), dims, &device);
    // Three channels go another way than forty.
    for (inputs, outputs, stride) in [(40, 48, 1), (40, 48, 2), (3, 40, 1), (40, 3, 1)] {
        let (x, biases) = (tensor(&[2, inputs, 24, 24], 1.0)?, tensor(&[outputs], 3.0)?);
        let config = Conv2dConfig { stride, ..Conv2dConfig::same(3) };
        for dtype in [DType::BF16, DType::F16] {
            let weight = tensor(&[outputs, inputs, 3, 3], 2.0)?.to_dtype(dtype)?;
            let wide = Conv2d::new(weight.to_dtype(DType::F32)?, Some(biases.clone()), config);
            let conv = Conv2d::new(weight, Some(biases.clone()), config);
            assert_eq!(conv.maps_dtype(), DType::F32);
            let (y, expected) = (conv.forward(&x)?, wide.forward(&x)?);
            // Where there are tiles, maps are rounded, too.
            let within = if are_available() { 5e-3 } else { 1e-6 };
            let near = |a: &Tensor, b: &Tensor| -> Result<()> {
                let off = (a - b)?.abs()?.max_all()?.to_scalar::<f32>()?;
                let largest = b.abs()?.max_all()?.to_scalar::<f32>()?;
                assert!(off <= within * largest, "{off} of {largest}");
                Ok(())
            };
            near(&y, &expected)?;
            if stride == 1 {
                near(&conv.forward_add(&x, &expected)?, &(&expected * 2.0)?)?;
                near(&conv.forward_upsampled(&x)?, &wide.forward_upsampled(&x)?)?;
            }
        }
    }
    Ok(())
}

#[test]
fn shapes_that_do_not_fit_are_errors_and_no_pictures_are_fine() -> Result<()> {
    let device = Device::Cpu;
    let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &device);
    let weight = zeros(&[16, 32, 3, 3])?.to_dtype(DType::BF16)?;
    let conv = |bias: usize| -> Result<Conv2d> {
        Ok(Conv2d::new(weight.clone(), Some(zeros(&[bias])?), Conv2dConfig::same(3)))
    };
    let x = zeros(&[1, 32, 5, 5])?;
    assert!(conv(15)?.forward(&x).is_err());
    assert!(conv(16)?.forward(&zeros(&[1, 31, 5, 5])?).is_err());
    assert!(conv(16)?.forward_add(&x, &zeros(&[1, 16, 5, 4])?).is_err());
    assert_eq!(conv(16)?.forward(&zeros(&[0, 32, 5, 5])?)?.dims(), [0, 16, 5, 5]);
    Ok(())
}
