//! Single layers, in the shapes that the published autoencoder and the training of
//! small ones have.

mod plain;
mod shapes;

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Module, Shape, Tensor, Var};
use candle_nn::VarBuilder;
use layers::{
    AttnBlock, Conv2d, Gradients, GroupNorm, Tape, Taped, Upsample, attn_block, upsample,
    upsample_nearest2x, upsample_nearest2x_taped,
};
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
            let inputs = Inputs::new(&layer, &parameters)?;
            Ok(Contestants {
                ours: if layer.train { taped(&layer, &inputs)? } else { forward(&layer, &inputs)? },
                candle: Some(composed(&layer, &inputs)?),
            })
        }),
    }
}

/// The numbers that a layer works on.
struct Inputs {
    x: Tensor,
    parameters: BTreeMap<&'static str, Tensor>,
    /// The gradient of the output, where there is one.
    upstream: Option<Tensor>,
}

impl Inputs {
    fn new(layer: &Layer, parameters: &BTreeMap<&'static str, Shape>) -> Result<Self> {
        let leaf = |value: Tensor| -> Result<Tensor> {
            Ok(if layer.train { Var::from_tensor(&value)?.into_inner() } else { value })
        };
        let x = leaf(pattern("x", &layer.input()[..], 1.0)?)?;
        let named =
            |(name, shape): (&&'static str, &Shape)| Ok((*name, leaf(parameter(name, shape)?)?));
        let parameters = parameters.iter().map(named).collect::<Result<_>>()?;
        let mut inputs = Self { x, parameters, upstream: None };
        if layer.train {
            let y = plain::layer(&layer.op, &inputs.parameters)?(&inputs.x)?;
            inputs.upstream = Some(pattern("upstream", y.shape(), 1.0)?);
        }
        Ok(inputs)
    }

    fn upstream(&self) -> Result<Tensor> {
        self.upstream.clone().context("a layer that is trained has a gradient of its output")
    }

    /// Input and parameters, in the order in which gradients are compared.
    fn leaves(&self) -> Vec<Tensor> {
        std::iter::once(&self.x).chain(self.parameters.values()).cloned().collect()
    }
}

/// Our forward pass.
fn forward(layer: &Layer, inputs: &Inputs) -> Result<Work> {
    let (x, built) = (inputs.x.clone(), Built::new(layer, &inputs.parameters)?);
    Ok(Box::new(move || Ok(vec![built.forward(&x)?])))
}

/// Our forward pass and all gradients, as training finds them.
fn taped(layer: &Layer, inputs: &Inputs) -> Result<Work> {
    let (x, dy) = (inputs.x.clone(), inputs.upstream()?);
    let parameters: Vec<_> = inputs.parameters.values().cloned().collect();
    let built = Built::new(layer, &inputs.parameters)?;
    Ok(Box::new(move || {
        let (mut tape, mut found) = (Tape::default(), Gradients::default());
        built.forward_taped(&x, &mut tape)?;
        let dx = tape.backward(&dy, &mut found)?;
        let of_parameters = parameters.iter().filter_map(|parameter| found.get(parameter));
        Ok(dx.into_iter().chain(of_parameters.cloned()).collect())
    }))
}

/// The same from candle's own ops.
fn composed(layer: &Layer, inputs: &Inputs) -> Result<Work> {
    let (x, forward) = (inputs.x.clone(), plain::layer(&layer.op, &inputs.parameters)?);
    if !layer.train {
        return Ok(Box::new(move || Ok(vec![forward(&x)?])));
    }
    let (upstream, leaves) = (inputs.upstream()?, inputs.leaves());
    Ok(Box::new(move || {
        let seed = forward(&x)?.apply_op1(Upstream(upstream.clone()))?;
        let gradients = seed.backward()?;
        let of = |leaf| gradients.get(leaf).cloned();
        Ok(leaves.iter().filter_map(of).collect())
    }))
}

/// One of our layers.
enum Built {
    Conv(Conv2d),
    GroupNormSilu(GroupNorm),
    Upsample,
    UpsampleConv(Upsample),
    Attention(Box<AttnBlock>),
}

impl Built {
    fn new(layer: &Layer, p: &BTreeMap<&'static str, Tensor>) -> Result<Self> {
        let named = || {
            let named = p.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
            VarBuilder::from_tensors(named, candle_core::DType::F32, &Device::Cpu)
        };
        Ok(match layer.op {
            Op::Conv { config, .. } => {
                let mut conv = Conv2d::new(p["weight"].clone(), Some(p["bias"].clone()), config);
                if layer.pairs {
                    conv.allow_pairs();
                }
                Self::Conv(conv)
            }
            Op::GroupNormSilu => {
                let (weight, bias) = (p["weight"].clone(), p["bias"].clone());
                let (groups, eps) = (layers::group_norm::GROUPS, layers::group_norm::EPS);
                Self::GroupNormSilu(GroupNorm::new(weight, bias, groups, eps)?)
            }
            Op::Upsample => Self::Upsample,
            Op::UpsampleConv { channels } => Self::UpsampleConv(upsample(channels, named())?),
            Op::Attention { channels } => Self::Attention(Box::new(attn_block(channels, named())?)),
        })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Conv(layer) => layer.forward(x),
            Self::GroupNormSilu(layer) => layer.forward_silu(x),
            Self::Upsample => upsample_nearest2x(x),
            Self::UpsampleConv(layer) => layer.forward(x),
            Self::Attention(layer) => layer.forward(x),
        }
    }

    fn forward_taped(&self, x: &Tensor, tape: &mut Tape) -> candle_core::Result<Tensor> {
        match self {
            Self::Conv(layer) => layer.forward_taped(x, tape),
            Self::GroupNormSilu(layer) => layer.forward_silu_taped(x, tape),
            Self::Upsample => upsample_nearest2x_taped(x, tape),
            Self::UpsampleConv(layer) => layer.forward_taped(x, tape),
            Self::Attention(layer) => layer.forward_taped(x, tape),
        }
    }
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
