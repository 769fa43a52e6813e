//! Against sums in f64, and the kernels without tiles.

use candle_core::{Device, Result, Tensor};
use simd::tiles::{Emulated, Native, are_available};

use super::super::super::geometry::Geometry;
use super::super::super::tests::noise;
use super::super::super::weight::Weight;
use super::super::super::winograd::Extras;
use super::super::super::{Padding, narrow};
use super::super::product::tests::{assert_close, assert_nan_around, expected, geometry, within};
use super::{forward, suits};
use crate::GroupNorm;
use crate::isa::Isa;

/// With the plain twin of the registers, and with the real ones where there are any.
fn both<const PARTS: usize>(
    isa: Option<Isa>,
    g: &Geometry,
    x: &[f32],
    weight: Weight,
    extras: Extras,
) -> Vec<Vec<f32>> {
    // SAFETY: emulated registers are always there.
    let mut all = vec![unsafe { forward::<Emulated, PARTS>(isa, g, x, weight, extras) }];
    if are_available() {
        // SAFETY: the machine has them.
        all.push(unsafe { forward::<Native, PARTS>(isa, g, x, weight, extras) });
    }
    all
}

#[test]
fn taps_add_up_to_plain_sums() -> Result<()> {
    add_up::<2>()?;
    add_up::<3>()
}

fn add_up<const PARTS: usize>() -> Result<()> {
    let uneven = Padding { top: 2, bottom: 0, left: 0, right: 1 };
    // Around tiles of channels and runs of pixels, bands and kernels.
    let cases = [
        ((1, 32, 3), (1, 1), (3, 3), Padding::same(1)),
        ((2, 33, 3), (5, 33), (3, 3), Padding::same(1)),
        ((1, 65, 1), (40, 64), (3, 3), uneven),
        ((3, 96, 2), (9, 31), (4, 3), Padding::same(1)),
        ((1, 130, 3), (67, 20), (3, 3), Padding::ZERO),
        ((1, 40, 4), (19, 70), (1, 5), Padding::same(0)),
        ((1, 64, 3), (17, 45), (5, 2), uneven),
        // Wide: sums of few rows at a time, which move.
        ((1, 32, 3), (19, 800), (3, 3), uneven),
    ];
    for (channels, size, kernel, padding) in cases {
        let g = geometry(channels, size, kernel, padding)?;
        assert!(suits(&g), "{g:?}");
        let x = noise(g.batch * g.in_channels * g.in_pixels(), 1.0);
        let weight = noise(g.out_channels * g.depth(), 2.0);
        let (bias, residual) =
            (noise(g.out_channels, 3.0), noise(g.batch * g.out_channels * g.out_pixels(), 4.0));
        let all = Extras { bias: Some(&bias), residual: Some(&residual), ..Extras::default() };
        for extras in [Extras::default(), all] {
            let expected = expected::<PARTS>(&g, &x, &weight, extras);
            for isa in Isa::with_portable() {
                for y in both::<PARTS>(isa, &g, &x, Weight::plain(&weight), extras) {
                    assert_close(&format!("{isa:?}: {g:?}"), &y, &expected, within::<PARTS>(&g));
                }
            }
        }
        let flipped = Weight::flipped(&weight);
        if PARTS == 3 {
            let plain = narrow::forward(Isa::detect(), &g, &x, flipped, all);
            let plain: Vec<f64> = plain.into_iter().map(f64::from).collect();
            for y in both::<3>(Isa::detect(), &g, &x, flipped, all) {
                assert_close(&format!("flipped: {g:?}"), &y, &plain, 2.0 * within::<3>(&g));
            }
        }
        let turned: Vec<f32> = (0..weight.len())
            .map(|i| {
                let (output, input, tap) = (i / g.depth(), i % g.depth() / g.taps(), i % g.taps());
                weight[(input * g.out_channels + output + 1) * g.taps() - 1 - tap]
            })
            .collect();
        let expected = expected::<PARTS>(&g, &x, &turned, all);
        for y in both::<PARTS>(Isa::detect(), &g, &x, flipped, all) {
            assert_close(&format!("flipped: {g:?}"), &y, &expected, within::<PARTS>(&g));
        }
    }
    Ok(())
}

/// What [`crate::Conv2d::allow_pairs`] says.
#[test]
fn pairs_come_near_plain_sums() -> Result<()> {
    let g = geometry((1, 512, 3), (16, 40), (3, 3), Padding::same(1))?;
    let (x, weight) = (noise(512 * 640, 1.0), noise(3 * g.depth(), 2.0));
    let expected = expected::<3>(&g, &x, &weight, Extras::default());
    for y in both::<2>(Isa::detect(), &g, &x, Weight::plain(&weight), Extras::default()) {
        assert_close("pairs", &y, &expected, 8e-6);
    }
    Ok(())
}

#[test]
fn neither_threads_nor_other_pictures_change_a_sum() -> Result<()> {
    the_same_beside_others::<2>()?;
    the_same_beside_others::<3>()
}

fn the_same_beside_others<const PARTS: usize>() -> Result<()> {
    let of = |batch| geometry((batch, 70, 3), (100, 50), (3, 3), Padding::same(1));
    let (one, two) = (of(1)?, of(2)?);
    let x = noise(2 * 70 * 5000, 1.0);
    let weight = noise(one.out_channels * one.depth(), 2.0);
    let y = |g: &Geometry, x: &[f32]| {
        both::<PARTS>(Isa::detect(), g, x, Weight::plain(&weight), Extras::default())
    };
    let expected = y(&one, &x[70 * 5000..]);
    for threads in [1, 3, 16] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let y = pool.map_err(candle_core::Error::wrap)?.install(|| y(&two, &x));
        for (y, expected) in y.iter().zip(&expected) {
            assert!(y[3 * 5000..] == expected[..], "{threads} threads");
        }
    }
    Ok(())
}

#[test]
fn a_norm_is_done_on_the_way() -> Result<()> {
    normed_on_the_way::<2>()?;
    normed_on_the_way::<3>()
}

fn normed_on_the_way<const PARTS: usize>() -> Result<()> {
    let g = geometry((2, 36, 3), (9, 37), (3, 3), Padding::same(1))?;
    let x = noise(2 * 36 * g.in_pixels(), 1.0);
    let tensor = Tensor::from_slice(&x, (2, 36, g.h, g.w), &Device::Cpu)?;
    let of_norm = |seed| Tensor::from_vec(noise(36, seed), 36, &Device::Cpu);
    let norm = GroupNorm::new(of_norm(2.0)?, of_norm(3.0)?, 4, 1e-6)?;
    let pending = norm.silu_of(&tensor, None);
    let channels = pending.channels()?;
    let normed = pending.compute()?.flatten_all()?.to_vec1::<f32>()?;
    let weight = noise(3 * g.depth(), 4.0);
    let expected = expected::<PARTS>(&g, &normed, &weight, Extras::default());
    for isa in Isa::with_portable() {
        let extras = Extras { norm: channels.as_ref(), ..Extras::default() };
        for y in both::<PARTS>(isa, &g, &x, Weight::plain(&weight), extras) {
            // Another instruction set's SiLU is off by a unit of the last place or two.
            assert_close(&format!("{isa:?}"), &y, &expected, 2.0 * within::<PARTS>(&g));
        }
    }
    Ok(())
}

#[test]
fn nan_reaches_what_reads_it_and_nothing_else() -> Result<()> {
    let g = geometry((1, 33, 3), (6, 40), (3, 3), Padding::same(1))?;
    let mut x = noise(33 * 240, 1.0);
    x[32 * 240 + 3 * 40 + 20] = f32::NAN;
    let weight = noise(3 * g.depth(), 2.0);
    for isa in Isa::with_portable() {
        let pairs = both::<2>(isa, &g, &x, Weight::plain(&weight), Extras::default());
        let exact = both::<3>(isa, &g, &x, Weight::plain(&weight), Extras::default());
        for y in pairs.iter().chain(&exact) {
            assert_nan_around(isa, y);
        }
    }
    Ok(())
}

#[test]
fn other_layers_are_left_to_others() -> Result<()> {
    let same = Padding::same(1);
    for (name, g) in [
        ("few inputs", geometry((1, 31, 3), (8, 8), (3, 3), same)?),
        ("many outputs", geometry((1, 64, 4), (8, 8), (3, 3), same)?),
        ("a row of padding alone", geometry((1, 64, 3), (8, 8), (3, 3), Padding::same(3))?),
        ("no picture", geometry((0, 64, 3), (8, 8), (3, 3), same)?),
        ("single pixels", geometry((1, 64, 3), (8, 8), (1, 1), Padding::ZERO)?),
    ] {
        assert!(!suits(&g), "{name}");
    }
    Ok(())
}
