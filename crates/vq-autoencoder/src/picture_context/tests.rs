use std::collections::HashMap;

use anyhow::Result;
use candle_core::{DType, Device, Module};
use candle_nn::VarBuilder;

use super::*;

fn wave(shape: &[usize], seed: f64) -> Result<Tensor> {
    let len = shape.iter().product::<usize>() as f32;
    let values = Tensor::arange(0_f32, len, &Device::Cpu)?.affine(0.73 + 0.01 * seed, seed)?.sin();
    Ok(values?.reshape(shape)?)
}

fn norm(channels: usize) -> Result<GroupNorm> {
    Ok(GroupNorm::new(wave(&[channels], 0.3)?, wave(&[channels], 0.7)?, 32, 1e-6)?)
}

fn attention() -> Result<AttnBlock> {
    let mut weights = HashMap::new();
    for (i, name) in ["norm", "q", "k", "v", "proj_out"].into_iter().enumerate() {
        let shape: &[usize] = if name == "norm" { &[32] } else { &[32, 32, 1, 1] };
        weights.insert(format!("{name}.weight"), wave(shape, i as f64)?);
        weights.insert(format!("{name}.bias"), wave(&[32], 10.0 + i as f64)?);
    }
    let vb = VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu);
    Ok(layers::attn_block(32, vb)?)
}

/// If the sample is the whole picture, each tile becomes what it is there.
#[test]
fn a_tile_becomes_what_it_is_in_the_sample() -> Result<()> {
    let x = (wave(&[1, 32, 12, 10], 1.0)? + wave(&[1, 32, 12, 10], 40.0)?.sqr()?)?;
    let (norm, attn) = (norm(32)?, attention()?);
    let mut picture = PictureContext::new();
    let layers = |x: &Tensor, picture: &mut PictureContext| {
        let x = picture.group_norm(&norm, x, true)?;
        let x = picture.attention(&attn, &x)?;
        picture.group_norm(&norm, &x, false)
    };
    let whole = layers(&x, &mut picture)?;
    let plain = norm.forward(&attn.forward(&norm.forward_silu(&x)?)?)?;
    golden::close("the sample itself", &whole, &plain, 0.0)?;
    for (top, left, h, w) in [(0, 0, 6, 5), (7, 3, 5, 7)] {
        picture.begin_tile();
        let tile = layers(&x.narrow(2, top, h)?.narrow(3, left, w)?, &mut picture)?;
        let expected = whole.narrow(2, top, h)?.narrow(3, left, w)?;
        golden::close("tile", &tile, &expected, 1e-5)?;
    }
    Ok(())
}

#[test]
fn layers_that_the_sample_did_not_pass_are_refused() -> Result<()> {
    let x = wave(&[1, 32, 4, 4], 1.0)?;
    let mut picture = PictureContext::new();
    picture.group_norm(&norm(32)?, &x, true)?;
    picture.begin_tile();
    picture.group_norm(&norm(32)?, &x, true)?;
    assert!(picture.group_norm(&norm(32)?, &x, true).is_err(), "one norm too many");
    picture.begin_tile();
    assert!(picture.attention(&attention()?, &x).is_err(), "an attention too many");
    Ok(())
}
