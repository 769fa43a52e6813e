//! How likely given codes are under a model.

use candle_core::{D, Tensor};
use codebook::CodeGrid;

use crate::{Conditions, Error, NextCode, Result, Window, WindowConditions};

/// The nats (negative natural logarithm of the probability, over the whole
/// vocabulary, at temperature 1) of each of `codes` `[B, T]` (u32) under
/// `conditions`, given those before it: `[B, T]`. Their mean is the training loss.
///
/// # Errors
/// If codes do not fit the model, or a logit is NaN.
pub fn code_nats(
    model: &dyn NextCode,
    conditions: &Conditions,
    codes: &Tensor,
) -> Result<Vec<Vec<f32>>> {
    let (_, length) = codes.dims2()?;
    let positions = conditions.positions()? + length.saturating_sub(1);
    if length == 0 || positions > model.context() {
        return Err(Error::ContextFull {
            what: "the model's context",
            positions,
            limit: model.context(),
        });
    }
    let logits = model.logits_of_all(conditions, codes)?;
    let logs = candle_nn::ops::log_softmax(&logits, D::Minus1)?;
    let chosen = logs.gather(&codes.to_device(logs.device())?.unsqueeze(2)?.contiguous()?, 2)?;
    let nats = chosen.squeeze(2)?.neg()?.to_vec2::<f32>()?;
    for (sample, row) in nats.iter().enumerate() {
        if let Some(position) = row.iter().position(|nats| nats.is_nan()) {
            let what = crate::NoCode::NotFinite;
            return Err(Error::NoNextCode { sample, position, what });
        }
    }
    Ok(nats)
}

/// [`code_nats`] of a grid `[1, H, W]` of any size, row by row, each code seen as the
/// sliding window sees it when it is drawn. One pass for every place of the window.
///
/// # Errors
/// As [`code_nats`]; if the grid is smaller than the window, or the condition does
/// not fit it.
pub fn window_nats(
    model: &dyn NextCode,
    conditions: &WindowConditions,
    grid: &CodeGrid,
    window: Window,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<f32>> {
    let (batch, height, width) = grid.dims();
    window.validate((height, width))?;
    if batch != 1 {
        return Err(Error::Request(format!("{batch} grids to score; give one")));
    }
    let mut nats = vec![0.0; height * width];
    let mut done = 0;
    for top in 0..=height - window.height {
        for left in 0..=width - window.width {
            let cut = |codes: &Tensor| -> Result<Tensor> {
                let rows = codes.narrow(1, top, window.height)?;
                Ok(rows.narrow(2, left, window.width)?.contiguous()?.flatten_from(1)?)
            };
            let front = match conditions {
                WindowConditions::Fixed(conditions) => conditions.clone(),
                WindowConditions::Grid(condition) if condition.dims() == grid.dims() => {
                    Conditions::Tokens(cut(condition.codes())?)
                }
                WindowConditions::Scenes(scenes) => {
                    let told = scenes.tokens(0, window, (top, left), (height, width))?;
                    Conditions::tokens(&[told], model.device())?
                }
                WindowConditions::Grid(condition) => {
                    return Err(Error::Request(format!(
                        "a condition grid of {:?} for codes of {:?}",
                        condition.dims(),
                        grid.dims()
                    )));
                }
            };
            let inside = code_nats(model, &front, &cut(grid.codes())?)?;
            for (place, value) in inside.concat().into_iter().enumerate() {
                let (row, column) = (top + place / window.width, left + place % window.width);
                if window.top(row, height) == top && window.left(column, width) == left {
                    nats[row * width + column] = value;
                    done += 1;
                }
            }
            progress(done);
        }
    }
    Ok(nats)
}
