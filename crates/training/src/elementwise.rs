//! In-place updates over f32 slices, on all cores.
//!
//! An optimiser step touches every parameter a few times and allocates
//! nothing; candle's own element-wise ops would write a fresh buffer each, and
//! a first touch of memory costs more than the arithmetic.

use std::cell::Cell;

use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, InplaceOp3, Layout, Result, Tensor, bail};
use rayon::prelude::*;

/// Elements a thread takes at a time.
pub(crate) const CHUNK: usize = 1 << 14;

/// `y[i] <- f(y[i], x[i])`.
pub(crate) struct Zip2<F>(pub &'static str, pub F);

/// `y[i] <- f(y[i], a[i], b[i])`.
pub(crate) struct Zip3<F>(pub &'static str, pub F);

pub(crate) fn source<'a>(
    name: &str,
    storage: &'a CpuStorage,
    layout: &Layout,
) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => bail!("{name}: wants contiguous f32 tensors, got {layout:?}"),
    }
}

fn target<'a>(name: &str, storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&mut values[start..end]),
        _ => bail!("{name}: wants contiguous f32 tensors, got {layout:?}"),
    }
}

/// What `f` returns for the values of `tensor`, which it may change; `name` is for errors. Calls
/// may be nested, for different tensors.
pub(crate) fn in_place<R>(
    name: &'static str,
    tensor: &Tensor,
    f: impl FnOnce(&mut [f32]) -> Result<R>,
) -> Result<R> {
    let once = Once { name, f: Cell::new(Some(f)), result: Cell::new(None) };
    tensor.inplace_op1(&once)?;
    match once.result.into_inner() {
        Some(result) => Ok(result),
        None => bail!("{name}: nothing was done"),
    }
}

/// A function to be called once, and what it returned.
struct Once<F, R> {
    name: &'static str,
    f: Cell<Option<F>>,
    result: Cell<Option<R>>,
}

impl<R, F: FnOnce(&mut [f32]) -> Result<R>> InplaceOp1 for Once<F, R> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, values: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let values = target(self.name, values, layout)?;
        if let Some(f) = self.f.take() {
            self.result.set(Some(f(values)?));
        }
        Ok(())
    }
}

impl<F: Fn(f32, f32) -> f32 + Sync> InplaceOp2 for Zip2<F> {
    fn name(&self) -> &'static str {
        self.0
    }

    fn cpu_fwd(
        &self,
        y: &mut CpuStorage,
        layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
    ) -> Result<()> {
        let (y, x) = (target(self.0, y, layout)?, source(self.0, x, x_layout)?);
        if y.len() != x.len() {
            bail!("{}: {} values against {}", self.0, y.len(), x.len());
        }
        y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = (self.1)(*y, x);
            }
        });
        Ok(())
    }
}

impl<F: Fn(f32, f32, f32) -> f32 + Sync> InplaceOp3 for Zip3<F> {
    fn name(&self) -> &'static str {
        self.0
    }

    fn cpu_fwd(
        &self,
        y: &mut CpuStorage,
        layout: &Layout,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<()> {
        let y = target(self.0, y, layout)?;
        let (a, b) = (source(self.0, a, a_layout)?, source(self.0, b, b_layout)?);
        if y.len() != a.len() || y.len() != b.len() {
            bail!("{}: {} values against {} and {}", self.0, y.len(), a.len(), b.len());
        }
        let sources = a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK));
        y.par_chunks_mut(CHUNK).zip(sources).for_each(|(y, (a, b))| {
            for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
                *y = (self.1)(*y, a, b);
            }
        });
        Ok(())
    }
}
