//! Convolutions of single pixels: products of the weight with the feature map as it lies.

use super::geometry::Geometry;
use super::weight::Weight;
use super::winograd::Extras;
use crate::isa::Isa;
use crate::matrix::{Batch, Factor, Start, products_into};
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
    let count = g.batch;
    let batch = Batch { count, left: 0, right: depth * pixels, target: g.out_channels * pixels };
    let start = Start::Sum { row: None, column: extras.bias, matrix: extras.residual };
    let (left, right) =
        (Factor::left(weight, g.out_channels), Factor::right((x, pixels, 1), pixels));
    // SAFETY: there is room for the rows of every picture, and nothing else uses them.
    unsafe { products_into(isa, depth, batch, target, start, left, right) }
    // SAFETY: there is room for `len`, and every channel of every picture was written.
    unsafe { y.set_len(len) }
    y
}

/// The gradient to the weight: `[out, in, 1, 1]`.
pub(super) fn weight_gradient(g: &Geometry, x: &[f32], grad: &[f32]) -> Vec<f32> {
    let pixels = g.out_pixels();
    let len = g.out_channels * g.in_channels;
    let mut dw = Vec::with_capacity(len);
    let target = SharedMut::new_spare(&mut dw);
    let (left, right) = (g.out_channels * pixels, g.in_channels * pixels);
    let batch = Batch { count: g.batch, left, right, target: 0 };
    let left = Factor::left((grad, pixels, 1), g.out_channels);
    let right = Factor::right((x, 1, pixels), g.in_channels);
    // SAFETY: there is room for all weights, and nothing else uses them.
    unsafe { products_into(Isa::detect(), pixels, batch, target, Start::ZERO, left, right) }
    // SAFETY: all of them were written.
    unsafe { dw.set_len(len) }
    dw
}
