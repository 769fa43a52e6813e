//! Convolutions in tiles of bf16 ([`simd::tiles`]): of factors that are rounded, or of three parts
//! each, whose products add up to those of f32 (see [`crate::matrix::tiled`]). Maps, sums and
//! gradients are f32. `PARTS` is one or three; to few channels, as pictures have, also two.

pub(super) mod few_inputs;
pub(super) mod few_outputs;
mod gradient;
mod maps;
mod outputs;
mod product;
mod weights;

use simd::tiles::Native;

pub(super) use self::gradient::weight_gradient;
pub(super) use self::weights::{Packed, Tiled};
use super::geometry::Geometry;
use super::weight::Weight;
use super::winograd::{self, Extras};
use crate::factors::Factors;
use crate::isa::Isa;
use crate::shared_mut::SharedMut;

/// Input channels from which on a tile is mostly full.
const MIN_INPUTS: usize = 32;
/// Output channels likewise.
const MIN_OUTPUTS: usize = 16;
/// Channels from which on tiles of parts that are packed each time gain on transforms.
const MIN_SPLIT: usize = 64;

/// Whether tiles are full enough.
pub(super) fn suits(g: &Geometry) -> bool {
    g.batch > 0 && g.in_channels >= MIN_INPUTS && g.out_channels >= MIN_OUTPUTS
}

/// Whether the products of `g` are rounded, and done this way.
pub(super) fn rounds(g: &Geometry, factors: Factors) -> bool {
    suits(g) && factors.are_rounded()
}

/// Whether tiles of parts are the fastest way to do `g` in f32 once weights are packed. Transforms
/// have fewer products; pixels by themselves are read too seldom for parts of them to pay.
pub(super) fn splits(g: &Geometry) -> bool {
    let transformed = g.config.stride == 1 && winograd::suits(g);
    suits(g) && !transformed && !g.is_pointwise() && simd::tiles::are_available()
}

/// Whether that is so with packing the weights each time. (Of few channels transforms are as fast.)
pub(super) fn splits_once(g: &Geometry) -> bool {
    let thin = g.in_channels.min(g.out_channels) < MIN_SPLIT;
    splits(g) && g.out_pixels() > g.out_channels && !(thin && winograd::suits(g))
}

/// `[B, in, H, W]` to `[B, out, H', W']`, on a machine that has tiles.
pub(super) fn forward<const PARTS: usize>(
    g: &Geometry,
    x: &[f32],
    weights: &Tiled<PARTS>,
    extras: Extras,
) -> Vec<f32> {
    assert!(simd::tiles::are_available());
    // SAFETY: the machine has the registers.
    unsafe { product::forward::<Native, PARTS>(Isa::detect(), g, x, weights, extras) }
}

/// [`forward`] with weights that are packed for this once, to `y`, whose numbers are all written.
///
/// # Safety
/// Nothing else may use `y` meanwhile.
pub(super) unsafe fn forward_into<const PARTS: usize>(
    g: &Geometry,
    x: &[f32],
    weight: Weight,
    extras: Extras,
    y: SharedMut,
) {
    assert!(simd::tiles::are_available());
    let weights = Tiled::<PARTS>::new(Isa::detect(), g, weight);
    // SAFETY: the machine has the registers, and this function's contract.
    unsafe { product::forward_into::<Native, PARTS>(Isa::detect(), g, x, &weights, extras, y) }
}
