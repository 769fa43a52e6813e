//! Against sums in f64, and the kernels without tiles.

use candle_core::Result;
use simd::tiles::{Emulated, Native, are_available};

use super::super::super::geometry::Geometry;
use super::super::super::tests::noise;
use super::super::super::weight::{Taps, Weight};
use super::super::super::winograd::Extras;
use super::super::super::{Conv2dConfig, Padding, panels};
use super::super::product::tests::{assert_close, assert_nan_around, expected, geometry, within};
use super::{forward, suits};
use crate::isa::Isa;

/// With the plain twin of the registers, and with the real ones where there are any.
fn both(
    isa: Option<Isa>,
    g: &Geometry,
    x: &[f32],
    weight: Weight,
    extras: Extras,
) -> Vec<Vec<f32>> {
    // SAFETY: emulated registers are always there.
    let mut all = vec![unsafe { forward::<Emulated>(isa, g, x, weight, extras) }];
    if are_available() {
        // SAFETY: the machine has them.
        all.push(unsafe { forward::<Native>(isa, g, x, weight, extras) });
    }
    all
}

#[test]
fn patches_add_up_to_plain_sums() -> Result<()> {
    let uneven = Padding { top: 0, bottom: 1, left: 0, right: 1 };
    // Around blocks and tiles; one tile of terms and two, an odd number of them; planes
    // and pictures as they are.
    let cases = [
        ((1, 3, 32), (9, 32), (3, 3), Padding::same(1)),
        ((2, 3, 33), (20, 49), (3, 3), Padding::same(1)),
        ((1, 3, 96), (7, 67), (3, 3), Padding::ZERO),
        ((3, 3, 64), (19, 81), (4, 4), Padding::same(1)),
        ((1, 7, 40), (6, 130), (3, 3), uneven),
        ((1, 5, 65), (12, 40), (2, 5), Padding { top: 3, bottom: 0, left: 2, right: 4 }),
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
            let expected = expected::<3>(&g, &x, &weight, extras);
            for isa in Isa::with_portable() {
                for y in both(isa, &g, &x, Weight::plain(&weight), extras) {
                    assert_close(&format!("{isa:?}: {g:?}"), &y, &expected, within::<3>(&g));
                }
            }
        }
    }
    Ok(())
}

#[test]
fn weights_are_turned() -> Result<()> {
    let g = geometry((2, 5, 40), (9, 50), (2, 3), Padding::same(1))?;
    let x = noise(2 * 5 * g.in_pixels(), 1.0);
    let taps = [7, 2, 5, 0, 11, 3];
    let weight = noise(g.in_channels * g.out_channels * 12, 3.0);
    let part = &weight[..g.out_channels * g.depth()];
    for (name, weight) in [
        ("plain", Weight::plain(part)),
        ("flipped", Weight::flipped(part)),
        ("some", Weight::some_flipped(&weight, Taps { taps: &taps, of: 12 })),
    ] {
        let expected = panels::forward(Isa::detect(), &g, &x, weight, Extras::default());
        let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
        for y in both(Isa::detect(), &g, &x, weight, Extras::default()) {
            assert_close(name, &y, &expected, 2.0 * within::<3>(&g));
        }
    }
    Ok(())
}

#[test]
fn what_no_cache_keeps_is_written_past_them() -> Result<()> {
    // 17 MB in rows of whole lines, the same in others, and a block of some channels.
    for (channels, width) in [(64, 272), (64, 264), (40, 432)] {
        let g = geometry((1, 3, channels), (256, width), (3, 3), Padding::same(1))?;
        let x = noise(3 * g.in_pixels(), 1.0);
        let (weight, bias) = (noise(channels * g.depth(), 2.0), noise(channels, 3.0));
        let extras = Extras { bias: Some(&bias), ..Extras::default() };
        let plain = panels::forward(Isa::detect(), &g, &x, Weight::plain(&weight), extras);
        let plain: Vec<f64> = plain.into_iter().map(f64::from).collect();
        for y in both(Isa::detect(), &g, &x, Weight::plain(&weight), extras) {
            assert_close(&format!("{width}"), &y, &plain, 2.0 * within::<3>(&g));
        }
    }
    Ok(())
}

#[test]
fn nan_reaches_what_reads_it_and_nothing_else() -> Result<()> {
    let g = geometry((1, 3, 32), (6, 40), (3, 3), Padding::same(1))?;
    let mut x = noise(3 * 240, 1.0);
    x[2 * 240 + 3 * 40 + 20] = f32::NAN;
    let weight = noise(32 * g.depth(), 2.0);
    for isa in Isa::with_portable() {
        for y in both(isa, &g, &x, Weight::plain(&weight), Extras::default()) {
            assert_nan_around(isa, &y);
        }
    }
    Ok(())
}

#[test]
fn other_layers_are_left_to_others() -> Result<()> {
    let same = Padding::same(1);
    for (name, g) in [
        ("many inputs", geometry((1, 8, 64), (40, 40), (3, 3), same)?),
        ("half a tile", geometry((1, 2, 64), (40, 40), (3, 3), same)?),
        ("few outputs", geometry((1, 3, 31), (40, 40), (3, 3), same)?),
        ("short rows", geometry((1, 3, 64), (40, 31), (3, 3), same)?),
        ("a stride", {
            let g = geometry((1, 3, 64), (80, 80), (3, 3), same)?;
            Geometry { config: Conv2dConfig { stride: 2, ..g.config }, ..g }
        }),
        ("no picture", geometry((0, 3, 64), (40, 40), (3, 3), same)?),
    ] {
        assert!(!suits(&g), "{name}");
    }
    Ok(())
}
