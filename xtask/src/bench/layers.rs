//! Single layers, in the shapes that the published autoencoder and the training of
//! small ones have.

mod plain;
mod shapes;

use std::collections::BTreeMap;

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Module, Shape, Tensor, Var};
use candle_nn::VarBuilder;
use layers::{Conv2d, GroupNorm, attn_block, upsample, upsample_nearest2x};
use serde_json::json;

use super::case::{Case, Contestants, Results, Work};
use super::operations;
use super::pattern::{parameter, pattern};
use shapes::{Layer, Op};

/// A layer as a function of its input.
type Forward = Box<dyn Fn(&Tensor) -> candle_core::Result<Tensor>>;

/// All shapes, forward ones first.
pub fn cases() -> Vec<Case> {
    shapes::forward().into_iter().chain(shapes::training()).map(case).collect()
}

fn case(layer: Layer) -> Case {
    let parameters = layer.parameters();
    let shapes: BTreeMap<_, _> =
        parameters.iter().map(|(name, shape)| (*name, shape.dims())).collect();
    let mut request = json!({
        "op": layer.op.name(), "x": layer.input(), "parameters": shapes, "train": layer.train,
    });
    if let Op::Conv { config, .. } = layer.op {
        let p = config.padding;
        request["stride"] = json!(config.stride);
        request["padding"] = json!([p.top, p.bottom, p.left, p.right]);
    }
    // Two gradients cost as much as the forward pass, each.
    let passes = if layer.train { 3.0 } else { 1.0 };
    Case {
        name: layer.title(),
        flops: layer.flops().map(|flops| passes * flops as f64),
        request,
        results: Results::Numbers,
        make: Box::new(move || {
            Ok(Contestants {
                ours: work(&layer, &parameters, ours)?,
                candle: Some(work(&layer, &parameters, plain::layer)?),
            })
        }),
    }
}

/// A forward pass, or one with all gradients.
fn work(
    layer: &Layer,
    parameters: &BTreeMap<&'static str, Shape>,
    build: fn(&Op, &BTreeMap<&'static str, Tensor>) -> Result<Forward>,
) -> Result<Work> {
    let x = pattern("x", &layer.input()[..], 1.0)?;
    let mut leaves = vec![leaf(x, layer.train)?];
    let mut named = BTreeMap::new();
    for (name, shape) in parameters {
        let value = leaf(parameter(name, shape)?, layer.train)?;
        leaves.push(value.clone());
        named.insert(*name, value);
    }
    let forward = build(&layer.op, &named)?;
    let x = leaves[0].clone();
    if !layer.train {
        return Ok(Box::new(move || Ok(vec![forward(&x)?])));
    }
    let upstream = pattern("upstream", forward(&x)?.shape(), 1.0)?;
    Ok(Box::new(move || {
        let seed = forward(&x)?.apply_op1(Upstream(upstream.clone()))?;
        let gradients = seed.backward()?;
        let of = |leaf| gradients.get(leaf).cloned();
        Ok(leaves.iter().filter_map(of).collect())
    }))
}

fn leaf(value: Tensor, train: bool) -> Result<Tensor> {
    Ok(if train { Var::from_tensor(&value)?.into_inner() } else { value })
}

/// Our way.
fn ours(op: &Op, p: &BTreeMap<&'static str, Tensor>) -> Result<Forward> {
    let named = || {
        let named = p.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        VarBuilder::from_tensors(named, candle_core::DType::F32, &Device::Cpu)
    };
    Ok(match *op {
        Op::Conv { config, .. } => {
            let layer = Conv2d::new(p["weight"].clone(), Some(p["bias"].clone()), config);
            Box::new(move |x| layer.forward(x))
        }
        Op::GroupNormSilu => {
            let (weight, bias) = (p["weight"].clone(), p["bias"].clone());
            let (groups, eps) = (layers::group_norm::GROUPS, layers::group_norm::EPS);
            let layer = GroupNorm::new(weight, bias, groups, eps)?;
            Box::new(move |x| layer.forward_silu(x))
        }
        Op::Upsample => Box::new(upsample_nearest2x),
        Op::UpsampleConv { channels } => {
            let layer = upsample(channels, named())?;
            Box::new(move |x| layer.forward(x))
        }
        Op::Attention { channels } => {
            let layer = attn_block(channels, named())?;
            Box::new(move |x| layer.forward(x))
        }
    })
}

/// A scalar whose gradient is the given tensor: the start of a backward pass that
/// costs nothing itself.
struct Upstream(Tensor);

impl CustomOp1 for Upstream {
    fn name(&self) -> &'static str {
        "upstream"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), Shape::from(())))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> candle_core::Result<Option<Tensor>> {
        Ok(Some(self.0.clone()))
    }
}
