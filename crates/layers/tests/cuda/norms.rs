//! Group norm.

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Module, Tensor};
use layers::GroupNorm;

use crate::harness::{Layer, VIEWS, View, close, noise, on_gpu};

fn norm(parameters: &[Tensor], groups: usize) -> Result<GroupNorm> {
    Ok(GroupNorm::new(parameters[0].clone(), parameters[1].clone(), groups, 1e-6)?)
}

/// Shapes with groups: small and odd, whole vectors, several parts of a group.
const SHAPES: [([usize; 4], usize); 8] = [
    ([1, 4, 1, 1], 2),
    ([5, 6, 5, 7], 3),
    ([1, 33, 3, 3], 11),
    ([2, 64, 16, 16], 32),
    ([1, 8, 48, 48], 4),
    ([5, 12, 33, 31], 3),
    ([1, 4, 200, 100], 1),
    ([1, 2, 1100, 1000], 1),
];

fn check(device: &Device, dtype: DType, silu: bool, shapes: &[([usize; 4], usize)]) -> Result<()> {
    for &(shape, groups) in shapes {
        for view in VIEWS {
            if view != View::Whole && shape[2] * shape[3] > 3000 {
                continue;
            }
            let layer = Layer {
                plain: &|p, x| {
                    let norm = norm(p, groups)?;
                    Ok(if silu { norm.forward_silu(x)? } else { norm.forward(x)? })
                },
                taped: &|p, x, tape| {
                    let norm = norm(p, groups)?;
                    Ok(if silu {
                        norm.forward_silu_taped(x, tape)?
                    } else {
                        layers::Taped::forward_taped(&norm, x, tape)?
                    })
                },
            };
            let channels = [shape[1]];
            let parameters: [&[usize]; 2] = [&channels; 2];
            layer.check("group norm", device, dtype, (&shape, view), &parameters)?;
        }
    }
    Ok(())
}

#[test]
fn group_norm() -> Result<()> {
    on_gpu("group_norm", |device| check(device, DType::F32, false, &SHAPES))
}

#[test]
fn group_norm_silu() -> Result<()> {
    on_gpu("group_norm_silu", |device| check(device, DType::F32, true, &SHAPES))
}

#[test]
fn group_norm_bf16() -> Result<()> {
    on_gpu("group_norm_bf16", |device| check(device, DType::BF16, true, &SHAPES[1..6]))
}

#[test]
fn group_norm_f16() -> Result<()> {
    on_gpu("group_norm_f16", |device| check(device, DType::F16, true, &SHAPES[1..6]))
}

#[test]
fn group_norm_far_from_zero_is_accurate() -> Result<()> {
    on_gpu("group_norm_far_from_zero", |device| {
        let x = (noise(&[1, 4, 150, 150], 3)?.to_dtype(DType::F64)? + 300.0)?;
        let x = x.to_dtype(DType::F32)?;
        let (weight, bias) = (noise(&[4], 4)?, noise(&[4], 5)?);
        let exact = layers::group_norm::plain::group_norm(
            &x.to_dtype(DType::F64)?,
            &weight.to_dtype(DType::F64)?,
            &bias.to_dtype(DType::F64)?,
            2,
            1e-6,
        )?;
        let to = |t: &Tensor| t.to_device(device);
        let norm = GroupNorm::new(to(&weight)?, to(&bias)?, 2, 1e-6)?;
        close("far", &norm.forward(&to(&x)?)?, &exact, 1e-4)
    })
}

#[test]
fn group_norm_by_given_moments() -> Result<()> {
    on_gpu("group_norm_by_given_moments", |device| {
        for shape in [[1, 6, 7, 5], [1, 8, 64, 48]] {
            let x = noise(&shape, 1)?;
            let (weight, bias) = (noise(&[shape[1]], 2)?, noise(&[shape[1]], 3)?);
            let cpu = GroupNorm::new(weight.clone(), bias.clone(), 2, 1e-6)?;
            let gpu = GroupNorm::new(weight.to_device(device)?, bias.to_device(device)?, 2, 1e-6)?;
            let on_device = x.to_device(device)?;
            let (expected, found) = (cpu.moments(&x)?, gpu.moments(&on_device)?);
            for ((a, b), (c, d)) in found.groups().iter().zip(expected.groups()) {
                ensure!((a - c).abs() < 1e-5 && (b - d).abs() < 1e-5, "{found:?} {expected:?}");
            }
            for silu in [false, true] {
                let y = gpu.forward_with(&on_device, &expected, silu)?;
                close("given", &y, &cpu.forward_with(&x, &expected, silu)?, 1e-4)?;
            }
        }
        Ok(())
    })
}

#[test]
fn group_norm_hands_on_nan() -> Result<()> {
    on_gpu("group_norm_hands_on_nan", |device| {
        let mut values = noise(&[2, 4, 6, 6], 1)?.flatten_all()?.to_vec1::<f32>()?;
        values[100] = f32::NAN;
        let x = Tensor::from_vec(values, (2, 4, 6, 6), &Device::Cpu)?;
        let (weight, bias) = (noise(&[4], 2)?, noise(&[4], 3)?);
        let cpu = GroupNorm::new(weight.clone(), bias.clone(), 2, 1e-6)?;
        let gpu = GroupNorm::new(weight.to_device(device)?, bias.to_device(device)?, 2, 1e-6)?;
        close("NaN", &gpu.forward_silu(&x.to_device(device)?)?, &cpu.forward_silu(&x)?, 1e-4)
    })
}
