//! The CPU f32 group norm as a candle custom op: the seam where kernels go.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use super::Moments;
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

/// Gradients of [`group_norm`] to input, weight and bias for the gradient `dy` of its
/// output, `plus` added to the first.
pub(super) fn gradients(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    dy: &Tensor,
    plus: Option<&Tensor>,
    GroupNormOp { groups, eps, silu }: GroupNormOp,
) -> Result<[Tensor; 3]> {
    let g = geometry((x.shape(), weight.shape(), bias.shape()), groups, eps)?;
    if [Some(dy), plus].into_iter().flatten().any(|t| t.shape() != x.shape()) {
        candle_core::bail!("group_norm: a gradient {:?} for {:?}", dy.shape(), x.shape())
    }
    // `x` stands in for what is not there.
    let tensors = [x, weight, bias, dy, plus.unwrap_or(x)];
    let found = cpu::with_slices(tensors, |[x, weight, bias, dy, other]| {
        let plus = plus.is_some().then_some(other);
        if silu {
            kernels::backward::<true>(&g, x, weight, bias, dy, plus)
        } else {
            kernels::backward::<false>(&g, x, weight, bias, dy, plus)
        }
    })?;
    let kernels::Gradients { x: dx, weight: dweight, bias: dbias } = found;
    Ok([
        Tensor::from_vec(dx, x.shape(), x.device())?,
        Tensor::from_vec(dweight, weight.shape(), x.device())?,
        Tensor::from_vec(dbias, bias.shape(), x.device())?,
    ])
}

/// [`super::plain::moments`] for f32 on the CPU.
pub(super) fn moments(x: &Tensor, groups: usize) -> Result<Vec<(f64, f64)>> {
    let len = x.elem_count() / groups;
    let found = cpu::with_slices([x], |[x]| kernels::all_moments(x, len))?;
    Ok(found.into_iter().map(|(mean, variance)| (f64::from(mean), variance)).collect())
}

/// [`super::plain::group_norm_with`], then SiLU where asked, for f32 on the CPU,
/// without gradients.
pub(super) fn group_norm_with(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    moments: &Moments,
    eps: f64,
    silu: bool,
) -> Result<Tensor> {
    let given = moments.groups().iter();
    let given =
        given.map(|&(mean, variance)| kernels::shift_and_scale((mean as f32, variance), eps));
    let op = GivenNormOp { given: given.collect(), eps, silu };
    x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)
}

pub(super) fn geometry(
    (x, weight, bias): (&Shape, &Shape, &Shape),
    groups: usize,
    eps: f64,
) -> Result<Geometry> {
    let (batch, channels, h, w) = x.dims4()?;
    if weight.dims() != [channels] || bias.dims() != [channels] {
        candle_core::bail!(
            "group_norm: weight {weight:?} and bias {bias:?} do not fit an input of shape {x:?}"
        )
    }
    Ok(Geometry { batch, channels, pixels: h * w, groups, eps })
}

/// A norm whose moments are given, as shift and scale of each group.
struct GivenNormOp {
    given: Vec<(f32, f32)>,
    eps: f64,
    silu: bool,
}

impl CustomOp3 for GivenNormOp {
    fn name(&self) -> &'static str {
        if self.silu { "group_norm_given_silu" } else { "group_norm_given" }
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
        let shapes = (x_layout.shape(), weight_layout.shape(), bias_layout.shape());
        let g = geometry(shapes, self.given.len(), self.eps)?;
        let x = cpu::slice(x, x_layout)?;
        let (weight, bias) = (cpu::slice(weight, weight_layout)?, cpu::slice(bias, bias_layout)?);
        let y = if self.silu {
            kernels::forward::<true>(&g, x, weight, bias, Some(&self.given))
        } else {
            kernels::forward::<false>(&g, x, weight, bias, Some(&self.given))
        };
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }
}

/// A norm by the moments of its input.
#[derive(Clone, Copy)]
pub(super) struct GroupNormOp {
    pub groups: usize,
    pub eps: f64,
    pub silu: bool,
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
        let shapes = (x_layout.shape(), weight_layout.shape(), bias_layout.shape());
        let g = geometry(shapes, self.groups, self.eps)?;
        let x = cpu::slice(x, x_layout)?;
        let (weight, bias) = (cpu::slice(weight, weight_layout)?, cpu::slice(bias, bias_layout)?);
        let y = if self.silu {
            kernels::forward::<true>(&g, x, weight, bias, None)
        } else {
            kernels::forward::<false>(&g, x, weight, bias, None)
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
        let [dx, dweight, dbias] = gradients(x, weight, bias, grad, None, *self)?;
        Ok((
            x.track_op().then_some(dx),
            weight.track_op().then_some(dweight),
            bias.track_op().then_some(dbias),
        ))
    }
}
