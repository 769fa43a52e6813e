//! Tiles against sums in f64 of the numbers that they are given, or of those rounded to bf16.

use candle_core::{Result, Shape};
use half::bf16;
use simd::tiles::{Emulated, Native, are_available};

use super::super::super::geometry::Geometry;
use super::super::super::tests::noise;
use super::super::super::weight::{Taps, Weight};
use super::super::super::winograd::Extras;
use super::super::super::{Conv2dConfig, Padding, panels};
use super::super::{Tiled, suits};
use super::forward;
use crate::isa::Isa;

/// What a sum has of a number: a rounded one, a pair, or in three parts all of it.
fn seen<const PARTS: usize>(number: f32) -> [f64; 2] {
    let nearest = |x: f32| f32::from_bits((x.to_bits() + 0x8000) & 0xffff_0000);
    let pair = match PARTS {
        1 => [bf16::from_f32(number).to_f32(), 0.0],
        2 => [nearest(number), nearest(number - nearest(number))],
        _ => [number, 0.0],
    };
    pair.map(f64::from)
}

/// How far off a sum may be, as a share of the largest. Six times as many products of parts are
/// rounded; where there are few, that would tell if one of them was missing.
pub fn within<const PARTS: usize>(g: &Geometry) -> f64 {
    if PARTS == 1 { 2e-6 } else { 2e-7 + 6e-8 * (6.0 * g.depth() as f64).sqrt() }
}

/// The sum, in f64, of products of what is [`seen`], less those of the smaller ones of pairs.
pub fn expected<const PARTS: usize>(
    g: &Geometry,
    x: &[f32],
    weight: &[f32],
    extras: Extras,
) -> Vec<f64> {
    let of = |numbers: &[f32]| numbers.iter().copied().map(seen::<PARTS>).collect::<Vec<_>>();
    let (x, weight) = (of(x), of(weight));
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
                    let [w, less_w] = weight[(channel * g.in_channels + input) * g.taps() + tap];
                    let [x, less_x] = x[plane + row * g.w + column];
                    sum += x * (w + less_w) + less_x * w;
                }
            }
        }
        y.push(sum);
    }
    y
}

pub fn assert_close(name: &str, actual: &[f32], expected: &[f64], within: f64) {
    assert_eq!(actual.len(), expected.len(), "{name}");
    let largest = expected.iter().fold(1.0_f64, |largest, x| largest.max(x.abs()));
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        assert!((f64::from(*a) - e).abs() <= within * largest, "{name}[{i}]: {a} is not {e}");
    }
}

/// A convolution in `PARTS` parts of `x`, which is `doubled` where that is asked on the way.
fn check<const PARTS: usize>(
    isa: Option<Isa>,
    g: &Geometry,
    (x, doubled): (&[f32], &[f32]),
    weight: &[f32],
    extras: Extras,
) {
    let plain = Extras { upsample: false, ..extras };
    let expected = expected::<PARTS>(g, doubled, weight, plain);
    let name = format!("{isa:?}, {PARTS}: {g:?}");
    for y in both::<PARTS>(isa, g, x, weight, extras) {
        assert_close(&name, &y, &expected, within::<PARTS>(g));
    }
}

/// The output with the plain twin of the registers and, where there are any, the real ones.
fn both<const PARTS: usize>(
    isa: Option<Isa>,
    g: &Geometry,
    x: &[f32],
    weight: &[f32],
    extras: Extras,
) -> Vec<Vec<f32>> {
    let tiled = Tiled::<PARTS>::new(isa, g, Weight::plain(weight));
    // SAFETY: emulated registers are always there.
    let mut all = vec![unsafe { forward::<Emulated, PARTS>(isa, g, x, &tiled, extras) }];
    if are_available() {
        // SAFETY: the machine has them.
        all.push(unsafe { forward::<Native, PARTS>(isa, g, x, &tiled, extras) });
    }
    all
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
        (2, 32, 50, (8, 8), (4, 4)),
    ];
    for isa in Isa::with_portable() {
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
                    let (x, weight) = (noise(x.elem_count(), 1.0), noise(weight.elem_count(), 2.0));
                    let bias = noise(outputs, 3.0);
                    let residual = noise(batch * outputs * g.out_pixels(), 4.0);
                    let extras = Extras {
                        bias: Some(&bias),
                        residual: (stride == 1).then_some(&residual),
                        ..Extras::default()
                    };
                    check::<1>(isa, &g, (&x, &x), &weight, extras);
                    check::<3>(isa, &g, (&x, &x), &weight, extras);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn many_bands_and_wide_maps() -> Result<()> {
    // So many bands that each is a task, and so few that tasks share out output channels; all
    // groups at a time, and some.
    for (batch, inputs, channels, side, stride) in
        [(1, 512, 16, (130, 40), 1), (1, 512, 64, (16, 16), 1), (2, 290, 48, (33, 35), 2)]
    {
        let x = Shape::from((batch, inputs, side.0, side.1));
        let weight = Shape::from((channels, inputs, 3, 3));
        let config = Conv2dConfig { stride, ..Conv2dConfig::same(3) };
        let g = Geometry::new(&x, &weight, config)?;
        let (x, weight) = (noise(x.elem_count(), 1.0), noise(weight.elem_count(), 2.0));
        check::<1>(Isa::detect(), &g, (&x, &x), &weight, Extras::default());
        check::<3>(Isa::detect(), &g, (&x, &x), &weight, Extras::default());
    }
    Ok(())
}

/// One thread has a band, two have one each, more share planes; pictures are bands, too.
fn the_same_on_threads<const PARTS: usize>() -> Result<()> {
    for batch in [1, 3] {
        let g = geometry((batch, 64, 32), (8, 8), (3, 3), Padding::same(1))?;
        let x = noise(batch * 64 * 64, 1.0);
        let weight = noise(32 * g.depth(), 2.0);
        let mut before: Option<Vec<Vec<f32>>> = None;
        for threads in [1, 2, 3, 16] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let y = pool
                .map_err(candle_core::Error::wrap)?
                .install(|| both::<PARTS>(Isa::detect(), &g, &x, &weight, Extras::default()));
            assert!(before.is_none_or(|before| before == y), "{threads} threads, batch {batch}");
            before = Some(y);
        }
    }
    Ok(())
}

#[test]
fn threads_change_no_sum() -> Result<()> {
    the_same_on_threads::<1>()?;
    the_same_on_threads::<3>()
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
    let extras = Extras { upsample: true, ..Extras::default() };
    check::<1>(Isa::detect(), &g, (&x, &doubled), &weight, extras);
    check::<3>(Isa::detect(), &g, (&x, &doubled), &weight, extras);
    Ok(())
}

/// Of stride 1.
pub fn geometry(
    (batch, inputs, outputs): (usize, usize, usize),
    (h, w): (usize, usize),
    (kh, kw): (usize, usize),
    padding: Padding,
) -> Result<Geometry> {
    let (x, weight) = (Shape::from((batch, inputs, h, w)), Shape::from((outputs, inputs, kh, kw)));
    Geometry::new(&x, &weight, Conv2dConfig { stride: 1, padding })
}

/// Planes of 6 by 40 in which what reads row 3 of column 20 is NaN, for a kernel of 3x3.
pub fn assert_nan_around(isa: Option<Isa>, y: &[f32]) {
    for (i, y) in y.iter().enumerate() {
        let (row, column) = (i / 40 % 6, i % 40);
        let reads = (2..=4).contains(&row) && (19..=21).contains(&column);
        assert_eq!(y.is_nan(), reads, "{isa:?}: {row}, {column}");
    }
}

#[test]
fn nan_reaches_what_reads_it_and_nothing_else() -> Result<()> {
    let (x, weight) = (Shape::from((1, 33, 6, 40)), Shape::from((16, 33, 3, 3)));
    let g = Geometry::new(&x, &weight, Conv2dConfig::same(3))?;
    let mut x = noise(x.elem_count(), 1.0);
    // The last channel, which shares a tile with channels that are not there.
    x[32 * 240 + 3 * 40 + 20] = f32::NAN;
    let weight = noise(16 * 33 * 9, 2.0);
    for isa in Isa::with_portable() {
        let rounded = both::<1>(isa, &g, &x, &weight, Extras::default());
        let exact = both::<3>(isa, &g, &x, &weight, Extras::default());
        for y in rounded.iter().chain(&exact) {
            assert_nan_around(isa, y);
        }
    }
    Ok(())
}

/// The gradient to an input is a convolution with the kernel the other way round, or with some
/// of its taps.
#[test]
fn weights_are_turned_and_rounded() -> Result<()> {
    let config = Conv2dConfig::same(3);
    let g = Geometry::new(&Shape::from((2, 33, 9, 17)), &Shape::from((20, 33, 2, 3)), config)?;
    let x = noise(g.batch * g.in_channels * g.in_pixels(), 1.0);
    let taps = [7, 2, 5, 0, 11, 3];
    let some = Taps { taps: &taps, of: 12 };
    let weight = noise(g.in_channels * g.out_channels * some.of, 3.0);
    let part = &weight[..g.out_channels * g.depth()];
    let rounded = |all: &[f32]| all.iter().map(|x| seen::<1>(*x)[0] as f32).collect::<Vec<_>>();
    let (x_seen, exact, exact_part) = (rounded(&x), rounded(&weight), rounded(part));
    for (name, given, exact) in [
        ("plain", Weight::plain(part), Weight::plain(&exact_part)),
        ("flipped", Weight::flipped(part), Weight::flipped(&exact_part)),
        ("some", Weight::some_flipped(&weight, some), Weight::some_flipped(&exact, some)),
    ] {
        let expected = panels::forward(Isa::detect(), &g, &x_seen, exact, Extras::default());
        let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
        for isa in Isa::with_portable() {
            let tiled = Tiled::<1>::new(isa, &g, given);
            // SAFETY: emulated registers are always there.
            let y = unsafe { forward::<Emulated, 1>(isa, &g, &x, &tiled, Extras::default()) };
            assert_close(name, &y, &expected, within::<1>(&g));
        }
    }
    Ok(())
}

#[test]
fn weights_of_bf16_are_packed_as_rounded_ones() -> Result<()> {
    let g = Geometry::new(
        &Shape::from((1, 35, 8, 9)),
        &Shape::from((18, 35, 3, 2)),
        Conv2dConfig::default(),
    )?;
    let (x, weight) = (noise(35 * 72, 1.0), noise(18 * 35 * 6, 2.0));
    let bits: Vec<bf16> = weight.iter().map(|&w| bf16::from_f32(w)).collect();
    let (kept, extras) = (Tiled::of_bf16(&g, &bits), Extras::default());
    for isa in Isa::with_portable() {
        let made = Tiled::<1>::new(isa, &g, Weight::plain(&weight));
        // SAFETY: emulated registers are always there.
        let y = |tiled| {
            // SAFETY: emulated registers are always there.
            unsafe { forward::<Emulated, 1>(isa, &g, &x, tiled, extras) }
        };
        assert!(y(&kept) == y(&made));
    }
    Ok(())
}
