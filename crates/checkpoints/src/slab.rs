//! Where a tensor lies in a file, whatever the file's format.

use std::io::{self, Read};

use safetensors::Dtype;

/// The largest number of tensors in a file. A 1.4 billion parameter transformer
/// has about 800.
pub(crate) const MAX_TENSORS: usize = 1 << 17;
/// The largest number of dimensions of a tensor.
pub(crate) const MAX_RANK: usize = 16;
/// The largest number of elements that a view may have beyond those that are
/// stored: expanded dimensions (stride 0) cost nothing in the file, so they are
/// where a small file could ask for all memory.
const MAX_EXPANDED_ELEMENTS: u64 = 1 << 20;

/// A tensor's place in a file: `[start, start + bytes)` holds every element,
/// in row-major order or, with `strides`, in the order these give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slab {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    /// The first element's offset from the beginning of the file, in bytes.
    pub(crate) start: u64,
    /// In elements; `None` for row-major.
    pub(crate) strides: Option<Vec<usize>>,
}

/// A view into a storage as a checkpoint states it: nothing is checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) dtype: Dtype,
    /// In elements of the storage.
    pub(crate) offset: u64,
    pub(crate) shape: Vec<u64>,
    pub(crate) strides: Vec<u64>,
}

impl Slab {
    /// A row-major tensor.
    pub(crate) fn row_major(dtype: Dtype, shape: Vec<usize>, start: u64) -> Self {
        Self { dtype, shape, start, strides: None }
    }

    /// Checks that `view` stays within a storage of `bytes` bytes at `start`.
    /// The error is the reason alone.
    pub(crate) fn from_view(view: &View, start: u64, bytes: u64) -> Result<Self, String> {
        let size = element_bytes(view.dtype).ok_or("its elements are smaller than a byte")?;
        let stored = bytes / size;
        if view.shape.len() != view.strides.len() || view.shape.len() > MAX_RANK {
            return Err(format!(
                "{} sizes and {} strides (at most {MAX_RANK} of both)",
                view.shape.len(),
                view.strides.len()
            ));
        }
        let overflow = || "its size overflows".to_string();
        let elements = view
            .shape
            .iter()
            .try_fold(1_u64, |n, &side| n.checked_mul(side))
            .ok_or_else(overflow)?;
        let span = span(&view.shape, &view.strides).ok_or_else(overflow)?;
        let end = view.offset.checked_add(span).ok_or_else(overflow)?;
        if end > stored {
            return Err(format!("it ends at element {end} of a storage that holds {stored}"));
        }
        if elements > stored.max(MAX_EXPANDED_ELEMENTS) {
            return Err(format!("it expands {stored} stored elements to {elements}"));
        }
        let narrow = |values: &[u64]| -> Result<Vec<usize>, String> {
            values.iter().map(|&v| usize::try_from(v).map_err(|_| overflow())).collect()
        };
        let (shape, strides) = (narrow(&view.shape)?, narrow(&view.strides)?);
        let strides = (!is_row_major(&shape, &strides)).then_some(strides);
        // Below `stored * size`, so neither product nor sum can overflow.
        Ok(Self { dtype: view.dtype, shape, start: start + view.offset * size, strides })
    }

    /// The number of elements.
    pub(crate) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The bytes of the elements in row-major order: `None` when they lie so in
    /// the file, else gathered from `reader`, which stands at `start`.
    pub(crate) fn gather(&self, reader: &mut dyn Read) -> io::Result<Option<Vec<u8>>> {
        let (Some(strides), Some(size)) = (&self.strides, element_bytes(self.dtype)) else {
            return Ok(None);
        };
        let (size, total) = (size as usize, self.elements());
        let wide = |values: &[usize]| values.iter().map(|&v| v as u64).collect::<Vec<_>>();
        let span = span(&wide(&self.shape), &wide(strides)).unwrap_or(0) as usize;
        let mut source = vec![0; span * size];
        reader.read_exact(&mut source)?;
        let mut gathered = Vec::with_capacity(total * size);
        let mut index = vec![0; self.shape.len()];
        for _ in 0..total {
            let at: usize = index.iter().zip(strides).map(|(i, s)| i * s * size).sum();
            gathered.extend_from_slice(&source[at..at + size]);
            for (digit, side) in index.iter_mut().zip(&self.shape).rev() {
                *digit += 1;
                if *digit < *side {
                    break;
                }
                *digit = 0;
            }
        }
        Ok(Some(gathered))
    }
}

/// The size of an element in bytes; `None` for types smaller than a byte.
pub(crate) fn element_bytes(dtype: Dtype) -> Option<u64> {
    let bits = dtype.bitsize() as u64;
    bits.is_multiple_of(8).then_some(bits / 8)
}

/// The elements from the first to the last of a view, both included.
fn span(shape: &[u64], strides: &[u64]) -> Option<u64> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape
        .iter()
        .zip(strides)
        .try_fold(1_u64, |span, (&side, &stride)| span.checked_add((side - 1).checked_mul(stride)?))
}

fn is_row_major(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1_usize;
    for (&side, &stride) in shape.iter().zip(strides).rev() {
        if side != 1 && stride != expected {
            return shape.contains(&0);
        }
        expected = expected.saturating_mul(side);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(offset: u64, shape: &[u64], strides: &[u64]) -> View {
        View { dtype: Dtype::U8, offset, shape: shape.to_vec(), strides: strides.to_vec() }
    }

    #[test]
    fn a_transposed_view_is_gathered() -> anyhow::Result<()> {
        let slab =
            Slab::from_view(&view(1, &[3, 2], &[1, 3]), 10, 7).map_err(anyhow::Error::msg)?;
        assert_eq!(slab.start, 11);
        let mut storage: &[u8] = &[1, 2, 3, 4, 5, 6];
        assert_eq!(slab.gather(&mut storage)?, Some(vec![1, 4, 2, 5, 3, 6]));
        Ok(())
    }

    #[test]
    fn a_row_major_view_is_read_as_it_lies() -> anyhow::Result<()> {
        let slab = Slab::from_view(&view(0, &[2, 1, 3], &[3, 99, 1]), 0, 300)
            .map_err(anyhow::Error::msg)?;
        assert_eq!(slab.strides, None);
        Ok(())
    }

    #[test]
    fn views_beyond_their_storage_are_refused() {
        for bad in [
            view(0, &[2, 3], &[3, 1]),
            view(1, &[5], &[1]),
            view(u64::MAX, &[1], &[1]),
            view(0, &[u64::MAX, u64::MAX], &[0, 0]),
            view(0, &[2], &[u64::MAX]),
            view(0, &[1 << 30], &[0]),
            view(0, &[2, 2], &[1]),
            view(0, &[1; 17], &[1; 17]),
        ] {
            assert!(Slab::from_view(&bad, 0, 5).is_err(), "{bad:?}");
        }
        assert!(Slab::from_view(&view(0, &[0, 9], &[9, 1]), 0, 0).is_ok());
    }
}
