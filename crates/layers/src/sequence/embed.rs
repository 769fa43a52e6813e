//! Rows of a table.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use crate::cpu;
use crate::shared_mut::SharedMut;
use crate::tape::Tape;

/// Columns of a task.
const COLUMNS: usize = 64;

/// The rows `tokens` `[..]` (u32, all below V) of `table` `[V, C]`: `[.., C]`, on a tape
/// whose first layer this is.
///
/// # Errors
/// When a token has no row, or the table was computed from variables. On an NVIDIA GPU
/// tokens are not looked at, so as not to wait for them: one without a row gives NaN.
pub fn embed_taped(tokens: &Tensor, table: &Tensor, tape: &mut Tape) -> Result<Tensor> {
    let (len, width) = table.dims2()?;
    let flat = tokens.flatten_all()?;
    #[cfg(feature = "cuda")]
    if crate::cuda::supports(&[table]) && tokens.device().is_cuda() {
        return on_gpu(tokens, &flat, table, tape);
    }
    let rows = flat.to_vec1::<u32>()?;
    if let Some(token) = rows.iter().find(|&&token| token as usize >= len) {
        candle_core::bail!("embedding: token {token} has no row in a table of {len}")
    }
    let mut shape = tokens.dims().to_vec();
    shape.push(width);
    let y = table.detach().embedding(&flat)?.reshape(shape)?;
    if tape.wants(table)? {
        let table = table.clone();
        tape.push(move |dy, _, gradients| {
            let dy = dy.reshape((rows.len(), width))?;
            gradients.add(&table, scatter(&rows, &dy, (len, width))?)?;
            Ok(None)
        });
    }
    Ok(y)
}

/// The same on an NVIDIA GPU, which is not waited for.
#[cfg(feature = "cuda")]
fn on_gpu(tokens: &Tensor, flat: &Tensor, table: &Tensor, tape: &mut Tape) -> Result<Tensor> {
    let (len, width) = table.dims2()?;
    let mut shape = tokens.dims().to_vec();
    shape.push(width);
    let y = super::cuda::embed(&table.detach(), flat)?.reshape(shape)?;
    if tape.wants(table)? {
        let (table, flat) = (table.clone(), flat.clone());
        tape.push(move |dy, _, gradients| {
            let dy = dy.reshape((flat.elem_count(), width))?;
            gradients.add(&table, super::cuda::embed_back(&dy, &flat, len)?)?;
            Ok(None)
        });
    }
    Ok(y)
}

/// The sums of those rows of `dy` `[R, C]` that came from each row of a table.
fn scatter(rows: &[u32], dy: &Tensor, (len, width): (usize, usize)) -> Result<Tensor> {
    if !cpu::supports(dy) {
        let rows = Tensor::new(rows, dy.device())?;
        return Tensor::zeros((len, width), dy.dtype(), dy.device())?.index_add(&rows, dy, 0);
    }
    let sums = cpu::with_slices([dy], |[dy]| {
        let mut sums = vec![0f32; len * width];
        let target = SharedMut::new(&mut sums);
        (0..width.div_ceil(COLUMNS)).into_par_iter().for_each(|block| {
            let first = block * COLUMNS;
            let count = COLUMNS.min(width - first);
            for (&row, dy) in rows.iter().zip(dy.chunks_exact(width)) {
                // SAFETY: columns of this task alone.
                let sums = unsafe { target.slice(row as usize * width + first, count) };
                sums.iter_mut().zip(&dy[first..]).for_each(|(sum, dy)| *sum += dy);
            }
        });
        sums
    })?;
    Tensor::from_vec(sums, (len, width), dy.device())
}

/// `x` `[B, T, C]` with the first T of `positions` `[1, L, C]` added, on a tape.
///
/// # Errors
/// When there are fewer positions, or they were computed from variables.
pub fn add_positions_taped(x: &Tensor, positions: &Tensor, tape: &mut Tape) -> Result<Tensor> {
    let (_, len, _) = x.dims3()?;
    let y = x.broadcast_add(&positions.detach().narrow(1, 0, len)?)?;
    let positions = tape.wants(positions)?.then(|| positions.clone());
    tape.push(move |dy, plus, gradients| {
        if let Some(positions) = positions {
            let sums = sum_over_batch(dy)?;
            let rest = positions.dim(1)? - len;
            gradients.add(&positions, sums.pad_with_zeros(1, 0, rest)?)?;
        }
        crate::tape::sum(dy.clone(), plus).map(Some)
    });
    Ok(y)
}

/// `[B, T, C]` to `[1, T, C]`.
fn sum_over_batch(dy: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if crate::cuda::supports(&[dy]) {
        let (batch, len, width) = dy.dims3()?;
        let rows = dy.reshape((batch, len * width))?;
        return super::cuda::column_sums(&rows)?.reshape((1, len, width));
    }
    dy.sum_keepdim(0)
}
