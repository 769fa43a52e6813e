//! Convolutions of single pixels: products of the weight with the feature map as it lies.

use super::geometry::Geometry;
use super::panels::Weight;
use super::winograd::Extras;
use crate::isa::Isa;
use crate::matrix::{Start, product, product_into};
use crate::shared_mut::SharedMut;

/// `[B, in, H, W]` to `[B, out, H, W]`.
pub(super) fn forward(
    isa: Option<Isa>,
    g: &Geometry,
    x: &[f32],
    weight: Weight,
    extras: Extras,
) -> Vec<f32> {
    let (pixels, depth) = (g.out_pixels(), g.in_channels);
    let len = g.batch * g.out_channels * pixels;
    let mut y = Vec::with_capacity(len);
    let target = SharedMut::new_spare(&mut y);
    let weight =
        if weight.flipped { (weight.data, 1, g.out_channels) } else { (weight.data, depth, 1) };
    for (picture, x) in x.chunks_exact(depth * pixels).enumerate() {
        let sizes = (g.out_channels, pixels, depth);
        let at = picture * g.out_channels * pixels;
        let start = Start::Sum { row: None, column: extras.bias, matrix: extras.residual };
        // SAFETY: there is room for the rows of every picture, and nothing else uses them.
        unsafe { product_into(isa, sizes, target, at, start, weight, (x, pixels, 1)) }
    }
    // SAFETY: there is room for `len`, and every channel of every picture was written.
    unsafe { y.set_len(len) }
    y
}

/// The gradient to the weight: `[out, in, 1, 1]`.
pub(super) fn weight_gradient(g: &Geometry, x: &[f32], grad: &[f32]) -> Vec<f32> {
    let pixels = g.out_pixels();
    let mut dw = Vec::new();
    let pictures = x.chunks_exact(g.in_channels * pixels);
    for (picture, (x, grad)) in pictures.zip(grad.chunks_exact(g.out_channels * pixels)).enumerate()
    {
        let start = if picture == 0 { Start::ZERO } else { Start::Target };
        let sizes = (g.out_channels, g.in_channels, pixels);
        product(sizes, &mut dw, start, (grad, pixels, 1), (x, 1, pixels));
    }
    dw
}
