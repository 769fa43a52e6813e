//! LPIPS of a batch, and the gradient to one of the two: what the reference's loss adds to a stage 1
//! step.

use anyhow::Context;
use candle_core::{DType, Var};
use perceptual::{Lpips, LpipsConfig};
use serde_json::json;
use training::Precision;

use super::case::{Case, Contestants};
use super::pattern::{builder, pattern};
use super::train::results;

/// Pictures, and their side: that of the small step, and one of the published models'.
const SHAPES: [[usize; 4]; 2] = [[4, 3, 64, 64], [1, 3, 256, 256]];

pub fn cases(precision: Precision) -> Vec<Case> {
    SHAPES.map(|shape| case(shape, precision)).into()
}

fn case(shape: [usize; 4], precision: Precision) -> Case {
    let make = move || {
        let lpips = Lpips::new(&LpipsConfig::default(), builder(DType::F32))?;
        let lpips = lpips.with_factors(precision.factors());
        let (x, y) = (pattern("x", &shape[..], 1.0)?, pattern("y", &shape[..], 1.0)?);
        let y = Var::from_tensor(&y)?;
        let ours = move || {
            let distance = lpips.forward(&x, y.as_tensor())?.mean_all()?;
            let gradients = distance.backward()?;
            let gradient = gradients.get(y.as_tensor()).context("LPIPS without a gradient")?;
            Ok(vec![distance.detach(), gradient.clone()])
        };
        Ok(Contestants { ours: Box::new(ours), candle: None })
    };
    Case {
        name: format!("LPIPS and its gradient, {0}x{0}, batch {1}", shape[2], shape[0]),
        flops: None,
        request: json!({ "lpips": shape, "dtype": precision }),
        results: results(precision),
        make: Box::new(make),
    }
}
