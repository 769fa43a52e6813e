use candle_core::{DType, Device, Module, Result, Tensor, Var};

use super::super::tests::{assert_close, noise};
use super::super::winograd::Extras;
use super::super::{Conv2d, Conv2dConfig, Padding, narrow};
use super::{Geometry, Weight};
use crate::group_norm::{GroupNorm, NormSilu};
use crate::isa::Isa;

fn tensor(dims: &[usize], seed: f32) -> Result<Tensor> {
    Tensor::from_vec(noise(dims.iter().product(), seed), dims, &Device::Cpu)
}

fn norm(channels: usize, groups: usize) -> Result<GroupNorm> {
    GroupNorm::new(tensor(&[channels], 5.0)?, tensor(&[channels], 6.0)?, groups, 1e-6)
}

fn conv(inputs: usize, outputs: usize, stride: usize, dtype: DType) -> Result<Conv2d> {
    let weight = tensor(&[outputs, inputs, 3, 3], 2.0)?.to_dtype(dtype)?;
    let padding = if stride == 1 {
        Padding::same(1)
    } else {
        Padding { bottom: 1, right: 1, ..Padding::ZERO }
    };
    Ok(Conv2d::new(weight, Some(tensor(&[outputs], 3.0)?), Conv2dConfig { stride, padding }))
}

fn numbers(x: &Tensor) -> Result<Vec<u32>> {
    Ok(x.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect())
}

/// In one pass and in two: the same numbers.
fn compare(name: &str, conv: &Conv2d, x: &NormSilu) -> Result<()> {
    let between = x.compute()?;
    let plain = conv.forward(&between)?;
    assert_eq!(numbers(&conv.forward_normed(x, None)?)?, numbers(&plain)?, "{name}");
    let residual = tensor(plain.dims(), 9.0)?;
    let fused = conv.forward_normed(x, Some(&residual))?;
    let plain = conv.forward_add(&between, &residual)?;
    assert_eq!(numbers(&fused)?, numbers(&plain)?, "{name} and a residual");
    Ok(())
}

#[test]
fn a_norm_is_done_while_the_convolution_reads() -> Result<()> {
    // To few channels, by tiles where there are any and weights are bf16, and where there is no
    // such pass; rows and tiles that are not full.
    let cases = [
        (2, 36, 40, (9, 21), 1),
        (1, 64, 32, (50, 64), 1),
        (2, 132, 130, (10, 12), 2),
        (2, 36, 3, (20, 37), 1),
        (1, 32, 1, (5, 5), 1),
        (2, 8, 24, (9, 9), 1),
        (1, 64, 33, (16, 16), 2),
    ];
    for (dtype, pairs) in
        [(DType::F32, false), (DType::F32, true), (DType::F16, false), (DType::BF16, false)]
    {
        for (batch, inputs, outputs, (h, w), stride) in cases {
            let name = format!("{dtype:?} {pairs} {batch} {inputs} {outputs} {h} {w} {stride}");
            let (mut conv, x) =
                (conv(inputs, outputs, stride, dtype)?, tensor(&[batch, inputs, h, w], 1.0)?);
            if pairs {
                conv.allow_pairs();
            }
            let norm = norm(inputs, 4)?;
            compare(&name, &conv, &norm.silu_of(&x, None))?;
            let given = norm.moments(&tensor(&[1, inputs, 7, 3], 4.0)?)?;
            compare(&format!("{name}, given moments"), &conv, &norm.silu_of(&x, Some(given)))?;
            let apart = x.transpose(2, 3)?;
            compare(&format!("{name}, not contiguous"), &conv, &norm.silu_of(&apart, None))?;
        }
    }
    Ok(())
}

#[test]
fn instruction_sets_norm_alike() -> Result<()> {
    let (x, conv, norm) =
        (tensor(&[2, 44, 11, 30], 1.0)?, conv(44, 3, 1, DType::F32)?, norm(44, 4)?);
    let g = Geometry::new(x.shape(), conv.weight.shape(), conv.config)?;
    let pending = norm.silu_of(&x, None);
    let channels = pending.channels()?.expect("f32 on a CPU");
    let between = pending.compute()?.flatten_all()?.to_vec1::<f32>()?;
    let x = x.flatten_all()?.to_vec1::<f32>()?;
    let weight = conv.weight.flatten_all()?.to_vec1::<f32>()?;
    for isa in Isa::with_portable() {
        let run = |x: &[f32], norm| {
            let extras = Extras { norm, ..Extras::default() };
            narrow::forward(isa, &g, x, Weight::plain(&weight), extras)
        };
        let (fused, plain) = (run(&x, Some(&channels)), run(&between, None));
        assert_close(&format!("{isa:?}"), &fused, &plain);
    }
    Ok(())
}

#[test]
fn gradients_and_misfits_go_the_slow_way() -> Result<()> {
    let (conv, norm) = (conv(32, 32, 1, DType::F32)?, norm(32, 4)?);
    let x = Var::from_tensor(&tensor(&[1, 32, 8, 8], 1.0)?)?;
    let y = conv.forward_normed(&norm.silu_of(&x, None), None)?;
    assert!(y.sum_all()?.backward()?.get(&x).is_some());
    let other = tensor(&[1, 31, 8, 8], 1.0)?;
    assert!(conv.forward_normed(&norm.silu_of(&other, None), None).is_err());
    let x = x.as_detached_tensor();
    let residual = tensor(&[1, 32, 8, 7], 1.0)?;
    assert!(conv.forward_normed(&norm.silu_of(&x, None), Some(&residual)).is_err());
    let few = GroupNorm::new(tensor(&[8], 5.0)?, tensor(&[8], 6.0)?, 2, 1e-6)?;
    let given = few.moments(&tensor(&[1, 8, 4, 4], 1.0)?)?;
    assert!(conv.forward_normed(&norm.silu_of(&x, Some(given)), None).is_err());
    let none = tensor(&[0, 32, 8, 8], 1.0)?;
    assert_eq!(conv.forward_normed(&norm.silu_of(&none, None), None)?.dims(), [0, 32, 8, 8]);
    Ok(())
}

#[test]
fn nan_is_normed_to_nan() -> Result<()> {
    let (conv, norm) = (conv(32, 3, 1, DType::F32)?, norm(32, 4)?);
    let mut x = noise(32 * 64, 1.0);
    x[3 * 64 + 10] = f32::NAN;
    let x = Tensor::from_vec(x, (1, 32, 8, 8), &Device::Cpu)?;
    let y = conv.forward_normed(&norm.silu_of(&x, None), None)?;
    // The whole group is, and all outputs read one of it.
    assert!(y.flatten_all()?.to_vec1::<f32>()?.into_iter().all(f32::is_nan));
    Ok(())
}

/// A weight that is loaded is packed once; one that is learned is read anew.
#[test]
fn a_weight_that_changes_is_seen() -> Result<()> {
    let (x, first) = (tensor(&[1, 32, 24, 24], 1.0)?, tensor(&[48, 32, 3, 3], 2.0)?);
    let config = Conv2dConfig { stride: 2, ..Conv2dConfig::same(3) };
    let var = Var::from_tensor(&first)?;
    let learned = Conv2d::new(var.as_tensor().clone(), None, config);
    let loaded = Conv2d::new(first.clone(), None, config);
    let near = |a: &Tensor, b: &Tensor| -> Result<bool> {
        Ok((a - b)?.abs()?.max_all()?.to_scalar::<f32>()? < 1e-4)
    };
    let before = loaded.forward(&x)?;
    assert!(near(&learned.forward(&x)?, &before)?);
    var.set(&(&first * 2.0)?)?;
    assert!(near(&learned.forward(&x)?, &(&before * 2.0)?)?);
    assert!(near(&loaded.clone().forward(&x)?, &before)?);
    // Inputs of other sizes share it.
    let wide = Tensor::cat(&[&x, &x], 3)?;
    assert!(near(&loaded.forward(&wide)?.narrow(3, 0, 11)?, &before.narrow(3, 0, 11)?)?);
    Ok(())
}

#[test]
fn pairs_are_for_what_has_no_gradient() -> Result<()> {
    let (plain, x) = (conv(64, 3, 1, DType::F32)?, tensor(&[2, 64, 12, 17], 1.0)?);
    let mut paired = plain.clone();
    paired.allow_pairs();
    let (exact, near) = (plain.forward(&x)?, paired.forward(&x)?);
    let all = |y: &Tensor| y.flatten_all()?.to_vec1::<f32>();
    assert_close("pairs", &all(&near)?, &all(&exact)?);
    // Where there are tiles the two are not the same.
    assert_eq!(numbers(&near)? != numbers(&exact)?, simd::tiles::are_available());
    let doubled = crate::upsample_nearest2x(&x)?;
    let (fused, apart) = (paired.forward_upsampled(&x)?, paired.forward(&doubled)?);
    assert_eq!(numbers(&fused)?, numbers(&apart)?);

    let x = Var::from_tensor(&x)?.into_inner();
    assert_eq!(numbers(&paired.forward(&x)?)?, numbers(&plain.forward(&x)?)?);
    Ok(())
}
