use anyhow::Result;
use candle_core::{DType, Device, Tensor};

use super::*;
use crate::tiles::cover;

fn norm() -> Result<GroupNorm> {
    let values = |seed: f64| Tensor::arange(0_f32, 64.0, &Device::Cpu)?.affine(0.1, seed)?.sin();
    Ok(GroupNorm::new(values(0.3)?, values(0.7)?, 32, 1e-6)?)
}

fn feature_map(h: usize, w: usize) -> Result<Tensor> {
    let wave = Tensor::arange(0_f32, (64 * h * w) as f32, &Device::Cpu)?;
    Ok((wave.affine(0.37, 0.0)?.sin()? + wave.affine(3e-4, 0.0)?.cos()?)?.reshape((1, 64, h, w))?)
}

/// What tiles of a feature map at `scale` positions per cell become, assembled.
fn tiled(x: &Tensor, scale: usize, surveys: usize) -> Result<Tensor> {
    let (norm, shape) = (norm()?, x.dims4()?);
    let spans = |len: usize| cover(len / scale, 8, 2, 4);
    let (rows, columns) = (spans(shape.2)?, spans(shape.3)?);
    assert!(rows.len() > 2 && columns.len() > 2);
    let mut shared = TileStatistics::default();
    for round in 0..=surveys {
        let mut bands = Vec::new();
        for row in &rows {
            let mut band = Vec::new();
            for column in &columns {
                let (h, w) = (row.cells.len() * scale, column.cells.len() * scale);
                let tile = x.narrow(2, row.cells.start * scale, h)?.narrow(
                    3,
                    column.cells.start * scale,
                    w,
                )?;
                shared.begin(row, column, round == surveys);
                let y = shared.group_norm(&norm, &tile, false)?;
                band.push(owned_part(&y, &[row.clone(), column.clone()])?);
            }
            bands.push(Tensor::cat(&band, 3)?);
        }
        if round == surveys {
            return Ok(Tensor::cat(&bands, 2)?);
        }
        assert!(shared.settle());
    }
    anyhow::bail!("no round")
}

#[test]
fn a_norm_of_tiles_after_a_survey_is_that_of_the_whole() -> Result<()> {
    for scale in [1, 2] {
        let x = feature_map(21 * scale, 30 * scale)?;
        let whole = norm()?.forward(&x)?;
        golden::close("surveyed", &tiled(&x, scale, 1)?, &whole, 2e-5)?;
        golden::close("surveyed twice", &tiled(&x, scale, 2)?, &whole, 2e-5)?;
        let apart = (tiled(&x, scale, 0)? - whole)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(apart > 1e-2, "{apart}");
    }
    Ok(())
}

#[test]
fn norms_that_come_in_another_order_are_refused() -> Result<()> {
    let (x, span) = (feature_map(8, 8)?, Span::whole(8, 4));
    let small = GroupNorm::new(
        Tensor::ones(32, DType::F32, &Device::Cpu)?,
        Tensor::zeros(32, DType::F32, &Device::Cpu)?,
        16,
        1e-6,
    )?;
    let mut shared = TileStatistics::default();
    shared.begin(&span, &span, false);
    shared.group_norm(&norm()?, &x, true)?;
    assert!(shared.settle());
    shared.begin(&span, &span, true);
    assert!(shared.group_norm(&small, &x.narrow(1, 0, 32)?.contiguous()?, true).is_err());
    assert!(shared.group_norm(&norm()?, &x, true).is_err(), "one norm too many");
    shared.begin(&span, &span, true);
    assert!(shared.group_norm(&norm()?, &feature_map(9, 9)?, true).is_ok());
    shared.begin(&span, &span, false);
    assert!(shared.group_norm(&norm()?, &feature_map(9, 9)?, true).is_err());
    Ok(())
}
