//! A convolution, and one under spectral norm (Miyato et al. 2018).

use candle_core::{DType, Result, Tensor, Var};
use candle_nn::{Init, Module, VarBuilder};
use layers::{Conv2d, Conv2dConfig, Gradients, Tape, Taped};

use crate::dual::Dual;

/// Added to no norm, only a floor under it, as in `torch.nn.functional.normalize`.
const EPS: f64 = 1e-12;

/// A convolution of a critic.
#[derive(Clone, Debug)]
pub(crate) enum CriticConv {
    /// As it is.
    Plain {
        /// The layer.
        conv: Conv2d,
        /// Its stride and padding.
        config: Conv2dConfig,
    },
    /// Its weight divided by its largest singular value.
    Spectral(SpectralConv),
}

impl CriticConv {
    pub(crate) fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        match self {
            Self::Plain { conv, .. } => conv.forward(x),
            Self::Spectral(conv) => conv.forward(x, train),
        }
    }

    pub(crate) fn forward_taped(&self, x: &Tensor, tape: &mut Tape) -> Result<Tensor> {
        match self {
            Self::Plain { conv, .. } => conv.forward_taped(x, tape),
            Self::Spectral(conv) => conv.forward_taped(x, tape),
        }
    }

    pub(crate) fn dual(&self, x: &Dual) -> Result<Dual> {
        match self {
            Self::Plain { conv, config } => x.conv(conv.weight(), conv.bias(), *config),
            Self::Spectral(conv) => x.conv(&conv.divided()?, conv.bias.as_ref(), conv.config),
        }
    }
}

/// `W / σ` with `σ = uᵀ W v`, W as a matrix `[out, in * kh * kw]`, where u and v come
/// nearer to its first singular vectors by one step of the power method in every forward
/// pass of training; gradients take them for constants.
///
/// Keys and arithmetic are those of `torch.nn.utils.spectral_norm`: `weight_orig`,
/// `weight_u` `[out]`, `weight_v` `[in * kh * kw]`, `bias`. Before the first pass of
/// training σ means nothing.
#[derive(Clone, Debug)]
pub(crate) struct SpectralConv {
    weight: Tensor,
    bias: Option<Tensor>,
    u: Var,
    v: Var,
    config: Conv2dConfig,
}

impl SpectralConv {
    /// A convolution whose weight has the shape `shape`, `[out, in, kh, kw]`, and starts
    /// as `init`.
    pub(crate) fn new(
        shape: (usize, usize, usize, usize),
        init: Init,
        bias: Option<Tensor>,
        config: Conv2dConfig,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let (out, from, kh, kw) = shape;
        let direction = |name, len| -> Result<Var> {
            let hint = Init::Randn { mean: 0.0, stdev: 1.0 };
            Var::from_tensor(&vb.get_with_hints(len, name, hint)?)
        };
        Ok(Self {
            weight: vb.get_with_hints(shape, "weight_orig", init)?,
            bias,
            u: direction("weight_u", out)?,
            v: direction("weight_v", from * kh * kw)?,
            config,
        })
    }

    /// One step of the power method.
    fn iterate(&self) -> Result<()> {
        let matrix = self.weight.detach().flatten_from(1)?;
        let v = unit(&matrix.t()?.matmul(&self.u.as_detached_tensor().unsqueeze(1)?)?.squeeze(1)?)?;
        let u = unit(&matrix.matmul(&v.unsqueeze(1)?)?.squeeze(1)?)?;
        self.u.set(&u)?;
        self.v.set(&v)
    }

    /// The outer product of u and v in the shape of the weight: the gradient of σ.
    fn direction(&self) -> Result<Tensor> {
        let (u, v) = (self.u.as_detached_tensor(), self.v.as_detached_tensor());
        u.unsqueeze(1)?.matmul(&v.unsqueeze(0)?)?.reshape(self.weight.shape())
    }

    /// `W / σ`, with its gradient in candle's graph.
    fn divided(&self) -> Result<Tensor> {
        let sigma = (&self.weight * self.direction()?)?.sum_all()?;
        self.weight.broadcast_div(&sigma)
    }

    fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        if train {
            self.iterate()?;
        }
        Conv2d::new(self.divided()?, self.bias.clone(), self.config).forward(x)
    }

    /// A tape takes only variables for parameters: the quotient becomes one, and what it
    /// gets goes on to the weight.
    fn forward_taped(&self, x: &Tensor, tape: &mut Tape) -> Result<Tensor> {
        self.iterate()?;
        let direction = self.direction()?;
        let sigma = (self.weight.detach() * &direction)?.sum_all()?;
        let divided = Var::from_tensor(&self.weight.detach().broadcast_div(&sigma)?)?;
        let conv = Conv2d::new(divided.as_tensor().clone(), self.bias.clone(), self.config);
        let mut inner = match (tape.wants(&self.weight)?, tape.wants_input()) {
            (false, _) => Tape::frozen(),
            (true, false) => Tape::from_data(),
            (true, true) => Tape::default(),
        }
        .with_factors(tape.factors());
        let y = conv.forward_taped(x, &mut inner)?;
        let (weight, bias) = (self.weight.clone(), self.bias.clone());
        tape.push(move |dy, plus, gradients| {
            let mut own = Gradients::default();
            let dx = inner.backward_add(dy, plus, &mut own)?;
            if let Some(gradient) = own.get(divided.as_tensor()) {
                // Of W / σ with the gradient d: (d - <d, W / σ> u vᵀ) / σ.
                let along = (gradient * divided.as_detached_tensor())?.sum_all()?;
                let gradient = (gradient - direction.broadcast_mul(&along)?)?;
                gradients.add(&weight, gradient.broadcast_div(&sigma)?)?;
            }
            if let Some(bias) = &bias
                && let Some(gradient) = own.get(bias)
            {
                gradients.add(bias, gradient.clone())?;
            }
            Ok(dx)
        });
        Ok(y)
    }
}

/// `x / max(|x|, 1e-12)`.
fn unit(x: &Tensor) -> Result<Tensor> {
    let norm = x.to_dtype(DType::F64)?.sqr()?.sum_all()?.sqrt()?;
    x.broadcast_mul(&norm.maximum(EPS)?.recip()?.to_dtype(x.dtype())?)
}

#[cfg(test)]
mod tests;
