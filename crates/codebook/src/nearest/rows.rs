//! A contiguous matrix on the CPU, by its rows.

use candle_core::{Layout, Result, bail};

/// A row-major matrix of at least one column.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a, T> {
    values: &'a [T],
    dim: usize,
}

impl<'a, T> Rows<'a, T> {
    /// The part of `storage` that `layout` describes.
    pub(super) fn new(storage: &'a [T], layout: &Layout) -> Result<Self> {
        let (_, dim) = layout.shape().dims2()?;
        match layout.contiguous_offsets() {
            Some((start, end)) if dim > 0 => Ok(Self::from_slice(&storage[start..end], dim)),
            _ => bail!("{}: {:?} is not contiguous, or has no columns", super::OP, layout.shape()),
        }
    }

    /// Rows of `dim` values each.
    pub(super) fn from_slice(values: &'a [T], dim: usize) -> Self {
        Self { values, dim }
    }

    pub(super) fn dim(&self) -> usize {
        self.dim
    }

    pub(super) fn len(&self) -> usize {
        self.values.len() / self.dim
    }

    pub(super) fn values(&self) -> &'a [T] {
        self.values
    }

    pub(super) fn row(&self, index: usize) -> &'a [T] {
        &self.values[index * self.dim..][..self.dim]
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &'a [T]> {
        self.values.chunks_exact(self.dim)
    }

    /// Rows `start..end`.
    pub(super) fn range(&self, start: usize, end: usize) -> Self {
        Self { values: &self.values[start * self.dim..end * self.dim], dim: self.dim }
    }
}
