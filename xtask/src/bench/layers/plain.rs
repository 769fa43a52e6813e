//! The same layers from candle's own ops.

use std::collections::BTreeMap;

use anyhow::Result;
use candle_core::{D, Tensor};
use layers::conv::plain::conv2d;
use layers::group_norm::plain::group_norm;
use layers::group_norm::{EPS, GROUPS};
use layers::resample::plain::upsample_nearest2x;
use layers::{Conv2dConfig, silu};

use super::Forward;
use super::shapes::Op;

/// The layer with the parameters `p`.
pub fn layer(op: &Op, p: &BTreeMap<&'static str, Tensor>) -> Result<Forward> {
    let p = p.clone();
    Ok(match *op {
        Op::Conv { config, .. } => {
            Box::new(move |x| conv2d(x, &p["weight"], Some(&p["bias"]), config))
        }
        Op::GroupNormSilu => {
            Box::new(move |x| silu(&group_norm(x, &p["weight"], &p["bias"], GROUPS, EPS)?))
        }
        Op::Upsample => Box::new(upsample_nearest2x),
        Op::UpsampleConv { .. } => Box::new(move |x| {
            let x = upsample_nearest2x(x)?;
            conv2d(&x, &p["conv.weight"], Some(&p["conv.bias"]), Conv2dConfig::same(3))
        }),
        Op::Attention { .. } => Box::new(move |x| attention(x, &p)),
    })
}

fn attention(x: &Tensor, p: &BTreeMap<&'static str, Tensor>) -> candle_core::Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    let normed = group_norm(x, &p["norm.weight"], &p["norm.bias"], GROUPS, EPS)?;
    let conv =
        |x: &Tensor, weight, bias| conv2d(x, &p[weight], Some(&p[bias]), Conv2dConfig::default());
    let tokens = |weight, bias| conv(&normed, weight, bias)?.reshape((b, c, h * w));
    let (q, k, v) = (
        tokens("q.weight", "q.bias")?,
        tokens("k.weight", "k.bias")?,
        tokens("v.weight", "v.bias")?,
    );
    let scores = (q.transpose(1, 2)?.matmul(&k)? * (c as f64).powf(-0.5))?;
    let weights = candle_nn::ops::softmax(&scores, D::Minus1)?;
    let mixed = v.matmul(&weights.transpose(1, 2)?)?.reshape((b, c, h, w))?;
    x + conv(&mixed, "proj_out.weight", "proj_out.bias")?
}
