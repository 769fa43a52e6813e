//! Convolutions in training whose products are rounded to bf16 ([`crate::Factors`]), on a CPU that
//! multiplies tiles of that. Maps, weights, sums and gradients are f32.

mod gradient;

use simd::tiles::Native;

pub(super) use self::gradient::weight_gradient;
use super::geometry::Geometry;
use super::halved::weights::Tiled;
use super::halved::{product, suits};
use super::weight::Weight;
use super::winograd::Extras;
use crate::factors::Factors;
use crate::isa::Isa;
use crate::shared_mut::SharedMut;

/// Whether `g` is done this way.
pub(super) fn takes(g: &Geometry, factors: Factors) -> bool {
    suits(g) && factors.are_rounded()
}

/// `[B, in, H, W]` to `[B, out, H', W']`, of what it [`takes`].
pub(super) fn forward(g: &Geometry, x: &[f32], weight: Weight, extras: Extras) -> Vec<f32> {
    let weights = Tiled::rounded(Isa::detect(), g, weight);
    // SAFETY: the machine has the registers (`takes`).
    unsafe { product::forward::<Native>(Isa::detect(), g, x, &weights, extras) }
}

/// [`forward`] to `y`, whose numbers are all written.
///
/// # Safety
/// Nothing else may use `y` meanwhile.
pub(super) unsafe fn forward_into(
    g: &Geometry,
    x: &[f32],
    weight: Weight,
    extras: Extras,
    y: SharedMut,
) {
    let weights = Tiled::rounded(Isa::detect(), g, weight);
    // SAFETY: the machine has the registers (`takes`), and this function's contract.
    unsafe { product::forward_into::<Native>(Isa::detect(), g, x, &weights, extras, y) }
}

#[cfg(test)]
mod tests;
