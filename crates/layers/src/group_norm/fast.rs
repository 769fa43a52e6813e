//! The CPU f32 group norm as a candle custom op: the seam where kernels go.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use super::kernels::{self, Geometry};
use crate::cpu;

/// [`super::plain::group_norm`], then SiLU where asked, for f32 on the CPU, with
/// gradients.
pub(super) fn group_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    op: GroupNormOp,
) -> Result<Tensor> {
    x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)
}

pub(super) struct GroupNormOp {
    pub groups: usize,
    pub eps: f64,
    pub silu: bool,
}

impl GroupNormOp {
    fn geometry(&self, x: &Shape, weight: &Shape, bias: &Shape) -> Result<Geometry> {
        let (batch, channels, h, w) = x.dims4()?;
        if weight.dims() != [channels] || bias.dims() != [channels] {
            candle_core::bail!(
                "group_norm: weight {weight:?} and bias {bias:?} do not fit an input of shape {x:?}"
            )
        }
        Ok(Geometry { batch, channels, pixels: h * w, groups: self.groups, eps: self.eps })
    }
}

impl CustomOp3 for GroupNormOp {
    fn name(&self) -> &'static str {
        if self.silu { "group_norm_silu" } else { "group_norm" }
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let g = self.geometry(x_layout.shape(), weight_layout.shape(), bias_layout.shape())?;
        let x = cpu::slice(x, x_layout)?;
        let (weight, bias) = (cpu::slice(weight, weight_layout)?, cpu::slice(bias, bias_layout)?);
        let y = if self.silu {
            kernels::forward::<true>(&g, x, weight, bias)
        } else {
            kernels::forward::<false>(&g, x, weight, bias)
        };
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let g = self.geometry(x.shape(), weight.shape(), bias.shape())?;
        let grads = cpu::with_slices([x, weight, bias, grad], |[x, weight, bias, grad]| {
            if self.silu {
                kernels::backward::<true>(&g, x, weight, bias, grad)
            } else {
                kernels::backward::<false>(&g, x, weight, bias, grad)
            }
        })?;
        let tensor = |data: Vec<f32>, like: &Tensor| {
            let wanted = like.track_op();
            wanted.then(|| Tensor::from_vec(data, like.shape(), like.device())).transpose()
        };
        Ok((tensor(grads.x, x)?, tensor(grads.weight, weight)?, tensor(grads.bias, bias)?))
    }
}
